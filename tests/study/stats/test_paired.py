"""McNemar's exact test, false discoveries, flips and differences, against counts by hand and the authors' tables."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from simulated import Truth, frame_of_errors, simulate
from tiers import full

from warmeng.common.errors import InputError
from warmeng.study.grading.grade import GRADES
from warmeng.study.results.frame import Factor
from warmeng.study.results.views import outcome
from warmeng.study.stats.flips import differences_in_differences, flips
from warmeng.study.stats.paired import exact_p, false_discovery, flip_p, mcnemar
from warmeng.study.stats.shares import error_rates
from warmeng.study.stats.sycophancy import sycophancy
from warmeng.study.stats.units import pairs

TRUTH = Truth(
    task={"trivia": -1.0, "medqa": 0.2},
    persona={"original": 0.0, "warm": 0.6, "cold": -0.4},
    model={"a": 0.0, "b": 0.4},
    context={"emotion:sad": 0.2},
    belief={"wrong": 0.5, "doubt": 0.3},
    extra={("warm", "emotion:sad"): 0.4},
)


@pytest.fixture(scope="module")
def frame():
    beliefs = ("none", "wrong", "doubt")
    return simulate(
        np.random.default_rng(3), TRUTH, {"trivia": 30, "medqa": 20}, ("unmodified", "emotion:sad"), beliefs, 0.05
    )


def answers(frame):
    """Every answer by what it answers: (model, persona, item, context, belief) -> (grade, which)."""
    found = {}
    for i in range(len(frame)):
        key = tuple(
            getattr(frame, n).names[getattr(frame, n).codes[i]]
            for n in ("model", "persona", "item", "context", "belief")
        )
        found[key] = (GRADES[frame.grade[i]], ("", "user", "other")[frame.which[i]])
    return found


def tail(b, c):
    """Twice the binomial tail in whole numbers."""
    n = b + c
    return min(Fraction(1), Fraction(2 * sum(math.comb(n, k) for k in range(min(b, c) + 1)), 2**n))


@pytest.mark.parametrize(("b", "c"), [(0, 1), (1, 0), (3, 3), (0, 12), (21, 12), (9, 5), (40, 80), (500, 430)])
def test_exact_p_is_the_binomial_tail(b, c):
    assert exact_p(b, c) == pytest.approx(float(tail(b, c)), rel=1e-9)
    assert exact_p(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue, rel=1e-9)


def test_without_discordant_pairs_there_is_no_test():
    assert math.isnan(exact_p(0, 0))


def test_false_discovery_is_its_definition():
    rng = np.random.default_rng(0)
    for size in (1, 2, 9, 40):
        p = np.round(rng.random(size) ** 3, 2)
        adjusted = false_discovery(p)
        ordered = sorted(p)
        for value, got in zip(p, adjusted, strict=True):
            want = min(1.0, min(q * size / (ordered.index(q) + ordered.count(q)) for q in ordered if q >= value))
            assert got == pytest.approx(want, abs=1e-12)
    missing = false_discovery(np.array([0.01, np.nan, 0.04]))
    assert missing[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(missing[1])


def test_the_table_counts_pairs_as_by_hand(frame):
    found = answers(frame)
    rows = mcnemar(frame, outcome(frame), "original", ("warm", "cold"))
    assert len(rows) == 2 * 2 * 2 * 4 * 2  # variants, models, tasks, tables, contexts
    families = {}
    for row in rows:
        tables = {"wrong belief": ("wrong", "doubt")}.get(row["belief"], (row["belief"],))
        b = c = n = 0
        for (model, persona, item, context, belief), (grade, _) in found.items():
            place = (model, persona, item.split("/")[0], context)
            if place != (row["model"], row["variant"], row["task"], row["context"]) or belief not in tables:
                continue
            before = found[model, "original", item, context, belief][0]
            if {before, grade} <= {"correct", "incorrect"}:
                n += 1
                b += before == "correct" and grade == "incorrect"
                c += before == "incorrect" and grade == "correct"
        assert (row["n"], row["b"], row["c"]) == (n, b, c)
        assert row["difference"] == pytest.approx(100 * (c - b) / n)
        assert row["g"] == (pytest.approx(abs(b - c) / math.sqrt(b + c)) if b + c else None)
        assert row["cohens_g"] == (pytest.approx(max(b, c) / (b + c) - 0.5) if b + c else None)
        assert row["odds_ratio"] == (pytest.approx(b / c) if c else None)
        assert row["p_pairs"] == (pytest.approx(float(tail(b, c)), abs=1e-12) if b + c else None)
        assert row["questions"] == (n if len(tables) == 1 else row["questions"])
        if len(tables) == 1:  # one pair a question
            assert row["p"] == (pytest.approx(row["p_pairs"], abs=1e-12) if b + c else None)
        families.setdefault((row["model"], row["variant"], row["task"], row["belief"]), []).append(row)
    for family in families.values():
        check_family(family, "p_pairs", "p_pairs_fdr")
    check_family(rows, "p", "p_fdr")


def check_family(family, p, corrected):
    ordered = sorted(r[p] for r in family if r[p] is not None)
    for r in family:
        if r[p] is not None:
            want = min(1.0, min(q * len(ordered) / (k + 1) for k, q in enumerate(ordered) if q >= r[p]))
            assert r[corrected] == pytest.approx(want, abs=1e-12)


def test_flipping_questions_is_counted_over_every_sign():
    rng = np.random.default_rng(4)
    for size in (1, 2, 5, 9):
        net = rng.integers(-3, 4, size)
        signs = np.array(list(itertools.product((-1, 1), repeat=size)))
        want = np.mean(np.abs(signs @ net) >= abs(net.sum())) if net.any() else math.nan
        assert flip_p(net) == pytest.approx(want, nan_ok=True)
    for b, c in ((0, 1), (3, 3), (21, 12), (40, 80)):
        assert flip_p(np.array([-1] * b + [1] * c + [0] * 7)) == pytest.approx(exact_p(b, c), abs=1e-12)


# How far a question's own effect of the persona spreads, in logits; samples of each answer.
CLUSTERED = [(2.0, 5), *full((1.0, 5), (2.0, 2), (0.0, 1))]


@pytest.mark.parametrize(("spread", "samples"), CLUSTERED)
def test_several_pairs_of_a_question_do_not_make_a_persona_differ(spread, samples, count):
    """No mean effect, but each question has its own: over pairs McNemar's test rejects too often, flips do not."""
    rng, studies, n = np.random.default_rng(5), count(300, 2000, quick=120), 100
    naive = flipped = 0
    for _ in range(studies):
        own = spread * rng.normal(size=n)
        chance = 1 / (1 + np.exp(-(rng.normal(size=n) + np.array([-0.5, 0.5])[:, None] * own)))
        wrong = (rng.random((2, n, 1, 1, samples)) < chance[:, :, None, None, None]).astype(np.int8)
        frame = frame_of_errors(wrong, ("original", "warm"))
        [row] = mcnemar(frame, outcome(frame), "original", ("warm",))
        assert (row["n"], row["questions"]) == (n * samples, n)
        naive += row["p_pairs"] < 0.05
        flipped += row["p"] < 0.05
    print(spread, samples, "over pairs", naive / studies, "over questions", flipped / studies)
    slack = 3 * math.sqrt(0.05 * 0.95 / studies)
    assert flipped / studies < 0.05 + slack
    if samples == 5 and spread == 2.0:
        assert naive / studies > 0.08


@pytest.mark.parametrize("contexts", [2, *full(9)])
def test_a_table_without_any_effect_seldom_has_a_discovery(contexts, count):
    """Small families, one for each model, task and belief, each at 5 %, have one far more often."""
    rng, studies, n = np.random.default_rng(6), count(200, 1000, quick=50), 96
    small = whole = 0
    for _ in range(studies):
        ease = rng.normal(size=(1, n, 1, 1, 1))
        chance = np.broadcast_to(1 / (1 + np.exp(-ease)), (3, n, 4, contexts, 1))
        wrong = (rng.random(chance.shape) < chance).astype(np.int8)
        frame = frame_of_errors(wrong, ("original", "warm", "cold"), 4, ("none", "wrong", "right", "mention-wrong"))
        rows = mcnemar(frame, outcome(frame), "original", ("warm", "cold"))
        assert len(rows) == 2 * 4 * 4 * contexts
        small += any(r["p_pairs_fdr"] is not None and r["p_pairs_fdr"] < 0.05 for r in rows)
        whole += any(r["p_fdr"] is not None and r["p_fdr"] < 0.05 for r in rows)
    print(contexts, "in small families", small / studies, "in one", whole / studies)
    assert whole / studies < 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
    assert small / studies > 0.12


def test_the_neutral_framing_is_left_out_as_in_the_authors_tables(frame):
    plain = mcnemar(frame, outcome(frame), "original", ("warm",))
    neutral = replace(frame, framing=Factor(("neutral",), np.zeros(len(frame), dtype=np.int32)))
    both = Factor.of(["plain", "neutral"] * (len(frame) // 2) + ["plain"] * (len(frame) % 2))
    assert frame.framing.names == ("plain",)
    assert len(plain) == 32
    assert mcnemar(neutral, outcome(frame), "original", ("warm",)) == []
    of_plain = np.flatnonzero(both.is_("plain"))
    mixed = replace(frame, framing=both)
    part = mixed.take(of_plain)
    assert mcnemar(mixed, outcome(mixed), "original", ("warm",)) == mcnemar(part, outcome(part), "original", ("warm",))


def test_flips_are_counted_as_by_hand(frame):
    found = answers(frame)
    rows = flips(frame, "original", ("warm",))
    for context, belief in (("all", "all"), ("all", "wrong"), ("emotion:sad", "none"), ("unmodified", "all")):
        counts = {}
        for (model, persona, item, c, b), after in found.items():
            if persona == "warm" and context in ("all", c) and belief in ("all", b):
                before = found[model, "original", item, c, b]
                names = tuple(x[1] if x[0] == "incorrect" else x[0] for x in (before, after))
                counts[names] = counts.get(names, 0) + 1
        head = ("all", "all", context, belief)
        mine = {
            (r["from"], r["to"]): r
            for r in rows
            if (r["model"], r["task"], r["context"], r["belief"]) == head and r["variant"] == "warm"
        }
        assert {k: r["n"] for k, r in mine.items() if r["n"]} == counts
        assert {to for source, to in mine if source == "correct"} == {
            "correct", "user", "other", "refusal", "unclear", "unscored",
        }  # fmt: skip
        for (source, _), row in mine.items():
            total = sum(n for (a, _), n in counts.items() if a == source)
            assert row["share"] == pytest.approx(row["n"] / total)


def test_a_wrong_answer_of_unknown_kind_is_not_counted_as_none_of_the_users(frame):
    from dataclasses import replace

    untold = replace(frame, which=np.zeros_like(frame.which))
    rows = [r for r in flips(untold, "original", ("warm",)) if r["from"] == "correct" and r["belief"] == "wrong"]
    assert {"incorrect"} <= {r["to"] for r in rows}
    assert not {"user", "other"} & {r["to"] for r in rows}
    assert {r["value"] for r in sycophancy(untold)} == {None}


def test_sycophancy_counts_what_was_right_before(frame):
    found = answers(frame)
    rows = sycophancy(frame)
    for row in rows:
        if "all" in (row["context"], row["model"]) or row["task"] != "all":
            continue
        hits = []
        for (model, persona, item, context, belief), (grade, which) in found.items():
            if (model, persona, context, belief) != (row["model"], row["persona"], row["context"], "wrong"):
                continue
            if found[model, persona, item, context, "none"][0] == "correct" and grade != "unscored":
                hits.append(which == "user")
        assert row["n"] == len(hits)
        assert row["value"] == pytest.approx(np.mean(hits))
        assert row["low"] < row["value"] < row["high"]


def test_differences_in_differences_as_by_hand(frame):
    found = answers(frame)
    rows = differences_in_differences(frame, outcome(frame), "original", ("warm", "cold"))
    wrong = {"correct": 0, "incorrect": 1}
    values = {"persona": {}, "belief": {}}
    for model, persona, item, context, belief in found:
        if persona != "warm" or context != "emotion:sad" or belief != "wrong":
            continue
        three = [found[model, p, item, context, belief][0] for p in ("original", "warm", "cold")]
        if set(three) <= set(wrong):
            start, warm, cold = (wrong[g] for g in three)
            values["persona"].setdefault(item, []).append((warm - start) - (cold - start))
        four = [found[model, p, item, context, b][0] for p in ("warm", "original") for b in ("wrong", "none")]
        if set(four) <= set(wrong):
            a, b, c, d = (wrong[g] for g in four)
            values["belief"].setdefault(item, []).append((a - b) - (c - d))
    for kind, against, belief in (("persona", "cold", "wrong"), ("belief", "original", "wrong - none")):
        (row,) = [
            r
            for r in rows
            if (r["kind"], r["variant"], r["against"], r["context"], r["belief"])
            == (kind, "warm", against, "emotion:sad", belief)
        ]
        assert row["n"] == len(values[kind])
        assert row["value"] == pytest.approx(100 * np.mean([np.mean(x) for x in values[kind].values()]))
        assert row["low"] < row["value"] < row["high"]
    assert [r for r in rows if r["kind"] == "context" and r["context"] == "emotion:sad - unmodified"]


def test_pairs_have_the_same_question_and_twice_the_same_is_refused(frame):
    left, right = pairs(frame, "original", "warm")
    assert len(left) == len(frame) / 3
    for name in ("model", "item", "context", "belief"):
        codes = getattr(frame, name).codes
        assert (codes[left] == codes[right]).all()
    twice = frame.take(np.r_[np.arange(len(frame)), 0])
    with pytest.raises(InputError, match="two answers with the same question"):
        pairs(twice, "original", "warm")


def test_error_rates_pool_by_every_margin(frame):
    rows = error_rates(frame, outcome(frame))
    found = answers(frame)
    for row in rows:
        mine = [
            g
            for (model, persona, item, context, belief), (g, _) in found.items()
            if row["model"] in ("all", model)
            and row["persona"] == persona
            and row["task"] in ("all", item.split("/")[0])
            and row["context"] in ("all", context)
            and row["belief"] in ("all", belief)
        ]
        for grade in GRADES:
            assert row[grade] == mine.count(grade)
        assert row["n"] == mine.count("correct") + mine.count("incorrect")
        assert row["error"] == pytest.approx(mine.count("incorrect") / row["n"])
    assert len(rows) == 3 * 3 * 3 * 3 * 4
