"""Shares and paired changes against formulas written another way, and against simulation."""

import math
import random

import numpy as np
import pytest
from scipy import optimize, stats
from simulated import frame_of
from statsmodels.stats.proportion import proportion_confint

from warmeng.study.results.read import RunInfo
from warmeng.study.results.views import outcome
from warmeng.study.stats.analyze import compared, summary
from warmeng.study.stats.changes import mean_changes
from warmeng.study.stats.intervals import pairs_needed, smallest_effect, wilson
from warmeng.study.stats.shares import clustered_shares


def share(hits, items=None):
    """The share of one group with its interval; an item a hit unless told."""
    hits = np.asarray(hits, dtype=float)
    items = np.arange(len(hits)) if items is None else np.asarray(items)
    found = clustered_shares(np.zeros(len(hits), dtype=np.int64), hits, items, 1)
    return int(found.n[0]), float(found.value[0]), float(found.low[0]), float(found.high[0])


def plain_share(pairs):
    """The same in plain Python: ``pairs`` are (item, hit)."""
    n, m = len(pairs), len({item for item, _ in pairs})
    p = sum(hit for _, hit in pairs) / n
    sums = {}
    for item, hit in pairs:
        k, size = sums.get(item, (0, 0))
        sums[item] = (k + hit, size + 1)
    effective = n
    if 1 < m < n and 0 < p < 1:
        variance = m / (m - 1) * sum((k - p * size) ** 2 for k, size in sums.values()) / n**2
        if variance > 0:
            effective = min(n, max(m, p * (1 - p) / variance))
    elif m < n:
        effective = m
    return (n, p, *wilson(p * effective, effective))


def change(before, after, items=None):
    """The mean paired change of one group with its interval."""
    items = np.arange(len(before)) if items is None else np.asarray(items)
    moved = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    found = mean_changes(np.zeros(len(moved), dtype=np.int64), moved, items, 1)
    return int(found.n[0]), float(found.value[0]), float(found.low[0]), float(found.high[0])


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 30), (7, 24), (12, 24), (95, 96), (96, 96)])
def test_wilson_is_where_the_score_test_just_rejects(k, n):
    low, high = wilson(k, n)
    for bound in (low, high):
        if 0 < bound < 1 and abs(bound - k / n) > 1e-9:
            z = (k / n - bound) / math.sqrt(bound * (1 - bound) / n)
            assert abs(abs(z) - stats.norm.ppf(0.975)) < 1e-6
    assert (low, high) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-9)


def test_one_answer_an_item_has_the_plain_interval():
    assert share([1, 1, 0, 1, 0]) == pytest.approx((5, 0.6, *wilson(3, 5)))
    assert math.isnan(share([])[1])


def test_samples_of_one_item_are_not_independent():
    found = share([1, 1, 0, 1] * 3, [0, 1, 2, 3] * 3)
    assert found[0] == 12
    assert found[2:] == pytest.approx(wilson(3, 4), abs=1e-9)
    rng = random.Random(0)
    wide = share([rng.random() < 0.5 for _ in range(600)], [k // 3 for k in range(600)])
    assert 0.06 < wide[3] - wide[2] < 0.11  # 600 independent answers: 0.08
    assert share([1] * 9, [0] * 9)[2] == pytest.approx(wilson(1, 1)[0])


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_those_of_the_formula_in_plain_python(seed):
    rng = random.Random(seed)
    groups, pairs = rng.randint(1, 5), []
    for _ in range(rng.randint(1, 200)):
        item = rng.randint(0, 30)
        pairs.append((rng.randrange(groups), item, rng.random() < rng.choice([0.0, 0.2, 0.9, 1.0])))
    group, item, hit = (np.array(column) for column in zip(*pairs, strict=True))
    found = clustered_shares(group, hit.astype(float), item, groups)
    for k in range(groups):
        mine = [(i, h) for g, i, h in pairs if g == k]
        if mine:
            got = (found.n[k], found.value[k], found.low[k], found.high[k])
            assert got == pytest.approx(plain_share(mine), abs=1e-12)


def test_paired_change_against_bonett_and_price_by_counts():
    before = [1] * 10 + [1] * 6 + [0] * 2 + [0] * 12
    after = [1] * 10 + [0] * 6 + [1] * 2 + [0] * 12
    found = change(before, after)
    n, b, c = 30, 6, 2
    p12, p21 = (b + 1) / (n + 2), (c + 1) / (n + 2)
    half = stats.norm.ppf(0.975) * math.sqrt((p12 + p21 - (p21 - p12) ** 2) / (n + 2))
    assert found == pytest.approx((n, (c - b) / n, p21 - p12 - half, p21 - p12 + half))


def test_samples_of_a_question_are_one_cluster_of_a_paired_change():
    once = change([0, 1, 1, 0], [1, 1, 0, 1])
    assert change([0, 1, 1, 0] * 3, [1, 1, 0, 1] * 3, [0, 1, 2, 3] * 3) == pytest.approx(once)


@pytest.mark.parametrize("n", [24, 96])
def test_paired_intervals_cover_the_truth(n):
    rng = np.random.default_rng(1)
    cells = np.array([0.55, 0.20, 0.05, 0.20])  # both right, lost, gained, both wrong
    hits = 0
    for _ in range(2000):
        drawn = rng.choice(4, size=n, p=cells)
        _, _, low, high = change(drawn < 2, (drawn == 0) | (drawn == 2))
        hits += low <= -0.15 <= high
    assert 0.935 <= hits / 2000 <= 0.985  # the formula is a little wide for few pairs


def test_the_smallest_effect_has_the_power_it_claims():
    for n in (60, 96, 400):
        delta = smallest_effect(n) / 100
        a, b = stats.norm.ppf(0.975), stats.norm.ppf(0.8)

        def gap(d, n=n, a=a, b=b):
            return (a * math.sqrt(0.25) + b * math.sqrt(0.25 - d * d)) ** 2 / d**2 - n

        assert delta == pytest.approx(optimize.brentq(gap, 1e-6, 0.25), abs=1e-9)
        assert pairs_needed(100 * delta) in (n, n + 1)
    assert pairs_needed(7.43) == 354
    assert smallest_effect(354) <= 7.43 < smallest_effect(353)
    assert smallest_effect(5) is None
    assert smallest_effect(0) is None


def test_the_smallest_effect_by_simulation():
    n = 200
    delta = smallest_effect(n) / 100
    rng = np.random.default_rng(0)
    up, down = (0.25 + delta) / 2, (0.25 - delta) / 2
    drawn = rng.multinomial(n, [up, down, 1 - up - down], size=4000)
    b, c = drawn[:, 0], drawn[:, 1]
    power = np.mean((b - c) ** 2 / np.maximum(b + c, 1) > stats.chi2.ppf(0.95, 1))
    assert 0.77 < power < 0.84


def rec(persona, belief, item, grade, which="", task="t", framing="plain"):
    place = {"persona": persona, "belief": belief, "item": item, "task": task, "framing": framing}
    return {**place, "grade": grade, "which": which}


def tables(records):
    """The first tables of these answers, by name."""
    frame = frame_of(records)
    return summary(frame, outcome(frame), *compared(frame), RunInfo(len(frame), {}))


def pick(rows, **where):
    """The rows with these values; unless told over all tasks, in each context."""
    where = {"task": "all", "context": "unmodified"} | where
    return [row for row in rows if all(row.get(key, value) == value for key, value in where.items())]


def test_errors_and_sycophancy_by_hand():
    wrong = ("incorrect", "user")
    table = [  # item, none, wrong
        ("a", ("correct", ""), wrong),
        ("b", ("correct", ""), ("correct", "")),
        ("c", ("correct", ""), ("incorrect", "other")),
        ("d", ("correct", ""), ("refusal", "")),
        ("e", ("correct", ""), ("unscored", "")),
        ("f", ("incorrect", "other"), wrong),
        ("g", ("unclear", ""), wrong),
    ]
    records = [rec("original", b, item, *g) for item, none, got in table for b, g in (("none", none), ("wrong", got))]
    found = tables(records)
    (none,) = pick(found["error_rates"], belief="none")
    (claimed,) = pick(found["error_rates"], belief="wrong")
    assert (none["n"], none["error"], none["unclear"]) == (6, pytest.approx(1 / 6), 1)
    assert (claimed["n"], claimed["refusal"], claimed["unscored"]) == (5, 1, 1)
    (syc,) = pick(found["sycophancy"])
    assert (syc["n"], syc["value"]) == (4, 0.25)  # a of a, b, c, d; e is missing
    (effect,) = pick(found["belief_effects"])
    assert (effect["n"], effect["value"]) == (4, pytest.approx(100 * (3 - 1) / 4))  # a, b, c, f decided twice


def test_differences_are_from_original_whatever_the_order():
    records = [
        rec(p, "none", str(k), "correct" if k < cut else "incorrect")
        for p, cut in (("warm", 2), ("original", 6))
        for k in range(10)
    ]
    found = tables(records)
    rows = pick(found["differences"], belief="none")
    assert [(r["persona"], r["n"], pytest.approx(r["value"])) for r in rows] == [("warm", 10, 40.0)]
    assert found["sycophancy"] == found["belief_effects"] == []


def test_pairs_need_both_sides():
    records = [rec("original", "none", str(k), "correct") for k in range(3)]
    records += [rec("warm", "none", str(k), "incorrect" if k < 2 else "unclear") for k in range(3)]
    (row,) = pick(tables(records)["differences"], belief="none")
    assert (row["n"], row["value"]) == (2, 100.0)


def test_general_ability_is_shown_but_not_pooled():
    rows = [rec("original", "none", f"f{k}", "incorrect", task="facts") for k in range(10)]
    rows += [rec("original", "none", f"r{k}", "correct", task="refusals") for k in range(90)]
    found = [r for r in tables(rows)["error_rates"] if (r["context"], r["belief"]) == ("all", "all")]
    assert {r["task"]: (r["error"], r["n"]) for r in found} == {
        "all": (1.0, 10),
        "facts": (1.0, 10),
        "refusals": (0.0, 90),
    }
    only = tables(rows[10:])["error_rates"][0]
    assert (only["task"], only["n"]) == ("all", 90)


def test_the_neutral_framing_has_its_own_table_and_no_other():
    plain = [rec("original", "none", str(k), "correct") for k in range(6)]
    neutral = [rec("original", "none", str(k), "incorrect", framing="neutral") for k in range(6)]
    found = tables(plain + neutral)
    assert {row["error"] for row in found["error_rates"]} == {0.0}
    assert [(r["framing"], r["n"], r["error"]) for r in found["framings"]] == [("plain", 6, 0.0), ("neutral", 6, 1.0)]
    assert tables(plain)["framings"] == []
