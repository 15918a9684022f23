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
from warmeng.study.stats.shares import Shares
from warmeng.study.stats.units import asked_plainly, pairs, pooled_tasks, unit_key


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
                numbers = (100 * float(x[k]) for x in (found.value, found.low, found.high))
                head = dict(zip((c.key for c in columns), label, strict=True)) | {"n": int(found.n[k])}
                rows.append(head | dict(zip(("value", "low", "high"), numbers, strict=True)))
    return in_order(rows, columns, ("task", "model", "context", "belief", "persona"))


@dataclass(frozen=True)
class Smoothed:
    """Mean changes by group with what their intervals are made of, ``[groups]`` each; ``n`` counts clusters."""

    n: Ints
    value: Floats
    centre: Floats
    error: Floats


def smoothed(group: Ints, change: Floats, cluster: Ints, groups: int) -> Smoothed:
    """Return the mean paired change by group, and Bonett and Price's (2012) centre and standard error of it.

    Clusters (questions) weigh alike, by their mean change. Theirs is for paired proportions, with one pair added to
    either side; here it is written over the clusters' means.
    """
    width = int(cluster.max(initial=0)) + 1
    pair, at = np.unique(group * width + cluster, return_inverse=True)
    owner = pair // width
    means = np.bincount(at, weights=change, minlength=len(pair)) / np.bincount(at, minlength=len(pair))
    n = np.bincount(owner, minlength=groups)
    total = np.bincount(owner, weights=means, minlength=groups)
    squares = np.bincount(owner, weights=means**2, minlength=groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = total / n
    centre = total / (n + 2)
    return Smoothed(n, value, centre, np.sqrt(((squares + 2) / (n + 2) - centre**2) / (n + 2)))


def mean_changes(group: Ints, change: Floats, cluster: Ints, groups: int) -> Shares:
    """Return the mean paired change by group with its 95 % interval, ``[groups]``; ``n`` counts clusters.

    The interval is centre +- 1.96 standard errors: see ``smoothed``.
    """
    found = smoothed(group, change, cluster, groups)
    half = Z * found.error
    return Shares(found.n, found.value, np.maximum(-1.0, found.centre - half), np.minimum(1.0, found.centre + half))
