"""Means over questions with intervals that allow for skewness, tasks as strata: for outcomes that are numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from warmeng.study.results.frame import Flags
from warmeng.study.stats.draws import Floats, Ints

LEVEL = 0.975  # two-sided 95 %
# A mean of fewer questions rests on few, and one that is as skewed as where fewer of very many differ from all others
# (a skewness of 1 / sqrt(FEW)): see ``question_means``.
FEW = 4


@dataclass(frozen=True)
class Means:
    """Means with standard errors, 95 % intervals and p values against 0, NaN where there are none: ``[rows]`` each.

    ``n`` counts questions. There is no interval of fewer than two, nor where nothing varies. ``few`` is true where an
    interval rests on so few questions that it may cover the truth less often than it says.
    """

    n: Ints
    value: Floats
    error: Floats
    low: Floats
    high: Floats
    p: Floats
    few: Flags


def question_means(values: Floats, task: Ints) -> Means:
    """Return the mean of each row over its questions: ``values`` is ``[rows, questions]``, NaN where one is missing.

    ``task`` is each question's, ``[questions]``. The variance of the mean is that of a sample stratified by task, the
    sum of (n_k / n)^2 s_k^2 / n_k (Cochran 1977, section 5.6), with Satterthwaite's (1946) degrees of freedom. Where a
    task has a single question, the tasks are taken as one.

    Interval and p value are Student's of T = (mean - truth) / error after Hall's (1992) transformation, which takes the
    skewness out of it: g(T) = T + a T^2 / 3 + a^2 T^3 / 27 + a / 6, with ``a`` the skewness of the mean, the sum of
    (value - mean of its task)^3 / n^3, divided by error^3. Without skewness they are Student's own.
    """
    from scipy.special import stdtr, stdtrit

    member = (task[:, None] == np.unique(task)[None, :]).astype(np.float64)
    there = np.isfinite(values)
    filled = np.where(there, values, 0.0)
    n_k = there @ member
    n = n_k.sum(axis=1)
    lonely = (n_k == 1).any(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = filled.sum(axis=1) / n
        centre = np.where(lonely[:, None], value[:, None], np.nan_to_num(filled @ member / n_k) @ member.T)
        away = np.where(there, filled - centre, 0.0)
        terms = np.where(n_k > 1, away**2 @ member / (n_k - 1) * n_k / n[:, None] ** 2, 0.0)
        variance = terms.sum(axis=1)
        freedom = variance**2 / np.where(n_k > 1, terms**2 / np.maximum(1, n_k - 1), 0.0).sum(axis=1)
        variance = np.where(lonely, (away**2).sum(axis=1) / (n - 1) / n, variance)
        freedom = np.where(lonely, n - 1, freedom)
        # What is the same for every question but for rounding has no spread to tell.
        size = np.abs(filled).max(axis=1, initial=0.0)
        error = np.sqrt(np.where(variance > (1e-12 * size) ** 2, variance, np.nan))
        skew = (away**3).sum(axis=1) / (n * error) ** 3
        p = 2 * stdtr(freedom, -np.abs(_transformed(value / error, skew)))
        half = stdtrit(freedom, LEVEL)
        low, high = (value - _back(end, skew) * error for end in (half, -half))
    few = np.isfinite(error) & ((n < FEW) | (np.abs(skew) > FEW**-0.5))
    return Means(n.astype(np.int64), value, error, low, high, p, few)


def _transformed(t: Floats, skew: Floats) -> Floats:
    return np.asarray(t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6)


def _back(g: Floats, skew: Floats) -> Floats:
    """Return T where ``_transformed`` is ``g``."""
    rest = g - skew / 6
    # Below, the cube root's difference from 1 is lost to rounding.
    some = np.abs(skew) > 1e-7
    return np.where(some, 3 * (np.cbrt(1 + skew * rest) - 1) / np.where(some, skew, 1.0), rest)
