"""Dose-response: an outcome by question at several doses of one persona, as a trend and as a monotone curve.

Outcomes are float64 ``[questions, doses]``, NaN where an answer is missing. A row is what was drawn: several answers to
one question (samples, contexts) are averaged before. The doses are known numbers, as an adapter's coefficient is, or
measured ones (SocioT warmth, KL from the base).

- Trend: each question's least-squares slope, and their mean by ``question_means`` (the summary-statistics analysis of
  repeated measures, Matthews et al. 1990); beside it the p value of flipping whole questions' signs (Fisher 1935).
- Curve: the means are fitted by isotonic regression (pool adjacent violators, Ayer et al. 1955), rising or falling as
  the trend's slope does. The interval is the means' percentile interval over drawn questions, its limits fitted in the
  same way: isotonic regression keeps order, so limits on both sides of a monotone truth stay there. (Percentiles of
  refitted draws are too narrow beside a flat stretch: the fit is biased there, and its draws twice.)
- Per unit: an effect over what a dose cost, with Fieller's (1954) interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from warmeng.common.errors import InputError
from warmeng.study.stats.draws import BOOTSTRAP, Floats, Ints, expanded, interval, number, ratio
from warmeng.study.stats.intervals import Summary
from warmeng.study.stats.means import question_means

Bools = npt.NDArray[np.bool_]
FLIPS = 9_999


@dataclass(frozen=True, slots=True)
class Trend:
    """Outcome per unit of dose: the mean of n questions' slopes, and two-sided p values that it is 0.

    ``p`` is that of the interval, ``p_flips`` that of the sign flips; they and the interval are ``None`` where fewer
    than two questions have a slope, or all have the same.
    """

    n: int
    slope: float | None
    low: float | None
    high: float | None
    p: float | None
    p_flips: float | None


@dataclass(frozen=True, slots=True)
class Fit:
    """A monotone curve at the doses given, in their order; an entry without an interval is NaN."""

    rising: bool
    value: Floats  # [doses]
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class Ratio:
    """An effect per unit; ``refused`` says why there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    refused: str = ""


def from_base(values: Floats, base: int) -> Floats:
    """Return each question's change from its outcome at the dose ``base``, which then is 0; NaN without a pair."""
    found = values - values[:, [base]]
    found[:, base] = 0.0
    return found


def slopes(doses: Floats, values: Floats) -> Floats:
    """Return each question's least-squares slope over the doses it has, ``[questions]``; NaN for fewer than two."""
    _check(doses, values)
    known = np.isfinite(values)
    count = known.sum(1)
    middle = ratio((known * doses).sum(1), count.astype(np.float64))
    away = np.where(known, doses - middle[:, None], 0.0)
    return ratio((away * np.where(known, values, 0.0)).sum(1), (away**2).sum(1))


def trend(doses: Floats, values: Floats, task: Ints | None = None, seed: int = 0, flips: int = FLIPS) -> Trend:
    """Return the trend of outcomes ``[questions, doses]`` over the doses. Raises ``InputError`` as ``slopes``.

    Every question weighs alike, however many doses it has; ``task`` is each question's, the strata of the mean.
    ``flips`` is the number of random sign flips.
    """
    found = slopes(doses, values)
    mean = question_means(found[None], strata(values, task))
    slope, low, high, p = (number(x[0]) for x in (mean.value, mean.low, mean.high, mean.p))
    known = found[np.isfinite(found)]
    return Trend(int(mean.n[0]), slope, low, high, p, None if p is None else _flipped(known, seed, flips))


def strata(values: Floats, task: Ints | None) -> Ints:
    """Return each question's task, one for all where none is given."""
    return np.zeros(len(values), dtype=np.int64) if task is None else task


def _flipped(values: Floats, seed: int, flips: int) -> float:
    signs = np.random.default_rng(seed).integers(0, 2, (flips, len(values)), dtype=np.int8) * 2.0 - 1.0
    # Ties with the observed mean count, whatever the order of addition.
    reached = np.abs(signs @ values) >= abs(values.sum()) * (1 - 1e-12)
    return float((1 + np.count_nonzero(reached)) / (1 + flips))


def isotonic(means: Floats, weights: Floats, rising: bool | Bools = True) -> Floats:
    """Return the weighted least-squares fits that never fall (or never rise) along the last axis.

    By the max-min formula: the fit at j is the largest over i <= j of the least over l >= j of the weighted mean of
    i..l. Fits of any number of rows at once; ``rising`` may differ by row. Weights are above 0, entries finite.
    """
    up = np.where(np.asarray(rising)[..., None], means, -means)
    size = means.shape[-1]
    zero = np.zeros((*means.shape[:-1], 1))
    total = np.concatenate([zero, np.cumsum(weights * up, -1)], -1)
    weight = np.concatenate([zero, np.cumsum(weights, -1)], -1)
    found = np.full_like(up, -np.inf)
    for i in range(size):
        average = (total[..., i + 1 :] - total[..., i, None]) / (weight[..., i + 1 :] - weight[..., i, None])
        least = np.minimum.accumulate(average[..., ::-1], -1)[..., ::-1]
        found[..., i:] = np.maximum(found[..., i:], least)
    return np.where(np.asarray(rising)[..., None], found, -found)


def monotone(doses: Floats, values: Floats, base: int | None = None, seed: int = 0, replicates: int = BOOTSTRAP) -> Fit:
    """Return the monotone curve of outcomes ``[questions, doses]``.

    With ``base`` outcomes are changes from that dose, pair by pair, and the curve goes through 0 there. Raises
    ``InputError`` as ``slopes``, and where a dose has no outcome at all or there are fewer than two doses.
    """
    found = slopes(doses, values)
    changes = values if base is None else from_base(values, base)
    known = np.isfinite(changes)
    if len(doses) < 2 or not known.any(0).all() or not np.isfinite(found).any():
        raise InputError("a curve needs two doses or more, each with an outcome, and a question that has two of them")
    order = np.argsort(doses, kind="stable")
    at = None if base is None else int(np.flatnonzero(order == base)[0])
    rising = np.array([np.nanmean(found) >= 0])
    filled, sizes = np.where(known, changes, 0.0)[:, order], known[:, order].astype(np.float64)
    counts = sizes.sum(0)[None]
    value = fits_through(filled.sum(0)[None] / counts, counts, rising, at)
    weights = np.random.default_rng(seed).multinomial(len(values), np.full(len(values), 1 / len(values)), replicates)
    draws = ratio(weights.astype(np.float64) @ filled, weights @ sizes)
    ends = [interval(draws[:, k], expanded(int(counts[0, k]))) for k in range(len(doses))]
    limits = np.array([[np.nan if v is None else v for v in pair] for pair in ends]).T
    low, high = fits_through(limits, np.repeat(counts, 2, 0), np.repeat(rising, 2), at)
    back = np.argsort(order)
    return Fit(bool(rising[0]), value[0, back], low[back], high[back])


def fits_through(means: Floats, counts: Floats, rising: Bools, base: int | None) -> Floats:
    """Return isotonic fits ``[rows, doses]``; with ``base``, those that are 0 there.

    A point known without error weighs without bound, so the fit to its right is the free one of that part, cut at 0 (a
    bounded isotonic regression, Barlow et al. 1972), and so to its left. A row with a dose that was not drawn is NaN.
    """
    sound = np.all(counts > 0, axis=-1)
    found = np.full(means.shape, np.nan)
    if base is None:
        found[sound] = isotonic(means[sound], counts[sound], rising[sound])
        return found
    for part, sign in ((slice(0, base), -1.0), (slice(base + 1, None), 1.0)):
        if means[:, part].shape[1]:
            free = isotonic(means[sound, part], counts[sound, part], rising[sound])
            upward = np.where(rising[sound], sign, -sign)[:, None]
            found[sound, part] = upward * np.maximum(upward * free, 0.0)
    found[sound, base] = 0.0
    return found


def per_unit(effect: Summary, cost: Summary, what: str) -> Ratio:
    """Return an effect (over questions) per unit of what was measured (over prompts), with Fieller's 95 % interval.

    The two are independent; degrees of freedom are Satterthwaite's (1946). Refused where the interval of ``cost``,
    called ``what``, includes 0: the ratio would then have no bounds.
    """
    if effect.mean is None or effect.se is None or cost.mean is None or cost.se is None:
        return Ratio(refused=f"too few values of the outcome or of {what}")
    assert cost.low is not None
    assert cost.high is not None
    inside = f"{what} is not shown to differ from 0 ({cost.low:+.3g} to {cost.high:+.3g})"
    if cost.low <= 0 <= cost.high:
        return Ratio(refused=inside)
    from scipy.stats import t

    value = effect.mean / cost.mean
    parts = effect.se**2, (value * cost.se) ** 2
    spread = parts[0] ** 2 / (effect.n - 1) + parts[1] ** 2 / (cost.n - 1)
    squared = float(t.ppf(0.975, sum(parts) ** 2 / spread)) ** 2 if spread else 0.0
    a = cost.mean**2 - squared * cost.se**2
    b = effect.mean * cost.mean
    c = effect.mean**2 - squared * effect.se**2
    if a <= 0:
        return Ratio(refused=inside)
    half = math.sqrt(max(0.0, b * b - a * c))
    return Ratio(value, (b - half) / a, (b + half) / a)


def _check(doses: Floats, values: Floats) -> None:
    if values.ndim != 2 or doses.shape != (values.shape[1],):
        raise InputError(f"outcomes have shape {values.shape}, expected [questions, {len(doses)} doses]")
    if not np.isfinite(doses).all() or len(set(doses.tolist())) < len(doses):
        raise InputError(f"doses are {', '.join(f'{d:g}' for d in doses)}, expected different finite numbers")
