"""Two runs beside each other: what is told of them, pairs by hand, and runs that share no question."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from click.testing import CliRunner
from fakes import Heard
from records_folder import answer, run_folder

from warmeng.cli.main import warmeng
from warmeng.common.errors import InputError, UsageError
from warmeng.study.results.records import FILE, read_records
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings
from warmeng.study.stats.compare import compare, headline

SETTINGS = StudySettings(
    personas=("original", "warm-prompt"), tasks=("facts",), contexts=("unmodified",), limit=6, warmth_prompts=0,
    beliefs=("none", "wrong", "right", "mention-wrong", "mention-right"), asking=("open", "choice"),
)  # fmt: skip


def of(folder, wrong, questions=range(20)):
    """Write a run in which each persona is wrong on the named questions."""
    records = [
        answer(1000 * n + k + 1, persona, f"q{k}", "incorrect" if k in missed else "correct")
        for n, (persona, missed) in enumerate(wrong.items())
        for k in questions
    ]
    return run_folder(folder, records)


def agreement(folder, persona, questions):
    """Each question's agreement in the choice, in nats, from the records alone."""
    found = {}
    for r in read_records(folder / FILE):
        if r["kind"] == "margin" and r.get("asking") == "choice" and r["persona"] == persona:
            own = r["margin"]["right"]["own"] - r["margin"]["wrong"]["own"]
            found.setdefault((r["item"], r["belief"]), []).append(own)
    m = {place: sum(both) / 2 for place, both in found.items()}
    return [m[q, "right"] - m[q, "wrong"] - (m[q, "mention-right"] - m[q, "mention-wrong"]) for q in questions]


def row(found, table, **wanted):
    (only,) = (r for r in found["tables"][table]["rows"] if all(r[k] == v for k, v in wanted.items()))
    return only


@pytest.fixture
def two(fake, tmp_path):
    """Two runs of one design, the second by a model that agrees by 2 nats more with whoever claims something."""
    assert run_study(SETTINGS, tmp_path / "first", Heard(), "warmeng run").exit_code == 0
    before = fake.prefers

    def agreeing(prompt, label):
        claimed = "I think the answer is" in prompt and label.strip(" .\0") in prompt.rpartition("I think")[2]
        return before(prompt, label) + 1.0 * claimed

    fake.prefers, fake.weights = agreeing, "x" * 64
    settings = dataclasses.replace(SETTINGS, limit=8, seed=SETTINGS.seed)
    assert run_study(settings, tmp_path / "second", Heard(), "warmeng run").exit_code == 0
    return tmp_path / "first", tmp_path / "second"


def test_runs_of_one_design_are_paired(two):
    found = compare(*two)
    assert "limit: 6 in the first run, 8 in the second." in found["notes"]
    assert "Not the same in both runs: model." in found["notes"]
    assert any(note.startswith("0 answers of the first and 20 of the second run are") for note in found["notes"])
    questions = sorted({r["item"] for r in read_records(two[0] / FILE)})
    pairs = zip(*(agreement(folder, "original", questions) for folder in two), strict=True)
    shifts = [after - before for before, after in pairs]
    told = row(found, "run_margins", persona="original", outcome="agreement (choice)", against="")
    assert (told["n"], told["value"]) == (6, pytest.approx(sum(shifts) / 6))
    assert 1 < told["low"] < told["value"] < told["high"] < 2
    assert told["p"] < 1e-5
    contrast = row(found, "run_margins", persona="warm-prompt", outcome="agreement (choice)", against="original")
    assert contrast["value"] == pytest.approx(0, abs=1e-9)
    says = "original: agreement (choice) +1.69 nats in the second run minus the first (+1.61 to +1.79), 6 questions"
    assert says in headline(found)


def test_pairs_and_what_only_one_run_has(tmp_path):
    first = of(tmp_path / "1", {"original": {0, 1}, "warm": {0, 1, 2}})
    second = of(tmp_path / "2", {"original": {0, 1}, "warm": {0, 5, 6, 7}, "cold": set()}, range(18))
    found = compare(first, second)
    pooled = {"task": "all", "context": "all", "belief": "all"}
    warm = row(found, "run_answers", persona="warm", **pooled)
    assert (warm["n"], warm["b"], warm["c"], warm["changed"]) == (18, 3, 2, 5 / 18)
    assert {r["persona"] for r in found["tables"]["run_answers"]["rows"]} == {"original", "warm"}
    assert row(found, "run_contrasts", persona="warm", **pooled)["value"] == pytest.approx(100 / 18)
    assert "run_apart" not in found["tables"]


def test_runs_that_share_no_question_are_two_samples(tmp_path):
    first = of(tmp_path / "1", {"original": set(range(10))})
    second = of(tmp_path / "2", {"original": {20, 21}}, range(20, 40))
    found = compare(first, second)
    (told,) = found["tables"]["run_apart"]["rows"]
    # 10 of 20 and 2 of 20: Wilson's intervals are 29.9 to 70.1 and 2.8 to 30.1 percent.
    assert (told["first"], told["second"], told["value"]) == (0.5, 0.1, pytest.approx(-40.0))
    low = -40 - 100 * math.hypot(0.1 - 0.0279, 0.7007 - 0.5)
    high = -40 + 100 * math.hypot(0.3010 - 0.1, 0.5 - 0.2993)
    assert (told["low"], told["high"]) == (pytest.approx(low, abs=0.05), pytest.approx(high, abs=0.05))
    assert any(line.startswith("original: errors 50.0% of 20 answers, then 10.0% of 20") for line in headline(found))


def test_what_can_not_be_compared_is_refused(tmp_path):
    first = of(tmp_path / "1", {"original": {0}})
    with pytest.raises(UsageError, match="is given twice: give two runs"):
        compare(first, tmp_path / "2" / ".." / "1")
    with pytest.raises(InputError, match="no persona in common"):
        compare(first, of(tmp_path / "3", {"warm": {0}}))


def test_the_command_prints_lines_and_json_and_writes(tmp_path):
    runs = [str(of(tmp_path / name, {"original": {0}, "warm": {k}})) for k, name in enumerate("ab")]
    said = CliRunner().invoke(warmeng, ["compare", *runs, "--out", str(tmp_path / "out")])
    assert said.exit_code == 0, said.output
    assert "warm: 10.0% of the answers have another grade" in said.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["compare.json", "compare.md"]
    told = CliRunner().invoke(warmeng, ["compare", *runs, "--json"])
    assert json.loads(told.stdout) == json.loads((tmp_path / "out" / "compare.json").read_bytes())
