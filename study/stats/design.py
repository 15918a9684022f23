"""From answers to a regression's design: few different rows, with their counts by question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from warmeng.study.results.frame import Factor, Flags, Frame, Small
from warmeng.study.stats.changes import ADDED, added_weight
from warmeng.study.stats.draws import Floats, Ints, number, sums
from warmeng.study.stats.intervals import Z
from warmeng.study.stats.logit import Fit, cluster_cov, fit
from warmeng.study.tasks.task import is_disinformation

INTERCEPT, PERSONA = "intercept", "persona"


@dataclass(frozen=True)
class Design:
    """``x`` are the d different design rows; ``off`` and ``on`` are the same rows with the persona set to 0 and to 1.

    Entry i of ``cluster``, ``row``, ``n``, ``y`` says that question ``cluster[i]`` has n answers with design row
    ``row[i]``, y of them incorrect. ``answers`` are the frame's rows that are counted, ``at`` the design row of each.
    """

    terms: tuple[str, ...]  # the k columns' names
    groups: tuple[str, ...]
    x: Floats  # [d, k]
    off: Floats  # [d, k]
    on: Floats  # [d, k]
    group: Ints  # [d]
    persona: Flags  # [d]: whether the variant's
    cluster: Ints
    row: Ints
    n: Floats
    y: Floats
    answers: Ints
    at: Ints

    @property
    def totals(self) -> tuple[Floats, Floats]:
        """Answers and incorrect answers of each design row: ``[d]`` each."""
        d = len(self.x)
        return sums(self.row, self.n, d), sums(self.row, self.y, d)


def build(frame: Frame, outcome: Small, variant: str, group: Factor) -> Design | None:
    """Lay out ``incorrect ~ persona * group + task + model`` for the rows of a frame that holds two personas.

    ``group``'s names are its levels, the first the reference; levels that only one of the two answered are left out
    (what they would show has nothing to be compared with). Task's reference is disinformation, else the first; model's
    the first. ``None`` where nothing is left.
    """
    on = frame.persona.is_(variant)
    known = outcome >= 0
    levels = [
        k
        for k in range(len(group.names))
        if np.any(known & on & (group.codes == k)) and np.any(known & ~on & (group.codes == k))
    ]
    rows = np.flatnonzero(known & np.isin(group.codes, levels))
    if not len(rows):
        return None
    names = {"task": _present(frame.task, rows), "model": _present(frame.model, rows)}
    names["task"].sort(key=lambda k: not is_disinformation(frame.task.names[k]))  # stable: else the first stays first
    columns = [
        on[rows].astype(np.int64),
        _renumber(group.codes[rows], levels),
        _renumber(frame.task.codes[rows], names["task"]),
        _renumber(frame.model.codes[rows], names["model"]),
    ]
    shape = (2, len(levels), len(names["task"]), len(names["model"]))
    code = np.ravel_multi_index(columns, shape)
    used, row = np.unique(code, return_inverse=True)
    persona, level, task, model = np.unravel_index(used, shape)
    pair, at = np.unique(frame.item.codes[rows].astype(np.int64) * len(used) + row, return_inverse=True)
    terms = [INTERCEPT, PERSONA]
    others: list[Floats] = []
    for k in range(1, len(levels)):
        terms.append(group.names[levels[k]])
        others.append((level == k).astype(float))
    interactions = [(level == k).astype(float) for k in range(1, len(levels))]
    for name, codes in (("task", task), ("model", model)):
        factor: Factor = getattr(frame, name)
        for k, original in enumerate(names[name]):
            if k:
                terms.append(f"{name}: {factor.names[original]}")
                others.append((codes == k).astype(float))
    terms += [f"{PERSONA} x {group.names[k]}" for k in levels[1:]]

    def rows_with(value: Floats) -> Floats:
        return np.column_stack([np.ones(len(used)), value, *others, *(value * flag for flag in interactions)])

    flag = persona.astype(float)
    return Design(
        terms=tuple(terms),
        groups=tuple(group.names[k] for k in levels),
        x=rows_with(flag),
        off=rows_with(np.zeros_like(flag)),
        on=rows_with(np.ones_like(flag)),
        group=np.asarray(level),
        persona=persona.astype(bool),
        cluster=pair // len(used),
        row=pair % len(used),
        n=np.bincount(at, minlength=len(pair)).astype(float),
        y=sums(at, outcome[rows].astype(float), len(pair)),
        answers=rows,
        at=row,
    )


def _present(factor: Factor, rows: npt.NDArray[np.int64]) -> list[int]:
    return [int(k) for k in np.flatnonzero(np.bincount(factor.codes[rows], minlength=len(factor.names)))]


def _renumber(codes: npt.NDArray[np.int32], levels: Sequence[int]) -> Ints:
    place = np.full(max(levels) + 1, -1, dtype=np.int64)
    place[list(levels)] = np.arange(len(levels))
    return np.asarray(place[codes])


@dataclass(frozen=True)
class Fitted:
    """A design's fit with both covariances."""

    design: Design
    fit: Fit
    clustered: Floats  # [k, k]; NaN with one question

    @classmethod
    def of(cls, design: Design) -> Fitted:
        """Fit; raises ``NotEstimable`` as ``logit.fit``."""
        n, y = design.totals
        fitted = fit(design.x, n, y, design.terms)
        residual = design.y - design.n * fitted.p[design.row]
        clusters, at = np.unique(design.cluster, return_inverse=True)
        table = np.zeros((len(clusters), design.x.shape[1]))
        for k in range(design.x.shape[1]):
            table[:, k] = np.bincount(at, weights=residual * design.x[design.row, k], minlength=len(clusters))
        return cls(design, fitted, cluster_cov(fitted, table))

    def log_odds(self, group: int) -> tuple[float, float, float]:
        """Return the persona's log-odds ratio in a group and its standard errors, plain and clustered.

        NaN where it is not finite.
        """
        pick = np.zeros(len(self.fit.beta))
        pick[1] = 1.0
        if group:
            pick[len(pick) - len(self.design.groups) + group] = 1.0
        return self.combination(pick)

    def combination(self, pick: Floats) -> tuple[float, float, float]:
        """Return a combination of coefficients and its standard errors, plain and clustered; NaN if not finite."""
        if not self.fit.is_finite(pick):
            return math.nan, math.nan, math.nan
        return float(pick @ self.fit.beta), _se(pick, self.fit.cov), _se(pick, self.clustered)

    def effect(self, group: int) -> tuple[float, float, float, float]:
        """Return the average marginal effect in points, its delta-method errors, plain and clustered, and the mean
        predicted error without the persona (0..1). By g-computation over the answers of the group, of both personas.

        Probabilities at their limits, 0 or 1, have no errors; NaN where a limit is not known.
        """
        n, _ = self.design.totals
        weights = np.where(self.design.group == group, n, 0.0) / n[self.design.group == group].sum()
        mine = weights > 0
        p0, p1 = self.fit.predict(self.design.off[mine]), self.fit.predict(self.design.on[mine])
        w0, w1 = (weights[mine] * p * (1 - p) for p in (p0, p1))
        slope = w1 @ self.design.on[mine] - w0 @ self.design.off[mine]
        without = float(weights[mine] @ p0)
        change = float(weights[mine] @ p1) - without
        return 100 * change, 100 * _se(slope, self.fit.cov), 100 * _se(slope, self.clustered), without


def _se(pick: Floats, cov: Floats) -> float:
    """Return the standard error of a combination; NaN where too few clusters leave it no variance at all."""
    variance = float(pick @ cov @ pick)
    return math.sqrt(variance) if variance > 0 else math.nan


def smoothed(design: Design) -> Design:
    """Return the design with two questions more, of which the persona gets one wrong and one right, and the baseline
    the other way round: what Bonett and Price (2012) add to a paired difference.

    Each has ``added_weight`` times the answers of the mean question of its group, over the group's design rows as
    theirs are. Nothing is separated then, and no variance is 0.
    """
    n, _ = design.totals
    groups = range(len(design.groups))
    size = np.array([_added_share(design, k) for k in groups])[design.group] * n
    rows, last = np.arange(len(design.x)), int(design.cluster.max())
    return replace(
        design,
        cluster=np.concatenate([design.cluster, *(np.full(len(rows), last + 1 + k) for k in range(ADDED))]),
        row=np.concatenate([design.row, *(rows for _ in range(ADDED))]),
        n=np.concatenate([design.n, *(size for _ in range(ADDED))]),
        y=np.concatenate([design.y, *(size * (design.persona == (k % 2)) for k in range(ADDED))]),
    )


def _added_share(design: Design, group: int) -> float:
    """Return the answers of an added question as a share of the group's."""
    here = design.group[design.row] == group
    questions, at = np.unique(design.cluster[here], return_inverse=True)
    on, n, y = design.persona[design.row[here]], design.n[here], design.y[here]
    answers = np.stack([sums(at, n * side, len(questions)) for side in (~on, on)])
    errors = np.stack([sums(at, y * side, len(questions)) for side in (~on, on)])
    both = (answers > 0).all(axis=0)
    if not both.any():
        return 1 / len(questions)
    before, after = errors[:, both] / answers[:, both]
    mean = np.mean(after - before)
    # Of a pair of answers to a question, each drawn from its own.
    single = np.mean(before + after - 2 * before * after) - mean**2
    between = np.mean((after - before) ** 2) - mean**2
    size = answers[:, both].min(axis=0).mean()
    return float(added_weight(np.asarray(between), np.asarray(single), size)) / len(questions)


def interval(centre: float, error: float) -> tuple[float | None, float | None]:
    """Return the 95 % interval, in points, of a difference of shares."""
    if not math.isfinite(centre + error):
        return None, None
    return max(-100.0, centre - Z * error), min(100.0, centre + Z * error)


def raw(design: Design, group: int) -> tuple[int, float | None, float | None, float | None]:
    """Return (answers, error without, error with the persona as shares, their difference in points) of a group."""
    n, y = design.totals
    mine = design.group == group
    shares = []
    for side in (mine & ~design.persona, mine & design.persona):
        shares.append(float(y[side].sum() / n[side].sum()) if n[side].sum() else float("nan"))
    return int(n[mine].sum()), number(shares[0]), number(shares[1]), number(100 * (shares[1] - shares[0]))


def raw_error(design: Design, group: int) -> tuple[float, float]:
    """Return the difference of two error rates in points and its standard error between questions, by linearising."""
    here = design.group[design.row] == group
    on, cluster = design.persona[design.row][here], design.cluster[here]
    _, at = np.unique(cluster, return_inverse=True)
    moved, change = np.zeros(int(at.max()) + 1), 0.0
    for side, sign in ((on, 1.0), (~on, -1.0)):
        n, y = design.n[here] * side, design.y[here] * side
        rate = float(y.sum() / n.sum())
        change += sign * rate
        moved += sign * np.bincount(at, weights=y - rate * n) / n.sum()
    return 100 * change, 100 * math.sqrt(float(np.sum(moved**2)))
