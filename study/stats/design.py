"""From answers to a regression's design: few different rows, with their counts by question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from warmeng.study.results.frame import Factor, Flags, Frame, Small
from warmeng.study.stats.draws import Draws, Floats, Ints, number, ratio, sums
from warmeng.study.stats.logit import Fit, cluster_cov, expit, fit, fit_many
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

    def gradient(self, beta: Floats, weights: Floats) -> tuple[float, float, Floats]:
        """Return (mean predicted without, with the persona, gradient of their difference) over weighted rows."""
        p0, p1 = expit(self.off @ beta), expit(self.on @ beta)
        total = weights.sum()
        slope = (weights * p1 * (1 - p1)) @ self.on - (weights * p0 * (1 - p0)) @ self.off
        return float(weights @ p0 / total), float(weights @ p1 / total), slope / total


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
    """A design's fit with both covariances, and the replicates of everything that intervals are wanted for."""

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
        """Return the persona's log-odds ratio in a group and its standard errors, plain and clustered."""
        pick = np.zeros(len(self.fit.beta))
        pick[1] = 1.0
        if group:
            pick[len(pick) - len(self.design.groups) + group] = 1.0
        return float(pick @ self.fit.beta), _se(pick, self.fit.cov), _se(pick, self.clustered)

    def effect(self, group: int) -> tuple[float, float, float, float]:
        """Return the average marginal effect in points, its delta-method errors, plain and clustered, and the mean
        predicted error without the persona (0..1). By g-computation over the answers of the group, of both personas.
        """
        n, _ = self.design.totals
        p0, p1, slope = self.design.gradient(self.fit.beta, np.where(self.design.group == group, n, 0.0))
        return 100 * (p1 - p0), 100 * _se(slope, self.fit.cov), 100 * _se(slope, self.clustered), p0


def _se(pick: Floats, cov: Floats) -> float:
    """Return the standard error of a combination; NaN where too few clusters leave it no variance at all."""
    variance = float(pick @ cov @ pick)
    return math.sqrt(variance) if variance > 0 else math.nan


@dataclass(frozen=True)
class Replicates:
    """Bootstrap replicates by group, in points: ``[replicates, groups]``; effect is missing without a fit."""

    effect: Floats | None
    raw: Floats


def resample(design: Design, fitted: Fitted | None, draws: Draws) -> Replicates:
    """Refit the counts that each draw of questions gives."""
    d, many = len(design.x), len(design.groups)
    n, y = draws.totals(design.cluster, design.row, (design.n, design.y), d)
    member = (design.group[:, None] == np.arange(many)).astype(float)  # [d, groups]
    on, off = member * design.persona[:, None], member * ~design.persona[:, None]
    raw = 100 * (ratio(y @ on, n @ on) - ratio(y @ off, n @ off))
    if fitted is None:
        return Replicates(None, raw)
    beta = fit_many(design.x, n, y, fitted.fit.beta)
    change = expit(beta @ design.on.T) - expit(beta @ design.off.T)
    return Replicates(100 * ratio((n * change) @ member, n @ member), raw)


def raw(design: Design, group: int) -> tuple[int, float | None, float | None, float | None]:
    """Return (answers, error without, error with the persona as shares, their difference in points) of a group."""
    n, y = design.totals
    mine = design.group == group
    shares = []
    for side in (mine & ~design.persona, mine & design.persona):
        shares.append(float(y[side].sum() / n[side].sum()) if n[side].sum() else float("nan"))
    return int(n[mine].sum()), number(shares[0]), number(shares[1]), number(100 * (shares[1] - shares[0]))
