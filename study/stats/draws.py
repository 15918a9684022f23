"""Percentile intervals of replicates, and small helpers of arrays."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
BOOTSTRAP = 2000
LEVELS = (2.5, 97.5)
# With fewer replicates than this, 2.5 % of them are less than one.
ENOUGH = 40
# Less than this share of replicates that have a value gives no interval.
SOUND = 0.95


def expanded(n: int) -> tuple[float, float]:
    """Return the levels, in %, of a 95 % percentile interval for a mean of n drawn rows, wider for a small n.

    Drawing n of n rows understates their variance by (n - 1) / n and takes the normal for Student's distribution; these
    levels make up for both (Hesterberg 2015).
    """
    from scipy.stats import norm, t

    if n < 2:
        return 0.0, 100.0
    low = 100 * float(norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1)))
    return low, 100 - low


def interval(replicates: Floats, levels: tuple[float, float] = LEVELS) -> tuple[float | None, float | None]:
    """Return the 95 % percentile interval; missing for few replicates, or where under 95 % of them have a value."""
    sound = replicates[np.isfinite(replicates)]
    if len(replicates) < ENOUGH or len(sound) < SOUND * len(replicates):
        return None, None
    low, high = np.percentile(sound, levels)
    return float(low), float(high)


def ratio(top: Floats, bottom: Floats) -> Floats:
    """Return top / bottom, NaN where the bottom is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(bottom != 0, top / bottom, np.nan))


def number(value: float) -> float | None:
    """Return a float for a table: what is not finite is missing."""
    return float(value) if np.isfinite(value) else None


def sums(place: Ints, values: Floats, size: int) -> Floats:
    """Return the sum of the values at each place: ``[size]``."""
    return np.asarray(np.bincount(place, weights=values, minlength=size), dtype=np.float64)
