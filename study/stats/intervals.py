"""Intervals and sizes that every table takes: Student's, Wilson's, clustered shares' variance, the smallest effect."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

Z = NormalDist().inv_cdf(0.975)  # two-sided 95 %
POWER_Z = NormalDist().inv_cdf(0.80)
# The share of pairs that change is assumed, for the smallest effect; the dry run says so.
DISCORDANT = 0.25


def wilson(k: float, n: float) -> tuple[float, float]:
    """Wilson's score interval for k of n (Wilson 1927). ``n`` may be an effective, fractional size above 0."""
    centre = (k + Z * Z / 2) / (n + Z * Z)
    half = Z / (n + Z * Z) * math.sqrt(k * (n - k) / n + Z * Z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered_variance(sums: Collection[Sequence[float]]) -> float:
    """Return the variance of a share whose answers come in clusters: ``(hits, size)`` of each, two clusters or more.

    The ratio estimator's between-cluster variance with m / (m - 1) for m clusters. With one answer a cluster it is
    the usual p (1 - p) / (n - 1).
    """
    m, n = len(sums), sum(size for _, size in sums)
    p = sum(hits for hits, _ in sums) / n
    return m / (m - 1) * sum((hits - p * size) ** 2 for hits, size in sums) / n**2


def smallest_effect(n: int, discordant: float = DISCORDANT) -> float | None:
    """Return the smallest paired difference, in points, that n pairs show (two-sided 5 %, power 80 %).

    Connor's (1987) formula for McNemar's test, solved for the difference, given the share of discordant pairs;
    ``None`` where even the largest possible one, all of those going one way, would not show.
    """
    if n < 1 or _pairs(discordant, discordant) > n:
        return None
    low, high = 0.0, discordant
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _pairs(middle, discordant) <= n else (middle, high)
    return 100 * high


def smallest_shift(n: int) -> float | None:
    """Return the smallest mean change that n questions show (two-sided 5 %, power 80 %), of an outcome in nats.

    In standard deviations of the questions' own changes, which are not known before a run; ``None`` for under two.
    """
    return (Z + POWER_Z) / math.sqrt(n) if n > 1 else None


def detectable(low: float, high: float) -> float:
    """Return the smallest effect that shows in 80 % of such studies (two-sided 5 %), by a 95 % interval's spread."""
    return (high - low) / 2 * (Z + POWER_Z) / Z


def pairs_needed(points: float, discordant: float = DISCORDANT) -> int:
    """Return how many pairs show a difference of so many points: the inverse of ``smallest_effect``."""
    return math.ceil(_pairs(points / 100, discordant))


def _pairs(delta: float, discordant: float) -> float:
    return ((Z * math.sqrt(discordant) + POWER_Z * math.sqrt(discordant - delta**2)) / delta) ** 2


@dataclass(frozen=True, slots=True)
class Summary:
    """A mean over n values with its standard error and 95 % interval (Student's t); ``None`` where n is too few."""

    n: int
    mean: float | None
    se: float | None
    low: float | None
    high: float | None


def summarise(values: Iterable[float]) -> Summary:
    """Return mean, standard error and interval of the values."""
    from scipy.stats import t

    found = list(values)
    n = len(found)
    if n < 2:
        return Summary(n, found[0] if found else None, None, None, None)
    mean = math.fsum(found) / n
    se = math.sqrt(math.fsum((v - mean) ** 2 for v in found) / (n - 1) / n)
    half = float(t.ppf(0.975, n - 1)) * se
    return Summary(n, mean, se, mean - half, mean + half)
