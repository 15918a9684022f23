"""Logistic regression on counts: one row for each different design row, n answers of which y are incorrect.

The likelihood of counts is that of the single answers, so 400,000 answers fit as fast as their few hundred different
design rows. Binomial family, logit link, by Newton's method (McCullagh and Nelder 1989, section 4.4); the link is
canonical, so observed and expected information are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
STEPS = 60
TOLERANCE = 1e-11  # on the largest change of a coefficient
# Of a replicate's linear predictor: its probability is 1e-13 from 0 or 1 there.
LIMIT = 30.0
STEPS_MANY = 25
# Replicates make intervals: a change of 1e-7 is far below what a percentile shows.
TOLERANCE_MANY = 1e-7


@dataclass(frozen=True)
class Fit:
    """Coefficients and their model-based covariance; ``p`` is each design row's fitted probability."""

    beta: Floats  # [k]
    cov: Floats  # [k, k], inverse information
    p: Floats  # [d]
    n: float  # answers


class NotEstimable(ValueError):
    """The coefficients have no finite or no unique estimate; the message says which."""


def expit(x: Floats) -> Floats:
    """Logistic function."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def fit(x: Floats, n: Floats, y: Floats, names: tuple[str, ...] = ()) -> Fit:
    """Fit y of n successes on design rows ``x`` [d, k]; ``names`` are the columns', for messages.

    Raises ``NotEstimable`` where there are no answers, where columns depend on each other, where outcomes are
    completely or quasi-completely separated, or where Newton's method does not settle.
    """
    labels = names or tuple(f"column {k}" for k in range(x.shape[1]))
    keep = n > 0
    rows, total, hits = x[keep], n[keep], y[keep]
    if not len(rows):
        raise NotEstimable("no answers")
    check_rank(rows, labels)
    check_separation(rows, total, hits, labels)
    beta = np.zeros(x.shape[1])
    for _ in range(STEPS):
        p = expit(rows @ beta)
        information = (rows * (total * p * (1 - p))[:, None]).T @ rows
        step = np.linalg.solve(information, rows.T @ (hits - total * p))
        largest = float(np.max(np.abs(step)))
        beta = beta + step * min(1.0, 5.0 / largest if largest else 1.0)
        if largest < TOLERANCE * max(1.0, float(np.max(np.abs(beta)))):
            break
    else:
        raise NotEstimable(f"no convergence in {STEPS} steps")
    p = expit(x @ beta)
    cov: Floats = np.asarray(np.linalg.inv((x * (n * p * (1 - p))[:, None]).T @ x), dtype=np.float64)
    return Fit(beta, cov, p, float(n.sum()))


def cluster_cov(fitted: Fit, scores: Floats) -> Floats:
    """Return the cluster-robust covariance from each cluster's sum of scores ``[g, k]``.

    CR1: inverse information x sum of outer products x inverse information, times g/(g-1) (n-1)/(n-k), n the answers
    (Liang and Zeger 1986, with the small-sample factor that Stata and statsmodels use). NaN for a single cluster.
    """
    g, k = scores.shape
    if g < 2 or fitted.n <= k:
        return np.full((k, k), np.nan)
    factor = g / (g - 1) * (fitted.n - 1) / (fitted.n - k)
    return np.asarray(factor * fitted.cov @ (scores.T @ scores) @ fitted.cov)


def fit_many(x: Floats, n: Floats, y: Floats, start: Floats) -> Floats:
    """Fit the same design to many tables of counts: ``n`` and ``y`` are [b, d]; returns ``[b, k]``.

    For bootstrap replicates: a replicate whose column has no answers at all is NaN; one that is separated runs to a
    large finite coefficient, whose probabilities, which is all that effects need, are at their limit.
    """
    b, (_, k) = len(n), x.shape
    beta = np.tile(start, (b, 1))
    products = (x[:, :, None] * x[:, None, :]).reshape(len(x), k * k)
    active = np.arange(b)
    ridge = 1e-9 * np.eye(k)
    for _ in range(STEPS_MANY):
        p = expit(np.clip(beta[active] @ x.T, -LIMIT, LIMIT))
        total, hits = n[active], y[active]
        information = ((total * p * (1 - p)) @ products).reshape(-1, k, k)
        scale = np.trace(information, axis1=1, axis2=2)[:, None, None] / k
        score = (hits - total * p) @ x
        step = np.linalg.solve(information + ridge * np.maximum(scale, 1e-30), score[:, :, None])[:, :, 0]
        largest = np.max(np.abs(step), axis=1, keepdims=True)
        beta[active] += step * np.minimum(1.0, 3.0 / np.maximum(largest, 1e-30))
        active = active[largest[:, 0] > TOLERANCE_MANY]
        if not len(active):
            break
    empty = (n @ np.abs(x)) == 0
    beta[empty.any(axis=1)] = np.nan
    return beta


def check_rank(x: Floats, names: tuple[str, ...]) -> None:
    """Raise ``NotEstimable`` naming columns that are combinations of others."""
    triangle = np.linalg.qr(x, mode="r")  # has the null space of x, and few rows
    _, singular, right = np.linalg.svd(triangle, full_matrices=True)
    rank = int(np.sum(singular > 1e-9 * max(1.0, float(singular[0]))))
    if rank < x.shape[1]:
        involved = np.any(np.abs(right[rank:]) > 1e-8, axis=0)
        terms = [name for name, used in zip(names, involved, strict=True) if used]
        raise NotEstimable(f"not estimable: {', '.join(terms)} depend on each other in these answers")


def check_separation(x: Floats, n: Floats, y: Floats, names: tuple[str, ...]) -> None:
    """Raise ``NotEstimable`` naming the terms that run to infinity, where the outcomes are separated.

    They are (Albert and Anderson 1984) where some direction of coefficients is at least 0 on every design row with
    only incorrect answers, at most 0 on every row with only correct ones, 0 on mixed rows, and not 0 everywhere; a
    linear program looks for one (Konis 2007).
    """
    sign = np.where(y <= 0, -1.0, np.where(y >= n, 1.0, 0.0))
    pure = sign != 0
    if not pure.any():
        return
    if abs(float(sign.sum())) == len(sign):
        raise NotEstimable(f"separated: all {int(n.sum())} answers are {'incorrect' if sign[0] > 0 else 'correct'}")
    from scipy.optimize import linprog

    signed = x[pure] * sign[pure][:, None]
    mixed = x[~pure]
    bounds = [(-1.0, 1.0)] * x.shape[1]
    equal = {"A_eq": mixed, "b_eq": np.zeros(len(mixed))} if len(mixed) else {}
    found = linprog(-signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=bounds, **equal)
    if found.status != 0:
        raise NotEstimable(f"separation could not be ruled out ({found.message})")
    # A direction that separates is only stopped by its bounds.
    if np.max(np.abs(found.x)) > 0.5:
        kind = "quasi-completely separated"
        if not len(mixed):
            k = x.shape[1]
            goal = np.append(np.zeros(k), -1.0)
            ahead = np.column_stack([-signed, np.ones(len(signed))])
            best = linprog(goal, A_ub=ahead, b_ub=np.zeros(len(signed)), bounds=[*bounds, (0.0, 1.0)])
            kind = "completely separated" if best.status == 0 and -best.fun > 1e-7 else kind
        terms = [name for name, value in zip(names, found.x, strict=True) if abs(value) > 1e-6]
        raise NotEstimable(f"{kind}: no finite estimate of {', '.join(terms)}")
