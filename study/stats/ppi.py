"""Prediction-powered estimates: error rates by people's labels of a few answers and a grader's grades of all of them.

The grades of all answers are corrected by what the labels say of them, each labelled answer standing for one over the
probability with which it was chosen (Horvitz and Thompson 1952; active statistical inference: Zrnic and Candes 2024).
How much the grades count is tuned by the data, so that a bad grader costs nothing: PPI++ (Angelopoulos, Duchi and
Zrnic 2023, arXiv 2311.01453). Nothing is assumed about the grader's errors; they may depend on anything.

An error rate is incorrect / decided, both by people, the root t of sum (incorrect - t decided) = 0. With the weights w
(0 where nobody labelled an answer) and the tuning l it solves the sum over all answers of

    w (incorrect - t decided) by people + l (1 - w) (incorrect - t decided) by the grader = 0.

A question's answers are one cluster: the variance is between the sums that questions have of this, which holds the
drawing of questions and of labels. l minimises it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from warmeng.study.stats.draws import Floats, Ints
from warmeng.study.stats.intervals import DISCORDANT, Z

# What the interval adds to each sample: an incorrect answer that was graded correct, and the other way round, each
# weighing this much of a labelled one. So no interval is without width where no error of the grader was found; the
# amount was chosen by simulation (docs/statistics.md).
ADDED = 0.5
# With fewer labelled answers than this of a persona there is no estimate.
FEWEST = 10
# Of a run that is planned: the share of answers that are incorrect, and sensitivity and specificity of its grader.
PLANNED_RATE, PLANNED_SKILL = 0.25, 0.9
# Rounds in which rates and tuning settle, and the change that ends them.
_ROUNDS, _SETTLED = 30, 1e-6


@dataclass(frozen=True)
class Sample:
    """One persona's answers. ``graded`` and ``labelled`` are (incorrect, decided) of each, ``[n, 2]``.

    They are 0 or 1 by a grader, and a mean over people who may differ. ``weight`` is 1 / the probability that an answer
    was to be labelled, 0 where nobody did, ``cluster`` its question, ``[n]`` both. What stands in ``labelled`` where
    the weight is 0 is not read.
    """

    graded: Floats
    labelled: Floats
    weight: Floats
    cluster: Ints

    @property
    def labels(self) -> int:
        """Labelled answers."""
        return int(np.count_nonzero(self.weight))

    def unlabelled(self) -> Sample:
        """Return the sample with the grader's word alone."""
        return Sample(self.graded, self.labelled, np.zeros(len(self.weight)), self.cluster)


@dataclass(frozen=True)
class Estimate:
    """A share, or a difference of shares, with its 95 % interval; ``tuning`` is l of each sample."""

    value: float
    low: float
    high: float
    tuning: tuple[float, ...]


def powered_rate(sample: Sample) -> Estimate | None:
    """Return the error rate by people, 0..1; ``None`` where fewer than ``FEWEST`` answers are labelled, or none is
    decided.
    """
    return _estimate((sample,), (1.0,), (0.0, 1.0)) if sample.labels >= FEWEST else None


def powered_difference(first: Sample, second: Sample) -> Estimate | None:
    """Return the second's error rate by people minus the first's, -1..1; ``None`` as ``powered_rate``.

    Clusters of the same number are one question, so what both find hard cancels.
    """
    if min(first.labels, second.labels) < FEWEST:
        return None
    return _estimate((first, second), (-1.0, 1.0), (-1.0, 1.0))


def graded_rate(sample: Sample) -> Estimate | None:
    """Return the error rate by the grader's word, whose interval knows nothing of its errors."""
    return _estimate((sample.unlabelled(),), (1.0,), (0.0, 1.0), tuned=False)


def graded_difference(first: Sample, second: Sample) -> Estimate | None:
    """Return the difference by the grader's word, as ``graded_rate``."""
    return _estimate((first.unlabelled(), second.unlabelled()), (-1.0, 1.0), (-1.0, 1.0), tuned=False)


def half_width(questions: int, labels: int) -> float:
    """Return about half the width, in points, of the interval of a paired difference, before a run.

    ``labels`` in all, half of each persona's, drawn alike from one answer of each persona to each question. Questions:
    ``DISCORDANT`` of the pairs differ. Labels: of each persona (1 - r^2) p (1 - p) (1 / its labels - 1 / its answers),
    r the correlation of label and grade (the variance at the best tuning), p ``PLANNED_RATE``, and the grader finds
    ``PLANNED_SKILL`` of incorrect and of correct answers.
    """
    p, youden = PLANNED_RATE, 2 * PLANNED_SKILL - 1
    judged = p * PLANNED_SKILL + (1 - p) * (1 - PLANNED_SKILL)
    explained = p * (1 - p) * youden**2 / (judged * (1 - judged))
    mine = min(labels / 2, questions)
    of_labels = 2 * (1 - explained) * p * (1 - p) * (1 / mine - 1 / questions)
    return 100 * Z * math.sqrt(DISCORDANT / questions + of_labels)


def _estimate(
    samples: Sequence[Sample], signs: Sequence[float], within: tuple[float, float], tuned: bool = True
) -> Estimate | None:
    if not all(_decided(sample) for sample in samples):
        return None
    value, _, tuning = _solve(samples, signs, tuned)
    more = [_smoothed(sample) for sample in samples]
    first = 1 + max(int(sample.cluster.max()) for sample in samples)
    more = [
        Sample(s.graded, s.labelled, s.weight, np.concatenate([s.cluster[:-2], first + 2 * k + np.arange(2)]))
        for k, s in enumerate(more)
    ]
    centre, parts, _ = _solve(more, signs, tuned)
    half = _half(parts, sum(sample.labels for sample in samples), 2 * len(samples))
    return Estimate(value, max(within[0], centre - half), min(within[1], centre + half), tuple(tuning))


def _decided(sample: Sample) -> bool:
    by = sample.weight @ sample.labelled[:, 1] if sample.labels else sample.graded[:, 1].sum()
    return bool(by > 0)


def _smoothed(sample: Sample) -> Sample:
    """Return the sample and two answers more, which the grader got wrong: see ``ADDED``."""
    labelled = sample.weight[sample.weight > 0]
    weight = ADDED * (labelled.mean() if len(labelled) else 0.0)
    return Sample(
        np.vstack([sample.graded, [[0.0, 1.0], [1.0, 1.0]]]),
        np.vstack([sample.labelled, [[1.0, 1.0], [0.0, 1.0]]]),
        np.concatenate([sample.weight, [weight, weight]]),
        np.concatenate([sample.cluster, [0, 0]]),
    )


def _solve(samples: Sequence[Sample], signs: Sequence[float], tuned: bool) -> tuple[float, Floats, list[float]]:
    """Return the estimate, each question's part of its error, and the tuning of each sample."""
    size = 1 + max(int(sample.cluster.max()) for sample in samples)
    tuning = [1.0] * len(samples)
    for _ in range(_ROUNDS):
        value, fixed, moved = 0.0, np.zeros(size), np.zeros((size, len(samples)))
        for k, (sample, sign) in enumerate(zip(samples, signs, strict=True)):
            w = sample.weight
            by_people = np.where(w[:, None] > 0, sample.labelled, 0.0)
            top, bottom = (w @ by_people + tuning[k] * ((1 - w) @ sample.graded)).tolist()
            rate = top / bottom
            value += sign * rate
            people, grader = (x[:, 0] - rate * x[:, 1] for x in (by_people, sample.graded))
            fixed += sign * np.bincount(sample.cluster, w * people, size) / bottom
            moved[:, k] = sign * np.bincount(sample.cluster, (1 - w) * grader, size) / bottom
        if not tuned:
            break
        best = -np.linalg.lstsq(moved - moved.mean(0), fixed - fixed.mean(), rcond=None)[0]
        before, tuning = tuning, np.clip(best, 0.0, 1.0).tolist()
        if max(abs(a - b) for a, b in zip(before, tuning, strict=True)) < _SETTLED:
            break
    return value, fixed + moved @ np.array(tuning), tuning


def _half(parts: Floats, labels: int, fitted: int) -> float:
    """Return half the width of a 95 % interval: Student's, with the degrees of freedom that the parts' spread leaves.

    Few labels with large weights make a variance that is itself uncertain: its degrees of freedom are 2 v^2 / var(v),
    by the fourth moment (Satterthwaite 1946). What was fitted to the labels, a rate and a tuning of each sample, is
    taken off their number.
    """
    from scipy.stats import t

    n, parts = len(parts), parts - parts.mean()
    squares, fourth = float(np.sum(parts**2)), float(np.sum(parts**4))
    freedom = max(1.0, 2 * squares**2 / max(fourth - squares**2 / n, 1e-300))
    lost = labels / (labels - fitted) if labels else 1.0
    return float(t.ppf(0.975, freedom)) * math.sqrt(n / (n - 1) * squares * lost)
