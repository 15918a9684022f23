"""Dose-response against the same numbers found another way: NumPy's fits, SciPy's tests, enumeration."""

from itertools import product

import numpy as np
import pytest
from scipy import optimize, stats

from warmeng.common.errors import InputError
from warmeng.study.stats.curves import Curve, compare
from warmeng.study.stats.dose import isotonic, monotone, per_unit, slopes, trend
from warmeng.study.stats.intervals import summarise

DOSES = np.array([0.0, 0.5, 1.0, 2.0])


def outcomes(n=40, seed=0, missing=0.15, curve=lambda d: -1.5 * d):
    rng = np.random.default_rng(seed)
    found = rng.normal(0, 2, (n, 1)) + curve(DOSES) + rng.normal(0, 0.8, (n, 1)) * DOSES
    found = found + rng.normal(0, 1, found.shape)
    found[rng.random(found.shape) < missing] = np.nan
    return found


def test_slopes_are_least_squares_over_the_doses_a_question_has():
    values = outcomes()
    values[0, 1:] = np.nan
    for row, slope in zip(values, slopes(DOSES, values), strict=True):
        at = np.isfinite(row)
        if at.sum() < 2:
            assert np.isnan(slope)
        else:
            assert slope == pytest.approx(np.polyfit(DOSES[at], row[at], 1)[0])


def test_the_trend_is_students_test_of_slopes_that_are_not_skewed():
    values = outcomes(curve=lambda d: 0 * d)
    values = np.concatenate([values, -values]) - 0.2 * DOSES
    found = trend(DOSES, values)
    known = slopes(DOSES, values)
    known = known[np.isfinite(known)]
    expected = stats.ttest_1samp(known, 0)
    low, high = expected.confidence_interval()
    assert (found.slope, found.p) == (pytest.approx(known.mean()), pytest.approx(expected.pvalue))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_flipped_signs_give_the_p_value_of_all_flips():
    values = outcomes(9, seed=5, missing=0, curve=lambda d: -d)
    known = slopes(DOSES, values)
    every = np.array(list(product((-1, 1), repeat=9))) @ known
    exact = np.mean(np.abs(every) >= abs(known.sum()) * (1 - 1e-12))
    assert trend(DOSES, values, flips=40_000).p_flips == pytest.approx(exact, abs=0.01)
    assert 0.002 < exact < 0.3
    assert trend(DOSES, values, seed=1).p_flips == trend(DOSES, values, seed=1).p_flips
    assert trend(DOSES, values[:1]).p is None
    alike = trend(DOSES, np.repeat(values[:1], 6, 0))
    assert alike.slope is not None
    assert (alike.low, alike.p, alike.p_flips) == (None, None, None), "nothing varies"


def test_isotonic_fits_are_scipys():
    rng = np.random.default_rng(0)
    means, weights = rng.normal(size=(50, 6)).round(1), rng.integers(1, 9, (50, 6)).astype(float)
    rising = rng.random(50) < 0.5
    found = isotonic(means, weights, rising)
    for row, mean, weight, up in zip(found, means, weights, rising, strict=True):
        assert row == pytest.approx(optimize.isotonic_regression(mean, weights=weight, increasing=up).x)


@pytest.mark.parametrize("base", [0, 1, 3])
def test_a_curve_through_the_base_is_one_whose_base_weighs_without_bound(base):
    values = outcomes(curve=lambda d: np.sin(3 * d) - d)
    fit = monotone(DOSES, values, base, replicates=0)
    changes = values - values[:, [base]]
    counts = np.isfinite(changes).sum(0).astype(float)
    means = np.nanmean(changes, 0)
    counts[base], means[base] = 1e12, 0.0
    rising = bool(np.nanmean(slopes(DOSES, values)) >= 0)
    expected = optimize.isotonic_regression(means, weights=counts, increasing=rising).x
    assert fit.rising is rising
    assert fit.value == pytest.approx(expected, abs=1e-6)
    assert np.isnan(np.delete(fit.low, base)).all()
    assert fit.low[base] == fit.high[base] == 0


def test_the_interval_is_that_of_the_means_over_drawn_questions_made_monotone():
    values = outcomes(30, curve=lambda d: -np.minimum(d, 0.5))
    fit = monotone(DOSES, values, 0, seed=3, replicates=300)
    rows = np.random.default_rng(3).multinomial(30, np.full(30, 1 / 30), 300)
    changes = values - values[:, [0]]
    means = np.array([np.nanmean(changes[np.repeat(np.arange(30), weights)], 0) for weights in rows])
    counts = np.isfinite(changes).sum(0)
    tails = stats.norm.cdf(-np.sqrt(counts / (counts - 1)) * stats.t.ppf(0.975, counts - 1))
    weights = np.where(np.arange(4) == 0, 1e12, counts)
    for found, levels in ((fit.low, tails), (fit.high, 1 - tails)):
        limits = [np.quantile(means[:, k], levels[k]) for k in range(4)]
        expected = optimize.isotonic_regression(limits, weights=weights, increasing=False).x
        assert found == pytest.approx(expected, abs=1e-6)
    assert np.all(fit.low <= fit.value)
    assert np.all(fit.value <= fit.high)
    assert not fit.rising


def test_the_order_of_doses_does_not_matter():
    values = outcomes()
    order = np.array([2, 0, 3, 1])
    one, other = monotone(DOSES, values, 0, replicates=50), monotone(DOSES[order], values[:, order], 1, replicates=50)
    assert other.value == pytest.approx(one.value[order])
    assert other.low == pytest.approx(one.low[order])


def test_fiellers_bounds_are_where_the_test_of_a_ratio_turns():
    effect, cost = summarise([-2.0, -1.5, -3.1, -2.2, -0.9, -1.7]), summarise([0.5, 0.8, 0.4, 0.9])
    found = per_unit(effect, cost, "warmth")
    assert found.value == pytest.approx(effect.mean / cost.mean)
    parts = effect.se**2, (found.value * cost.se) ** 2
    df = sum(parts) ** 2 / (parts[0] ** 2 / 5 + parts[1] ** 2 / 3)
    for end in (found.low, found.high):
        t = (effect.mean - end * cost.mean) / np.sqrt(effect.se**2 + end**2 * cost.se**2)
        assert abs(t) == pytest.approx(stats.t.ppf(0.975, df))
    assert found.low < found.value < found.high
    refused = per_unit(effect, summarise([0.5, -0.8, 0.4, 0.9]), "warmth")
    assert refused.value is None
    assert refused.refused == "warmth is not shown to differ from 0 (-0.916 to +1.42)"
    assert per_unit(effect, summarise([0.5]), "KL").refused == "too few values of the outcome or of KL"


def test_what_is_no_dose_response_is_refused():
    values = outcomes()
    with pytest.raises(InputError, match=r"shape \(40, 4\), expected \[questions, 3 doses\]"):
        slopes(DOSES[:3], values)
    with pytest.raises(InputError, match="doses are 0, 0, 1, 2, expected different finite numbers"):
        trend(np.array([0.0, 0.0, 1.0, 2.0]), values)
    values[:, 2] = np.nan
    with pytest.raises(InputError, match="each with an outcome"):
        monotone(DOSES, values)


def curve(name, measured, outcome, doses=(0.0, 1.0, 2.0), spread=0.05):
    """A curve with these means at its doses, exactly, and a little spread over 20 prompts and 30 questions."""
    away = np.linspace(-1, 1, 20)[:, None] * spread * (np.array(doses) != 0)
    noise = np.linspace(-1, 1, 30)[:, None] * spread * (np.array(doses) != 0)
    return Curve(name, np.array(doses), np.array(measured) + away, np.array(outcome) + noise)


def test_two_curves_are_compared_at_equal_measured_dose():
    adapter = curve("adapter", [0.0, 0.2, 0.6], [0.0, -1.0, -2.0])
    prompt = curve("prompt", [0.0, 0.4], [0.0, -0.5], doses=(0.0, 1.0))
    found = compare(adapter, prompt, "warmth", 0.3)
    # Between the adapter's doses: -1 - (0.3 - 0.2) / 0.4; on the prompt's line: -0.5 * 0.3 / 0.4.
    assert found.value == pytest.approx(-1.25 + 0.375)
    assert found.low < found.value < found.high
    assert found.covered == (0.0, pytest.approx(0.4))
    assert compare(adapter, prompt, "warmth").at == pytest.approx(0.2)
    assert compare(prompt, adapter, "warmth", 0.3).value == pytest.approx(-found.value)
    colder = curve("cold", [0.0, -0.2, -0.6], [0.0, -1.0, -2.0])
    assert compare(colder, colder, "warmth").at == pytest.approx(-0.3)
    assert compare(colder, colder, "warmth").value == 0.0


def test_curves_that_cannot_be_compared_say_why():
    adapter = curve("adapter", [0.0, 0.2, 0.6], [0.0, -1.0, -2.0])
    cold = curve("cold", [0.0, -0.2, -0.6], [0.0, -1.0, -2.0])
    flat = curve("placebo", [0.0, 0.01, 0.0], [0.0, 0.1, 0.2])
    assert compare(adapter, cold, "warmth").refused == (
        "the two cover no common range of warmth: adapter 0 to 0.6, cold -0.6 to 0"
    )
    assert compare(adapter, adapter, "KL", 0.7).refused == "KL 0.7 is outside what both cover (0 to 0.6)"
    assert "outside what both cover in more than 5% of the draws" in compare(adapter, adapter, "KL", 0.599).refused
    assert compare(adapter, flat, "warmth").refused == ("placebo: warmth is not shown to rise or fall with the dose")
    empty = Curve("empty", adapter.doses, adapter.measured * np.array([1, np.nan, 1]), adapter.outcome)
    assert compare(adapter, empty, "KL").refused == "empty has a dose without KL or without an outcome"


def test_a_measured_dose_is_made_monotone_and_missing_values_stay_missing():
    bent = curve("bent", [0.0, 0.5, 0.4], [0.0, -1.0, -2.0])
    x, y = bent.points(np.ones((1, 20)), np.ones((1, 30)))
    assert x[0] == pytest.approx([0.0, 0.45, 0.45])
    bent.outcome[3, 1] = np.nan
    assert bent.points(np.ones((1, 20)), np.ones((1, 30)))[1][0, 1] == pytest.approx(np.nanmean(bent.outcome[:, 1]))
    assert y[0, 2] == pytest.approx(-2.0)
