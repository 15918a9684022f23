"""Paired changes in errors: a variant's from the baseline, and a belief's from none."""

from __future__ import annotations

from typing import Any

import numpy as np

from warmeng.study.results.frame import Flags, Frame, Small
from warmeng.study.results.views import NONE
from warmeng.study.stats.draws import Floats, Ints
from warmeng.study.stats.intervals import Z
from warmeng.study.stats.margins import Margin, in_order, margins
from warmeng.study.stats.shares import Shares
from warmeng.study.stats.units import asked_plainly, pairs, pooled_tasks, unit_key


def differences(frame: Frame, outcome: Small, baseline: str, variants: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the table ``differences``: each variant's errors minus the baseline's, over what both decided, in points.

    By model, task, context and belief, with ``all`` as in ``error_rates``; the plain framing alone; ``n`` counts
    questions. See ``mean_changes`` for the interval.
    """
    rows: list[dict[str, Any]] = []
    together = pooled_tasks(frame)
    for variant in variants:
        left, right = pairs(frame, baseline, variant)
        decided = (outcome[left] >= 0) & (outcome[right] >= 0) & asked_plainly(frame)[left]
        left, right = left[decided], right[decided]
        part, change = frame.take(right), outcome[right].astype(np.float64) - outcome[left].astype(np.float64)
        columns = [
            Margin("model", part.model, len(np.unique(part.model.codes)) > 1),
            Margin("persona", part.persona, False),
            Margin("task", part.task, True),
            Margin("context", part.context, True),
            Margin("belief", part.belief, True),
        ]
        rows += _change_rows(part, change, columns, together[right])
    return rows


def belief_effects(frame: Frame, outcome: Small) -> list[dict[str, Any]]:
    """Return the table ``belief_effects``: a persona's errors under a belief of the user minus those without one.

    Over the answers that were decided both times, in points, by model, persona, task, context and belief; the plain
    framing alone; ``n`` counts questions.
    """
    key = unit_key(frame.without("belief")) * max(1, len(frame.persona.names)) + frame.persona.codes
    decided = (outcome >= 0) & asked_plainly(frame)
    none = np.flatnonzero(decided & frame.belief.is_(NONE))
    held = np.flatnonzero(decided & ~frame.belief.is_(NONE))
    order = np.argsort(key[none], kind="stable")
    at = np.searchsorted(key[none], key[held], sorter=order)
    found = order[np.minimum(at, len(none) - 1)] if len(none) else np.zeros(0, dtype=np.int64)
    same = key[none[found]] == key[held] if len(none) else np.zeros(len(held), dtype=bool)
    right, left = held[same], none[found[same]] if len(none) else held[same]
    if not len(right):
        return []
    part, change = frame.take(right), outcome[right].astype(np.float64) - outcome[left].astype(np.float64)
    columns = [
        Margin("model", part.model, len(np.unique(part.model.codes)) > 1),
        Margin("persona", part.persona, False),
        Margin("task", part.task, True),
        Margin("context", part.context, True),
        Margin("belief", part.belief, False),
    ]
    return _change_rows(part, change, columns, pooled_tasks(frame)[right])


def _change_rows(part: Frame, change: Floats, columns: list[Margin], together: Flags) -> list[dict[str, Any]]:
    """Return a row for each group of paired changes; ``together`` are the pairs that rows over all tasks count."""
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


def mean_changes(group: Ints, change: Floats, cluster: Ints, groups: int) -> Shares:
    """Return the mean paired change by group with its 95 % interval, ``[groups]``; ``n`` counts clusters.

    Clusters (questions) weigh alike, by their mean change. The interval is Bonett and Price's (2012) for paired
    proportions, with one pair added to either side, written over the clusters' means.
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
    half = Z * np.sqrt(((squares + 2) / (n + 2) - centre**2) / (n + 2))
    return Shares(n, value, np.maximum(-1.0, centre - half), np.minimum(1.0, centre + half))
