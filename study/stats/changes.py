"""Paired changes in errors: a variant's from the baseline, and a belief's from none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from warmeng.study.results.frame import Frame, Small
from warmeng.study.results.views import NONE
from warmeng.study.stats.draws import Floats, Ints
from warmeng.study.stats.intervals import Z
from warmeng.study.stats.margins import in_order, margins, place_columns
from warmeng.study.stats.units import asked_plainly, pairs, pooled_tasks, unit_key

# Questions that an interval adds, of which one changes this way and one that way: see ``smoothed``.
ADDED = 2
# A variance below it is none.
ROUNDING = 1e-12
# Paired changes that a value is a sum of: one, or the two of a difference in differences.
SINGLE, TWICE = 1, 2


def differences(frame: Frame, outcome: Small, baseline: str, variants: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the table ``differences``: each variant's errors minus the baseline's, over what both decided, in points.

    By model, task, context and belief, with ``all`` as in ``error_rates``; the plain framing alone; ``n`` counts
    questions. See ``mean_changes`` for the interval.
    """
    rows: list[dict[str, Any]] = []
    for variant in variants:
        rows += _change_rows(frame, outcome, *pairs(frame, baseline, variant), pool_beliefs=True)
    return rows


def belief_effects(frame: Frame, outcome: Small) -> list[dict[str, Any]]:
    """Return the table ``belief_effects``: a persona's errors under a belief of the user minus those without one.

    Over the answers that were decided both times, in points, by model, persona, task, context and belief; the plain
    framing alone; ``n`` counts questions.
    """
    key = unit_key(frame.without("belief")) * max(1, len(frame.persona.names)) + frame.persona.codes
    none = np.flatnonzero(frame.belief.is_(NONE))
    left, right = [none[:0]], [none[:0]]
    for belief in frame.belief.names:
        held = np.flatnonzero(frame.belief.is_(belief))
        if belief != NONE:
            _, a, b = np.intersect1d(key[none], key[held], return_indices=True)
            left.append(none[a])
            right.append(held[b])
    return _change_rows(frame, outcome, np.concatenate(left), np.concatenate(right), pool_beliefs=False)


def _change_rows(frame: Frame, outcome: Small, left: Ints, right: Ints, pool_beliefs: bool) -> list[dict[str, Any]]:
    """Return a row for each group of pairs that were decided both times: the mean of ``right`` minus ``left``."""
    both = (outcome[left] >= 0) & (outcome[right] >= 0) & asked_plainly(frame)[left]
    left, right = left[both], right[both]
    part, change = frame.take(right), outcome[right].astype(np.float64) - outcome[left].astype(np.float64)
    together = pooled_tasks(frame)[right]
    columns = place_columns(part, pool_beliefs)
    rows: list[dict[str, Any]] = []
    for kept, labels, group in margins(columns):
        use = np.ones(len(part), dtype=bool) if "task" in kept else together
        found = mean_changes(group[use], change[use], part.item.codes[use].astype(np.int64), len(labels))
        for k, label in enumerate(labels):
            if found.n[k]:
                head = dict(zip((c.key for c in columns), label, strict=True))
                rows.append(head | found.points(k) | {"p": float(found.p[k])})
    return in_order(rows, columns, ("task", "model", "context", "belief", "persona"))


@dataclass(frozen=True)
class Smoothed:
    """Mean changes by group with what their intervals are made of, ``[groups]`` each; ``n`` counts clusters."""

    n: Ints
    value: Floats
    centre: Floats
    error: Floats


@dataclass(frozen=True)
class Changes:
    """Mean changes by group with 95 % intervals and p values, ``[groups]`` each; ``n`` counts clusters."""

    n: Ints
    value: Floats
    low: Floats
    high: Floats
    p: Floats

    def points(self, k: int) -> dict[str, Any]:
        """Return one of them as a row has it: in percentage points."""
        bounds = {name: 100 * float(getattr(self, name)[k]) for name in ("value", "low", "high")}
        return {"n": int(self.n[k]), **bounds}


def smoothed(group: Ints, change: Floats, cluster: Ints, groups: int, changes: int = SINGLE) -> Smoothed:
    """Return the mean paired change by group, and Bonett and Price's (2012) centre and standard error of it.

    Clusters (questions) weigh alike, by their mean change. Theirs is for paired proportions, with one pair added to
    either side; here it is written over the clusters' means, and what is added are two clusters of the weight of
    ``added_weight``. A change that is a sum of several (``changes``: a difference in differences is of two) has the
    variance of as many added pairs.
    """
    width = int(cluster.max(initial=0)) + 1
    pair, at = np.unique(group * width + cluster, return_inverse=True)
    owner, size = pair // width, np.bincount(at, minlength=len(pair))
    means, single = (np.bincount(at, weights=x, minlength=len(pair)) / size for x in (change, change**2))
    n = np.bincount(owner, minlength=groups)
    total, squares, singles, sizes = (
        np.bincount(owner, weights=x, minlength=groups) for x in (means, means**2, single, size)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        value = total / n
        weight = added_weight(squares / n - value**2, singles / n - value**2, sizes / n)
    whole = n + ADDED * weight
    centre = total / whole
    apart = squares - 2 * centre * total + n * centre**2 + ADDED * weight**2 * (changes + centre**2)
    return Smoothed(n, value, centre, np.sqrt(apart) / whole)


def added_weight(between: Floats, single: Floats, size: Floats) -> Floats:
    """Return how much of a question each added one is: as much as a single pair of answers tells.

    ``between`` is the variance of the questions' mean changes, ``single`` that of single pairs, ``size`` the pairs of
    a question. A question whose pairs all tell the same is worth one pair, and the added one is a whole question; where
    its pairs are as good as independent, it is that part of one (the design effect, Kish 1965). Where nothing varies
    nobody knows, and it is whole.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(single > ROUNDING, between / single, 1.0)
        return np.asarray(np.clip(share, 1 / size, 1.0))


def mean_changes(group: Ints, change: Floats, cluster: Ints, groups: int, changes: int = SINGLE) -> Changes:
    """Return the mean paired change by group with its 95 % interval, ``[groups]``; ``n`` counts clusters.

    The interval is centre +- 1.96 standard errors, and p that of the normal distribution: see ``smoothed``.
    """
    from scipy.special import ndtr

    found = smoothed(group, change, cluster, groups, changes)
    half = Z * found.error
    low, high = np.maximum(-changes, found.centre - half), np.minimum(changes, found.centre + half)
    return Changes(found.n, found.value, low, high, 2 * ndtr(-np.abs(found.centre) / found.error))
