"""Shares with question-clustered intervals: error rates by every margin, and of the framings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from warmeng.study.contexts import UNMODIFIED
from warmeng.study.grading.grade import GRADES
from warmeng.study.results.frame import Frame, Small
from warmeng.study.stats.draws import Floats, Ints
from warmeng.study.stats.intervals import Z
from warmeng.study.stats.margins import Margin, in_order, margins, place_columns
from warmeng.study.stats.units import asked_plainly, pooled_tasks


@dataclass(frozen=True)
class Shares:
    """Shares by group with 95 % intervals, NaN where there is nothing: ``[groups]`` each."""

    n: Ints
    value: Floats
    low: Floats
    high: Floats


def clustered_shares(group: Ints, hit: Floats, cluster: Ints, groups: int) -> Shares:
    """Return the share of hits by group with Wilson's interval at the effective size that clustering leaves.

    The effective size is Kish's: p (1 - p) / variance, the variance between clusters with m/(m-1); at least the number
    of clusters, at most n; the number of clusters where p is 0 or 1 and clusters repeat.
    """
    n = np.bincount(group, minlength=groups)
    k = np.bincount(group, weights=hit, minlength=groups)
    pair, at = np.unique(group * (int(cluster.max(initial=0)) + 1) + cluster, return_inverse=True)
    owner = pair // (int(cluster.max(initial=0)) + 1)
    size = np.bincount(at, minlength=len(pair)).astype(float)
    hits = np.bincount(at, weights=hit, minlength=len(pair))
    m = np.bincount(owner, minlength=groups).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = k / n
        spread = np.bincount(owner, weights=(hits - p[owner] * size) ** 2, minlength=groups)
        variance = m / (m - 1) * spread / n.astype(float) ** 2
        kish = np.clip(p * (1 - p) / variance, m, n)
        effective = np.where(m < n, np.where((m > 1) & (p > 0) & (p < 1), np.where(variance > 0, kish, n), m), n)
        centre = (p * effective + Z * Z / 2) / (effective + Z * Z)
        half = Z / (effective + Z * Z) * np.sqrt(effective * p * (1 - p) + Z * Z / 4)
    return Shares(n, p, np.maximum(0.0, centre - half), np.minimum(1.0, centre + half))


def error_rates(frame: Frame, outcome: Small) -> list[dict[str, Any]]:
    """Return the table ``error_rates``: share incorrect of decided answers by model, persona, task, context, belief.

    ``all`` pools tasks (but those of general ability), contexts, beliefs, and models where there is more than one.
    The plain framing alone: see ``asked_plainly``.
    """
    plain = asked_plainly(frame)
    frame, outcome = frame.take(plain), outcome[plain]
    columns = place_columns(frame)
    rows: list[dict[str, Any]] = []
    together = pooled_tasks(frame)
    for kept, labels, group in margins(columns):
        use = np.ones(len(frame), dtype=bool) if "task" in kept else together
        rows += _error_rows(frame.take(use), outcome[use], columns, labels, group[use])
    return in_order(rows, columns, ("task", "model", "context", "belief", "persona"))


def framings(frame: Frame, outcome: Small) -> list[dict[str, Any]]:
    """Return the table ``framings``: error rates by persona and framing, in the place that both framings are asked in.

    Without a belief and context, over all tasks but those of general ability. Empty where one framing was asked.
    """
    if len(np.unique(frame.framing.codes)) < 2:
        return []
    use = pooled_tasks(frame) & frame.belief.is_("none") & frame.context.is_(UNMODIFIED)
    part, known = frame.take(use), outcome[use]
    columns = [
        Margin("model", part.model, len(np.unique(part.model.codes)) > 1),
        Margin("persona", part.persona, False),
        Margin("framing", part.framing, False),
    ]
    rows: list[dict[str, Any]] = []
    for _, labels, group in margins(columns):
        rows += _error_rows(part, known, columns, labels, group)
    return in_order(rows, columns, ("model", "persona", "framing"))


def _error_rows(
    frame: Frame, outcome: Small, columns: Sequence[Margin], labels: list[list[str]], group: Ints
) -> list[dict[str, Any]]:
    """Return a row for each group that has answers: the share incorrect of the decided ones, and all grades' counts."""
    decided = outcome >= 0
    wrong = (outcome[decided] == 1).astype(float)
    found = clustered_shares(group[decided], wrong, frame.item.codes[decided].astype(np.int64), len(labels))
    cells = group * len(GRADES) + frame.grade.astype(np.int64)
    counts = np.bincount(cells, minlength=len(labels) * len(GRADES)).reshape(-1, len(GRADES))
    return [
        dict(zip((c.key for c in columns), label, strict=True))
        | share_row(found, k, "error")
        | {name: int(counts[k, g]) for g, name in enumerate(GRADES)}
        for k, label in enumerate(labels)
        if counts[k].sum()
    ]


def share_row(found: Shares, k: int, name: str) -> dict[str, Any]:
    n = int(found.n[k])
    if not n:
        return {"n": 0, name: None, "low": None, "high": None}
    return {"n": n, name: float(found.value[k]), "low": float(found.low[k]), "high": float(found.high[k])}
