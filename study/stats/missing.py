"""What undecided answers could change: shares missing by persona, worst-case bounds, and what would turn a difference.

An answer that no rule and no judge decided is missing, and not at random: a persona that hedges loses other answers
than one that doesn't. The bounds ask nothing about them (Manski 1989; Horowitz and Manski 2000): every undecided
answer of the variant counts as right and every one of the baseline as wrong, and the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from warmeng.study.results.frame import Frame, Small
from warmeng.study.stats.changes import mean_changes, smoothed
from warmeng.study.stats.draws import Floats, Ints
from warmeng.study.stats.intervals import Z
from warmeng.study.stats.margins import in_order, margins, place_columns
from warmeng.study.stats.units import asked_plainly, pairs, pooled_tasks

LEVEL = 0.95
# Of a normal distribution, below which it has 95 %: the least critical value, where the bounds are far apart.
ONE_SIDED = 1.6448536269514722
# Halvings of the interval that the critical value is sought in: to 1e-12.
_HALVINGS = 40


@dataclass(frozen=True)
class Bounds:
    """The lowest and the highest that a mean change can be, with a 95 % interval for the change, ``[groups]`` each."""

    n: Ints
    lowest: Floats
    highest: Floats
    low: Floats
    high: Floats


def missing_bounds(frame: Frame, outcome: Small, baseline: str, variants: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the table ``missing``: what each variant's undecided answers, and the baseline's, could do to differences.

    By model, task, context and belief, as the table ``differences``; over all pairs of answers to the same, decided or
    not. Only places where an answer of either persona is undecided.
    """
    rows: list[dict[str, Any]] = []
    for variant in variants:
        left, right = pairs(frame, baseline, variant)
        plain = asked_plainly(frame)[left]
        rows += _rows(frame, outcome, left[plain], right[plain])
    return rows


def _rows(frame: Frame, outcome: Small, left: Ints, right: Ints) -> list[dict[str, Any]]:
    part = frame.take(right)
    before, after = outcome[left], outcome[right]
    lowest = (after == 1).astype(np.float64) - (before != 0)
    highest = (after != 0).astype(np.float64) - (before == 1)
    gone = np.stack([before < 0, after < 0]).astype(np.float64)
    wrong = np.stack([before == 1, after == 1]).astype(np.float64)
    together = pooled_tasks(frame)[right]
    columns = place_columns(part)
    rows: list[dict[str, Any]] = []
    for kept, labels, groups in margins(columns):
        use = np.ones(len(part), dtype=bool) if "task" in kept else together
        group, items, size = groups[use], part.item.codes[use].astype(np.int64), len(labels)
        count = np.bincount(group, minlength=size)
        lost, failed = (
            np.stack([np.bincount(group, x[use], size) for x in each]).astype(np.float64) for each in (gone, wrong)
        )
        more = mean_changes(group, gone[1, use] - gone[0, use], items, size)
        found = change_bounds(group, lowest[use], highest[use], items, size)
        for k, label in enumerate(labels):
            if not lost[:, k].any():
                continue
            head: dict[str, Any] = dict(zip((c.key for c in columns), label, strict=True)) | {"n": int(found.n[k])}
            head |= {"missing_baseline": float(lost[0, k] / count[k]), "missing": float(lost[1, k] / count[k])}
            head |= {"more": 100 * float(more.value[k])}
            head |= {"more_low": 100 * float(more.low[k]), "more_high": 100 * float(more.high[k])}
            head |= {name: 100 * float(getattr(found, name)[k]) for name in ("lowest", "highest", "low", "high")}
            rows.append(head | {"turns": turning_share(int(count[k]), lost[:, k], failed[:, k])})
    return in_order(rows, columns, ("task", "model", "context", "belief", "persona"))


def change_bounds(group: Ints, lowest: Floats, highest: Floats, cluster: Ints, groups: int) -> Bounds:
    """Return the bounds of the mean paired change by group, each cluster (question) weighing alike.

    ``lowest`` and ``highest`` are what each pair's change can be, ``[pairs]``. The interval covers the true change,
    wherever it lies between the bounds, in 95 % (Imbens and Manski 2004): each bound's standard error is that of
    ``mean_changes``, times the c with F(c + (highest - lowest) / s) - F(-c) = 0.95, s the larger of the two and F the
    normal distribution. Where nothing is missing it is the interval of ``mean_changes``.
    """
    from scipy.special import ndtr

    least, most = (smoothed(group, change, cluster, groups) for change in (lowest, highest))
    width = (most.value - least.value) / np.maximum(least.error, most.error)
    below, above = np.full(groups, ONE_SIDED), np.full(groups, Z)
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        enough = ndtr(middle + width) - ndtr(-middle) >= LEVEL
        above, below = np.where(enough, middle, above), np.where(enough, below, middle)
    return Bounds(
        least.n,
        least.value,
        most.value,
        np.maximum(-1.0, least.centre - above * least.error),
        np.minimum(1.0, most.centre + above * most.error),
    )


def turning_share(count: int, lost: Floats, failed: Floats) -> float | None:
    """Return the share of the variant's undecided answers that would have to be incorrect for no difference at all.

    ``lost`` and ``failed`` are the undecided and the incorrect answers of baseline and variant, of ``count`` each. The
    baseline's undecided ones are taken to be incorrect as often as its decided ones. ``None`` where no share does it.
    """
    decided = count - lost
    if not lost[1] or not decided[0]:
        return None
    share = float((count * failed[0] / decided[0] - failed[1]) / lost[1])
    return share if 0.0 <= share <= 1.0 else None
