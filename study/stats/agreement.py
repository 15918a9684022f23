"""How far two graders agree beyond chance: Cohen's kappa with its interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from warmeng.study.stats.intervals import Z


@dataclass(frozen=True, slots=True)
class Agreement:
    """Share of equal grades and Cohen's kappa over n answers, with kappa's 95 % interval (-1 to 1: shows nothing)."""

    n: int
    agreement: float | None  # 0..1; None where n is 0
    kappa: float
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able values by name."""
        return asdict(self)

    def __str__(self) -> str:
        """Say it in words."""
        return f"kappa {self.kappa:.2f} (95 % interval {self.low:.2f} to {self.high:.2f}, n = {self.n})"


def table(first: npt.ArrayLike, second: npt.ArrayLike, k: int) -> npt.NDArray[np.int64]:
    """Count pairs of codes: ``[k, k]``, rows the first grader's. A pair with a code outside 0..k-1 is left out."""
    a, b = np.asarray(first, dtype=np.int64).ravel(), np.asarray(second, dtype=np.int64).ravel()
    if a.shape != b.shape:
        raise ValueError(f"got {len(a)} and {len(b)} codes, expected as many of the one as of the other")
    both = (a >= 0) & (a < k) & (b >= 0) & (b < k)
    return np.bincount(a[both] * k + b[both], minlength=k * k).reshape(k, k)


def cohen(first: npt.ArrayLike, second: npt.ArrayLike, k: int) -> Agreement:
    """Return the agreement of two sequences of codes 0..k-1; pairs with another code (-1: not applied) are left out."""
    return kappa(table(first, second, k))


def kappa(counts: npt.NDArray[np.int64]) -> Agreement:
    """Return the agreement that a square table of counts shows.

    The interval is the large-sample one of Fleiss, Cohen and Everitt (1969). Where neither grader varies kappa is
    undefined, and returned as 0 with the interval -1 to 1.
    """
    n = int(counts.sum())
    if not n:
        return Agreement(0, None, 0.0, -1.0, 1.0)
    p = counts / n
    row, column = p.sum(axis=1), p.sum(axis=0)
    seen, chance = float(np.trace(p)), float(row @ column)
    if chance >= 1 - 1e-12:
        return Agreement(n, seen, 0.0, -1.0, 1.0)
    value = (seen - chance) / (1 - chance)
    on = float(np.sum(np.diag(p) * (1 - (row + column) * (1 - value)) ** 2))
    cross = p * (column[:, None] + row[None, :]) ** 2
    off = (1 - value) ** 2 * float(cross.sum() - np.trace(cross))
    variance = (on + off - (value - chance * (1 - value)) ** 2) / (n * (1 - chance) ** 2)
    half = Z * float(np.sqrt(max(0.0, variance)))
    return Agreement(n, seen, value, max(-1.0, value - half), min(1.0, value + half))
