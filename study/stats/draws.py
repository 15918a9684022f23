"""Clustered bootstrap: questions are drawn with replacement within their task, with all their answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from warmeng.study.results.frame import Frame

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
BOOTSTRAP = 2000
LEVELS = (2.5, 97.5)
# Draws of a question: 400 MB; with more questions than fit, fewer replicates are made.
MOST = 100_000_000
FEWEST = 200
# With fewer replicates than this, 2.5 % of them are less than one.
ENOUGH = 40
# Less than this share of replicates that have a value gives no interval.
SOUND = 0.95


@dataclass(frozen=True)
class Draws:
    """How often each question is in each replicate; all statistics of an analysis share the same draws."""

    weights: npt.NDArray[np.float32]  # [replicates, questions]; whole numbers
    strata: tuple[Ints, ...]  # questions of each task

    @classmethod
    def make(cls, frame: Frame, seed: int, replicates: int = BOOTSTRAP) -> Draws:
        """Draw for the questions of a frame; ``replicates`` 0 makes none, and all intervals are then missing."""
        questions = len(frame.item.names)
        if replicates * questions > MOST:
            replicates = max(min(FEWEST, replicates), MOST // questions)
        task = np.full(questions, -1, dtype=np.int64)
        task[frame.item.codes] = frame.task.codes
        strata = tuple(np.flatnonzero(task == k) for k in range(len(frame.task.names)) if np.any(task == k))
        weights = np.zeros((replicates, questions), dtype=np.float32)
        rng = np.random.default_rng(seed)
        for rows in strata:
            weights[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=replicates)
        return cls(weights, strata)

    def __len__(self) -> int:
        """Return the number of replicates."""
        return len(self.weights)

    def totals(self, cluster: Ints, column: Ints, values: Sequence[Floats], columns: int) -> list[Floats]:
        """Return each replicate's sums by column, ``[replicates, columns]``, for every array of values.

        Entry i is value i of question ``cluster[i]`` in ``column[i]``. Work is by task, whose questions share columns.
        """
        found = [np.zeros((len(self), columns)) for _ in values]
        where = np.full(self.weights.shape[1], -1, dtype=np.int64)
        for k, rows in enumerate(self.strata):
            where[rows] = k
        stratum = where[cluster]
        for k, rows in enumerate(self.strata):
            mine = np.flatnonzero(stratum == k)
            if not len(mine):
                continue
            used, at = np.unique(column[mine], return_inverse=True)
            place = np.searchsorted(rows, cluster[mine])
            weights = self.weights[:, rows].astype(np.float64)
            for total, value in zip(found, values, strict=True):
                table = np.bincount(place * len(used) + at, weights=value[mine], minlength=len(rows) * len(used))
                total[:, used] += weights @ table.reshape(len(rows), len(used))
        return found


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
