"""What undecided answers could change: by hand, against every way to fill them in, and by simulation."""

import itertools

import numpy as np
import pytest
from simulated import frame_of
from tiers import full

from warmeng.study.results.views import outcome
from warmeng.study.stats.changes import differences, mean_changes
from warmeng.study.stats.missing import change_bounds, missing_bounds, turning_share


def rec(persona, item, grade, task="t"):
    place = {"persona": persona, "belief": "none", "item": item, "task": task, "framing": "plain"}
    return place | {"grade": grade, "which": ""}


def rows_of(records, variants=("warm",)):
    frame = frame_of(records)
    rows = missing_bounds(frame, outcome(frame), "original", variants)
    return [row for row in rows if row["task"] == "all" and row["context"] == row["belief"] == "all"]


GRADES = {
    "original": ["correct", "correct", "unclear", "incorrect", "correct", "unscored"],
    "warm": ["incorrect", "unclear", "correct", "incorrect", "unclear", "incorrect"],
}
RECORDS = [rec(p, str(k), grade) for p, grades in GRADES.items() for k, grade in enumerate(grades)]


def test_bounds_are_those_of_every_way_to_fill_in_the_undecided():
    [row] = rows_of(RECORDS)
    fills = []
    gone = [(p, k) for p, grades in GRADES.items() for k, g in enumerate(grades) if g in ("unclear", "unscored")]
    for values in itertools.product((0, 1), repeat=len(gone)):
        put = dict(zip(gone, values, strict=True))
        wrong = {p: [put.get((p, k), int(g == "incorrect")) for k, g in enumerate(gs)] for p, gs in GRADES.items()}
        fills.append(100 * (np.mean(wrong["warm"]) - np.mean(wrong["original"])))
    assert (row["lowest"], row["highest"]) == pytest.approx((min(fills), max(fills)))
    assert (row["n"], row["missing_baseline"], row["missing"], row["more"]) == pytest.approx((6, 2 / 6, 2 / 6, 0.0))
    assert row["low"] < row["lowest"]
    assert row["high"] > row["highest"]
    # 1 of 4 decided are wrong, so 1.5 of 6; the variant has 3 already.
    assert row["turns"] is None


def test_the_share_that_turns_a_difference():
    # 30 of 100 of the baseline; 20 of 80 decided of the variant, so 10 of its 20 undecided ones.
    def share(lost, failed):
        return turning_share(100, np.array(lost, dtype=float), np.array(failed, dtype=float))

    assert share([0, 20], [30, 20]) == pytest.approx(0.5)
    assert share([50, 20], [15, 20]) == pytest.approx(0.5)
    assert share([0, 20], [30, 31]) is None
    assert share([0, 20], [50, 20]) is None
    assert share([10, 0], [50, 20]) is None


def test_without_undecided_answers_there_is_no_row_and_the_interval_is_that_of_differences():
    decided = [r for r in RECORDS if r["grade"] in ("correct", "incorrect")]
    whole = [r for r in decided if {q["persona"] for q in decided if q["item"] == r["item"]} == {"original", "warm"}]
    assert rows_of(whole) == []
    rng = np.random.default_rng(0)
    change, items = rng.integers(-1, 2, 60).astype(float), np.arange(60) // 2
    group = np.zeros(60, dtype=np.int64)
    one, other = change_bounds(group, change, change, items, 1), mean_changes(group, change, items, 1)
    assert (one.low[0], one.high[0]) == pytest.approx((other.low[0], other.high[0]), abs=1e-9)


def test_the_critical_value_is_imbens_and_manskis():
    from scipy.stats import norm

    rng = np.random.default_rng(1)
    group, items = np.zeros(80, dtype=np.int64), np.arange(80)
    low = rng.integers(-1, 1, 80).astype(float)
    for gap in (0.0, 0.02, 0.1, 1.0):
        high = low + (rng.random(80) < gap)
        found = change_bounds(group, low, high, items, 1)
        plain = [mean_changes(group, x, items, 1) for x in (low, high)]
        centres = [80 * x.value[0] / 82 for x in plain]
        errors = [(x.high[0] - x.low[0]) / 2 / norm.ppf(0.975) for x in plain]
        c = (centres[0] - found.low[0]) / errors[0]
        assert found.high[0] == pytest.approx(centres[1] + c * errors[1])
        width = (plain[1].value[0] - plain[0].value[0]) / max(errors)
        assert norm.cdf(c + width) - norm.cdf(-c) == pytest.approx(0.95, abs=1e-9)


def study(rng, n, wrong, undecided):
    """Questions with two answers each; ``undecided``: by persona, of right and of wrong answers."""
    hard = rng.normal(0.0, 1.0, n)
    grades = {}
    for persona, rate in wrong.items():
        p = 1 / (1 + np.exp(-(np.log(rate / (1 - rate)) + hard)))
        is_wrong = rng.random((2, n)) < p
        gone = rng.random((2, n)) < np.where(is_wrong, undecided[persona][1], undecided[persona][0])
        grades[persona] = np.where(gone, -1, is_wrong.astype(int))
    return grades


# A persona that hedges where it is wrong: nothing else differs, and differences of decided answers say otherwise.
HEDGES = {"original": (0.05, 0.5), "warm": (0.05, 0.75)}
# As bad as can be: all that is undecided of one is wrong, and right of the other.
WORST = {"original": (0.15, 0.0), "warm": (0.0, 0.3)}


@pytest.mark.parametrize(("undecided", "exact"), [(HEDGES, False), *full((WORST, True))])
def test_intervals_of_bounds_cover_where_those_of_decided_answers_do_not(undecided, exact, count):
    """The true difference is 0. Bounds are wide where the truth is between them, and cover 95 % where it is at one."""
    rng, studies, n = np.random.default_rng(2), count(300, 1000, quick=60), 300
    items, group = np.tile(np.arange(n), 2), np.zeros(2 * n, dtype=np.int64)
    bounds = naive = 0
    for _ in range(studies):
        found = study(rng, n, {"original": 0.3, "warm": 0.3}, undecided)
        before, after = (found[p].ravel() for p in ("original", "warm"))
        lowest, highest = (after == 1).astype(float) - (before != 0), (after != 0).astype(float) - (before == 1)
        b = change_bounds(group, lowest, highest, items, 1)
        bounds += b.low[0] <= 0.0 <= b.high[0]
        both = (before >= 0) & (after >= 0)
        d = mean_changes(group[both], (after - before)[both].astype(float), items[both], 1)
        naive += d.low[0] <= 0.0 <= d.high[0]
    print("bounds", bounds / studies, "decided alone", naive / studies)
    # Three standard errors of so many studies.
    slack = 3 * np.sqrt(0.95 * 0.05 / studies)
    assert bounds / studies >= 0.95 - slack
    assert not exact or bounds / studies <= 0.95 + slack
    assert naive / studies < 0.8


def test_it_is_a_table_of_every_analysis_beside_the_differences():
    frame = frame_of(RECORDS)
    [decided] = [
        r for r in differences(frame, outcome(frame), "original", ("warm",))
        if r["task"] == r["context"] == r["belief"] == "all"
    ]  # fmt: skip
    [row] = rows_of(RECORDS)
    assert row["lowest"] <= decided["value"] <= row["highest"]
