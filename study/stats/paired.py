"""Paired comparisons: the same question, context, belief, framing and sample, answered by two personas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from warmeng.study.results.frame import Factor, Frame, Small
from warmeng.study.results.views import BELIEF, MISTAKEN, NONE
from warmeng.study.stats.draws import Floats, number
from warmeng.study.stats.units import asked_plainly, pairs


def belief_table(frame: Frame) -> Factor:
    """Return the paper's tables as a factor: ``none`` against ``wrong belief``; other beliefs keep their names."""
    names = Factor.of((BELIEF if name in MISTAKEN else name for name in frame.belief.names), (NONE, BELIEF))
    return Factor(names.names, names.codes[frame.belief.codes] if len(frame) else np.zeros(0, dtype=np.int32))


def mcnemar(frame: Frame, outcome: Small, baseline: str, variants: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the rows of the table ``mcnemar``: exact tests of each variant by model, task, context and belief table.

    As in the authors' tables, both wrong beliefs are one table, and the neutral framing is left out (their script asks
    for it by a name that their files don't have). ``b`` counts pairs that only the baseline answered rightly, ``c``
    only the variant. ``g`` is the authors' "Cohen's g",
    |b-c| / sqrt(b+c); ``cohens_g`` is Cohen's (1988), max(b,c) / (b+c) - 1/2. False discoveries are controlled within
    a variant's model x task x table (Benjamini and Hochberg 1995); a condition without discordant pairs is not tested.
    """
    table = belief_table(frame)
    rows: list[dict[str, Any]] = []
    for variant in variants:
        left, right = pairs(frame, baseline, variant)
        decided = (outcome[left] >= 0) & (outcome[right] >= 0) & asked_plainly(frame)[left]
        left, right = left[decided], right[decided]
        shape = tuple(max(1, len(f.names)) for f in (frame.model, frame.task, table, frame.context))
        codes = (frame.model.codes[left], frame.task.codes[left], table.codes[left], frame.context.codes[left])
        cell = np.ravel_multi_index(codes, shape)
        size = math.prod(shape)
        before, after = outcome[left], outcome[right]
        n = np.bincount(cell, minlength=size)
        b = np.bincount(cell, weights=(before == 0) & (after == 1), minlength=size).astype(np.int64)
        c = np.bincount(cell, weights=(before == 1) & (after == 0), minlength=size).astype(np.int64)
        for family in np.arange(size).reshape(-1, shape[3]):
            found = [k for k in family if n[k]]
            p = np.array([exact_p(int(b[k]), int(c[k])) for k in found])
            corrected = false_discovery(p)
            for place, k in enumerate(found):
                model, task, belief, context = (int(x) for x in np.unravel_index(k, shape))
                head = {
                    "model": frame.model.names[model],
                    "variant": variant,
                    "task": frame.task.names[task],
                    "context": frame.context.names[context],
                    "belief": table.names[belief],
                }
                rows.append(head | _test(int(n[k]), int(b[k]), int(c[k]), p[place], corrected[place]))
    return rows


def _test(n: int, b: int, c: int, p: float, p_fdr: float) -> dict[str, Any]:
    return {
        "n": n,
        "b": b,
        "c": c,
        "difference": 100 * (c - b) / n,
        "odds_ratio": b / c if c else None,
        "g": abs(b - c) / math.sqrt(b + c) if b + c else None,
        "cohens_g": max(b, c) / (b + c) - 0.5 if b + c else None,
        "p": number(p),
        "p_fdr": number(p_fdr),
    }


def exact_p(b: int, c: int) -> float:
    """Return the two-sided exact p of McNemar's test: twice the smaller binomial tail, at most 1; NaN for no pair."""
    if b + c == 0:
        return float("nan")
    from scipy.special import bdtr

    return min(1.0, 2.0 * float(bdtr(min(b, c), b + c, 0.5)))


def false_discovery(p: Floats) -> Floats:
    """Return Benjamini and Hochberg's adjusted p values of one family; NaN stays NaN and counts for nothing."""
    found = np.full(len(p), np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    m = len(tested)
    if m:
        order = tested[np.argsort(-p[tested], kind="stable")]
        scaled = p[order] * m / np.arange(m, 0, -1)
        found[order] = np.minimum(1.0, np.minimum.accumulate(scaled))
    return found
