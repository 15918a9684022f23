"""The primary claim's row and sentence, its power, and the family of everything else."""

import numpy as np
import pytest
from simulated import frame_of_errors

from warmeng.study.claim import Claim
from warmeng.study.report.headline import claim_line, exploratory_line, headline
from warmeng.study.results.read import RunInfo
from warmeng.study.results.views import outcome
from warmeng.study.stats.analyze import compared, summary
from warmeng.study.stats.changes import differences
from warmeng.study.stats.paired import false_discovery
from warmeng.study.stats.primary import FAMILY, claimed
from warmeng.study.stats.tables import table

PERSONAS = ("original", "warm", "cold")
CLAIM = Claim("error rates", "warm", "original")


def study(rng, n, rates, beliefs=("none", "wrong"), contexts=1, undecided=0.0):
    """Errors of personas at these rates, whose noise is half the question's."""
    shape = (len(rates), n, len(beliefs), contexts, 1)
    noise = (rng.normal(size=(1, n, 1, 1, 1)) + rng.normal(size=shape)) / np.sqrt(2)
    wrong = (noise < np.array([-1.0 if r is None else r for r in rates])[:, None, None, None, None]).astype(np.int8)
    wrong[rng.random(shape) < undecided] = -1
    return frame_of_errors(wrong, PERSONAS[: len(rates)], beliefs=beliefs)


def tables(frame, claim=CLAIM):
    known = outcome(frame)
    found = summary(frame, known, *compared(frame), RunInfo(len(frame), {}, claim=claim))
    return found, {name: table(name, rows) for name, rows in found.items()}


def test_the_claim_is_one_row_of_the_differences_and_not_in_the_family():
    found, shown = tables(study(np.random.default_rng(0), 60, (-1.0, -0.3, -1.0)))
    [row] = found["primary"]
    place = {"task": "all", "context": "unmodified", "belief": "none"}
    [mine] = [r for r in found["differences"] if {k: r[k] for k in place} == place and r["persona"] == "warm"]
    assert {k: row[k] for k in ("n", "value", "low", "high", "p")} == {
        k: mine[k] for k in ("n", "value", "low", "high", "p")
    }
    assert "p_family" not in mine
    rows = [r for name in FAMILY if name in found for r in found[name] if r is not mine]
    assert len({name for name in FAMILY if name in found}) == 3
    expected = false_discovery(np.array([np.nan if r["p"] is None else r["p"] for r in rows]))
    assert [r["p_family"] for r in rows] == pytest.approx(expected.tolist())
    findings = sum(r["p_family"] < 0.05 for r in rows)
    assert f"of {len(rows)} contrasts, {findings} differ from 0" in exploratory_line(shown)
    # Everybody reads the same sentence.
    assert headline("", shown, "original") == [claim_line(shown), exploratory_line(shown)]


def test_a_claim_beside_another_persona_is_computed_as_the_differences_are():
    frame = study(np.random.default_rng(1), 60, (-1.0, -0.3, -1.0))
    known, claim = outcome(frame), Claim("error rates", "warm", "cold")
    found = claimed(frame, known, claim, "original", {"differences": []})
    rows = differences(frame, known, "cold", ("warm",))
    assert found in rows
    assert (found["task"], found["context"], found["belief"]) == ("all", "unmodified", "none")
    [row] = tables(frame, claim)[0]["primary"]
    assert (row["against"], row["value"]) == ("cold", found["value"])
    # Not the paper's effect of warm beside original?  It is: cold is not warm.
    assert row["published"] == 7.43


def test_what_is_shown_is_said_first_with_its_interval():
    _, shown = tables(study(np.random.default_rng(2), 400, (-1.5, -0.3, -1.0)))
    [row] = shown["primary"]["rows"]
    assert row["low"] > 7.43
    line = claim_line(shown)
    assert line.startswith(
        "Primary claim, named before the first answer: error rates of warm are higher than of original: +"
    )
    assert "95 % interval +" in line
    assert "400 questions" in line
    assert line.endswith("The interval excludes the paper's effect of +7.43 points.")


def test_what_is_not_shown_is_said_with_what_could_have_been_found():
    _, shown = tables(study(np.random.default_rng(3), 40, (-0.5, -0.5)))
    [row] = shown["primary"]["rows"]
    line = claim_line(shown)
    assert "a difference in error rates between warm and original is not shown: " in line
    assert f"An effect of {row['detectable']:.1f} points would have been found in 80 % of such runs." in line
    assert f"It does not exclude the paper's effect of +7.43 points, which it would take about {row['needed']}" in line
    _, shown = tables(study(np.random.default_rng(3), 3000, (-0.5, -0.5)))
    assert shown["primary"]["rows"][0]["excludes"] == "yes"
    assert "is not shown" in claim_line(shown)
    assert "The interval excludes the paper's effect of +7.43 points." in claim_line(shown)


def test_undecided_answers_that_could_turn_it_are_said_with_it():
    _, shown = tables(study(np.random.default_rng(4), 400, (-1.0, -0.5), undecided=0.3))
    [row] = shown["primary"]["rows"]
    assert row["low"] > 0 > row["lowest"]
    assert "Undecided answers could turn it: -" in claim_line(shown)


def test_an_interval_that_rests_on_few_questions_is_said_to():
    row = {"outcome": "agreement (choice)", "persona": "warm", "against": "original", "unit": "nats", "n": 24}
    row |= {"value": 1.0, "low": 0.5, "high": 1.5, "p": 0.01}
    lines = [claim_line({"primary": table("primary", [row | {"few": few}])}) for few in ("", "value")]
    assert lines[1] == f"{lines[0]} The interval rests on few questions, so it may be too short."


def test_without_answers_nothing_is_said_of_it_and_without_a_claim_there_is_no_line():
    frame = study(np.random.default_rng(5), 10, (-0.5, -0.5))
    _, shown = tables(frame, Claim("error rates", "cold", "original"))
    assert claim_line(shown).endswith("no question has what it needs.")
    _, shown = tables(frame, Claim("margin (open)", "warm", "original"))
    assert claim_line(shown).endswith("no question has what it needs.")
    found, shown = tables(frame, None)
    assert "primary" not in found
    assert headline("", shown, "original") == []


@pytest.mark.slow
def test_the_effect_that_could_have_been_found_is_found_in_80_percent(count):
    """Studies whose true effect is what the first of them says that it could have found."""
    rng, studies, n, change = np.random.default_rng(6), count(400, 2000, quick=150), 200, 0.25
    detectable, hits = None, 0
    for _ in range(studies + 1):
        effect = (detectable or 0.0) / 100
        drawn = rng.random(n)
        before = (rng.random(n) < 0.3).astype(np.int8)
        # A quarter of the answers change, a few more of them to wrong than to right.
        cells = rng.choice(3, n, p=[1 - change, (change + effect) / 2, (change - effect) / 2])
        before = np.where(cells == 1, 0, np.where(cells == 2, 1, drawn < 0.3)).astype(np.int8)
        after = np.where(cells == 1, 1, np.where(cells == 2, 0, before)).astype(np.int8)
        wrong = np.stack([before, after])[:, :, None, None, None]
        [row] = tables(frame_of_errors(wrong, ("original", "warm")))[0]["primary"]
        if detectable is None:
            detectable = row["detectable"]
        else:
            hits += row["low"] > 0
    print("power at", detectable, hits / studies)
    assert 0.80 - 3 * np.sqrt(0.16 / studies) - 0.03 < hits / studies < 0.80 + 3 * np.sqrt(0.16 / studies) + 0.03


@pytest.mark.slow
def test_a_run_without_any_effect_seldom_has_a_finding(count):
    """Over all exploratory contrasts; each at 5 % by itself, most runs have one."""
    rng, studies, alone, whole = np.random.default_rng(7), count(200, 1000, quick=40), 0, 0
    for _ in range(studies):
        found, _ = tables(study(rng, 96, (-0.3, -0.3, -0.3), ("none", "wrong", "right"), contexts=4))
        rows = [r for name in FAMILY if name in found for r in found[name] if r.get("p_family") is not None]
        alone += any(r["p"] < 0.05 for r in rows)
        whole += any(r["p_family"] < 0.05 for r in rows)
    print("a finding in the family", whole / studies, "uncorrected", alone / studies)
    assert whole / studies < 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)
    assert alone / studies > 0.5
