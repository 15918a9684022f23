"""Means over questions with t intervals, the tasks as strata: for outcomes that are numbers, one a question."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from warmeng.study.stats.draws import Floats, Ints

LEVEL = 0.975  # two-sided 95 %


@dataclass(frozen=True)
class Means:
    """Means with standard errors, 95 % intervals and p values against 0, NaN where there are none: ``[rows]`` each.

    ``n`` counts questions. There is no interval of fewer than two, nor where nothing varies.
    """

    n: Ints
    value: Floats
    error: Floats
    low: Floats
    high: Floats
    p: Floats


def question_means(values: Floats, task: Ints) -> Means:
    """Return the mean of each row over its questions: ``values`` is ``[rows, questions]``, NaN where one is missing.

    ``task`` is each question's, ``[questions]``. The variance of the mean is that of a sample stratified by task, the
    sum of (n_k / n)^2 s_k^2 / n_k (Cochran 1977, section 5.6), with Satterthwaite's (1946) degrees of freedom. Where a
    task has a single question, the tasks are taken as one.
    """
    from scipy.special import stdtr, stdtrit

    member = (task[:, None] == np.unique(task)[None, :]).astype(np.float64)
    there = np.isfinite(values)
    filled = np.where(there, values, 0.0)
    n_k = there @ member
    n = n_k.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = np.nan_to_num(filled @ member / n_k) @ member.T
        within = np.where(there, filled - centre, 0.0) ** 2 @ member / (n_k - 1)
        terms = np.where(n_k > 1, within * n_k / n[:, None] ** 2, 0.0)
        variance = terms.sum(axis=1)
        freedom = variance**2 / np.where(n_k > 1, terms**2 / np.maximum(1, n_k - 1), 0.0).sum(axis=1)
        whole = np.where(there, filled - (filled.sum(axis=1) / n)[:, None], 0.0)
        lonely = (n_k == 1).any(axis=1)
        variance = np.where(lonely, (whole**2).sum(axis=1) / (n - 1) / n, variance)
        freedom = np.where(lonely, n - 1, freedom)
        value = filled.sum(axis=1) / n
        # What is the same for every question but for rounding has no spread to tell.
        size = np.abs(filled).max(axis=1, initial=0.0)
        error = np.sqrt(np.where(variance > (1e-12 * size) ** 2, variance, np.nan))
        half = stdtrit(freedom, LEVEL) * error
        p = 2 * stdtr(freedom, -np.abs(value) / error)
    return Means(n.astype(np.int64), value, error, value - half, value + half, p)
