"""Paired comparisons: the same question, context, belief, framing and sample, answered by two personas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from warmeng.common.errors import InputError
from warmeng.study.results.frame import Factor, Frame, Small
from warmeng.study.results.views import MISTAKEN
from warmeng.study.stats.draws import Floats, Ints, number
from warmeng.study.stats.regression import BELIEF, NONE

PAIRED = ("model", "item", "context", "belief", "framing")


def pairs(frame: Frame, first: str, second: str) -> tuple[Ints, Ints]:
    """Return the rows of two personas that answer the same: ``[pairs]`` each, in the order of the first's rows.

    Raises ``InputError`` where a persona has two answers with the same question, sample, context, belief and framing.
    """
    key = unit_key(frame)
    mine = [np.flatnonzero(frame.persona.is_(name)) for name in (first, second)]
    for name, rows in zip((first, second), mine, strict=True):
        if len(np.unique(key[rows])) != len(rows):
            raise InputError(
                f"persona {name!r} has two answers with the same question, sample, context and belief: give each once"
            )
    _, left, right = np.intersect1d(key[mine[0]], key[mine[1]], assume_unique=True, return_indices=True)
    order = np.argsort(left)
    return mine[0][left[order]], mine[1][right[order]]


def unit_key(frame: Frame) -> Ints:
    """Return a number for each row that is the same for what is paired: everything but the persona."""
    key = frame.sample.astype(np.int64)
    for name in PAIRED:
        factor: Factor = getattr(frame, name)
        key = key * max(1, len(factor.names)) + factor.codes
    return key


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
        decided = (outcome[left] >= 0) & (outcome[right] >= 0) & frame.framing.is_("plain")[left]
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
