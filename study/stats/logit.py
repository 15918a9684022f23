"""Logistic regression on counts: one row for each different design row, n answers of which y are incorrect.

The likelihood of counts is that of the single answers, so 400,000 answers fit as fast as their few hundred different
design rows. Binomial family, logit link, by Newton's method (McCullagh and Nelder 1989, section 4.4); the link is
canonical, so observed and expected information are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
STEPS = 60
TOLERANCE = 1e-11  # on the largest change of a coefficient
# Of a design row along a direction that separates, or outside of what is estimated: nothing but rounding.
NOTHING = 1e-7


@dataclass(frozen=True)
class Fit:
    """Where the likelihood of k coefficients is greatest, which may be at infinity along some ``directions``.

    There the fitted probabilities have limits: 0 or 1 in the rows that a direction separates, and in the others those
    of the fit to them alone (Geyer 2009). ``beta`` and ``cov`` (the inverse information) are of the others, and lie in
    the span of their rows, ``[k, r]``. Without directions it is the usual fit.
    """

    beta: Floats  # [k]
    cov: Floats  # [k, k]
    p: Floats  # [d], the limit in each design row
    n: float  # answers
    span: Floats  # [k, r]
    directions: Floats  # [s, k], the fastest first
    known: Floats  # the design rows that have answers
    limits: str = ""  # what has no finite estimate, in words

    def is_finite(self, picks: Floats) -> npt.NDArray[np.bool_]:
        """Whether combinations of coefficients, ``[..., k]``, have a finite estimate."""
        return np.asarray(np.max(np.abs(picks - picks @ self.span @ self.span.T), axis=-1) < NOTHING)

    def predict(self, x: Floats) -> Floats:
        """Return the limits of the probabilities in design rows; NaN where a row without answers has none."""
        found = np.asarray(expit(x @ self.beta))
        if not len(self.directions):
            return found
        inside = np.ones(len(x), dtype=bool)
        for direction in self.directions:
            along = x @ direction
            beyond = inside & (np.abs(along) > NOTHING)
            found[beyond] = along[beyond] > 0
            inside &= ~beyond
        known = {row.tobytes() for row in self.known}
        asked = np.array([row.tobytes() in known for row in x], dtype=bool)
        found[np.where(inside, ~self.is_finite(x), ~asked)] = np.nan
        return found


class NotEstimable(ValueError):
    """The coefficients have no unique estimate; the message says which."""


def expit(x: Floats) -> Floats:
    """Logistic function."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def fit(x: Floats, n: Floats, y: Floats, names: tuple[str, ...] = ()) -> Fit:
    """Fit y of n successes on design rows ``x`` [d, k]; ``names`` are the columns', for messages.

    Where outcomes are completely or quasi-completely separated the fit is the limit: see ``Fit``. Raises
    ``NotEstimable`` where there are no answers, where columns depend on each other, or where Newton's method does not
    settle.
    """
    labels = names or tuple(f"column {k}" for k in range(x.shape[1]))
    keep = n > 0
    known, total, hits = x[keep], n[keep], y[keep]
    if not len(known):
        raise NotEstimable("no answers")
    check_rank(known, labels)
    rows, directions = known, []
    while len(rows) and (direction := separating(rows, total, hits)) is not None:
        directions.append(direction)
        within = np.abs(rows @ direction) <= NOTHING
        rows, total, hits = rows[within], total[within], hits[within]
    span = np.eye(x.shape[1])
    if directions:
        _, singular, right = np.linalg.svd(rows, full_matrices=False)
        span = right[singular > 1e-9].T
    finite, information = _newton(rows @ span, total, hits)
    beta, cov = span @ finite, span @ np.linalg.inv(information) @ span.T
    along = np.array(directions).reshape(-1, x.shape[1])
    limits = _told(along, not len(rows), labels) if directions else ""
    if float(y.sum()) in (0.0, float(n.sum())):
        limits = f"separated: all {int(n.sum())} answers are {'incorrect' if y.sum() else 'correct'}"
    found = Fit(beta, cov, beta[:0], float(n.sum()), span, along, known, limits)
    return replace(found, p=found.predict(x))


def _newton(rows: Floats, total: Floats, hits: Floats) -> tuple[Floats, Floats]:
    """Return coefficients and information of counts that are not separated; rows may be none."""
    beta = np.zeros(rows.shape[1])
    for _ in range(STEPS):
        p = expit(rows @ beta)
        information = (rows * (total * p * (1 - p))[:, None]).T @ rows
        if not len(beta):
            return beta, information
        step = np.linalg.solve(information, rows.T @ (hits - total * p))
        largest = float(np.max(np.abs(step)))
        if largest < TOLERANCE * max(1.0, float(np.max(np.abs(beta)))):
            return beta + step, information
        beta = beta + step * min(1.0, 5.0 / largest)
    raise NotEstimable(f"no convergence in {STEPS} steps")


def _told(directions: Floats, complete: bool, names: tuple[str, ...]) -> str:
    used = np.any(np.abs(directions) > NOTHING, axis=0)
    terms = ", ".join(name for name, is_used in zip(names, used, strict=True) if is_used)
    return f"{'completely' if complete else 'quasi-completely'} separated: no finite estimate of {terms}"


def cluster_cov(fitted: Fit, scores: Floats) -> Floats:
    """Return the cluster-robust covariance from each cluster's sum of scores ``[g, k]``.

    CR1: inverse information x sum of outer products x inverse information, times g/(g-1) (n-1)/(n-k), n the answers
    (Liang and Zeger 1986, with the small-sample factor that Stata and statsmodels use). NaN for a single cluster.
    """
    g, k = len(scores), fitted.span.shape[1]
    if g < 2 or fitted.n <= k:
        return np.full(fitted.cov.shape, np.nan)
    factor = g / (g - 1) * (fitted.n - 1) / (fitted.n - k)
    return np.asarray(factor * fitted.cov @ (scores.T @ scores) @ fitted.cov)


def check_rank(x: Floats, names: tuple[str, ...]) -> None:
    """Raise ``NotEstimable`` naming columns that are combinations of others."""
    triangle = np.linalg.qr(x, mode="r")  # has the null space of x, and few rows
    _, singular, right = np.linalg.svd(triangle, full_matrices=True)
    rank = int(np.sum(singular > 1e-9 * max(1.0, float(singular[0]))))
    if rank < x.shape[1]:
        involved = np.any(np.abs(right[rank:]) > 1e-8, axis=0)
        terms = [name for name, used in zip(names, involved, strict=True) if used]
        raise NotEstimable(f"not estimable: {', '.join(terms)} depend on each other in these answers")


def separating(x: Floats, n: Floats, y: Floats) -> Floats | None:
    """Return a direction of coefficients, ``[k]``, along which the likelihood only rises; ``None`` where it has none.

    It is at least 0 on every design row with only incorrect answers, at most 0 on every row with only correct ones, 0
    on mixed rows, and not 0 everywhere (Albert and Anderson 1984); a linear program looks for one (Konis 2007). Raises
    ``NotEstimable`` where that fails.
    """
    sign = np.where(y <= 0, -1.0, np.where(y >= n, 1.0, 0.0))
    pure = sign != 0
    if not pure.any():
        return None
    from scipy.optimize import linprog

    signed, mixed = x[pure] * sign[pure][:, None], x[~pure]
    equal = {"A_eq": mixed, "b_eq": np.zeros(len(mixed))} if len(mixed) else {}
    bounds = [(-1.0, 1.0)] * x.shape[1]
    found = linprog(-signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=bounds, **equal)
    if found.status != 0:
        raise NotEstimable(f"separation could not be ruled out ({found.message})")
    # A direction that separates is only stopped by its bounds.
    return np.asarray(found.x) if float(np.max(signed @ found.x)) > NOTHING else None
