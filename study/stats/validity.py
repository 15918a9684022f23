"""What margins tell of generated answers: how well they tell the correct ones from the incorrect ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from warmeng.study.prompts import OPEN
from warmeng.study.results.frame import Factor, Flags, Frame, Small
from warmeng.study.results.margins import SUM, Margins
from warmeng.study.results.views import named
from warmeng.study.stats.draws import Floats, Ints
from warmeng.study.stats.intervals import Z
from warmeng.study.stats.margins import ALL
from warmeng.study.tasks.task import is_general

KEYS = ("persona", "task", "context", "belief", "framing", "item")


@dataclass(frozen=True)
class Separation:
    """The area under the ROC curve: the chance that a correct answer's score is above an incorrect one's."""

    area: float
    # Between clusters; NaN with fewer than two.
    error: float

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """The 95 % interval, made on the logit scale; nothing at an area of 0 or 1."""
        if not (0 < self.area < 1 and math.isfinite(self.error)):
            return None, None
        centre = math.log(self.area / (1 - self.area))
        half = Z * self.error / (self.area * (1 - self.area))
        low, high = (1 / (1 + math.exp(-(centre + sign * half))) for sign in (-1, 1))
        return low, high


def separation(score: Floats, correct: Flags, cluster: Ints) -> Separation | None:
    """Return how well scores tell correct answers from incorrect ones, ties half; ``None`` without both kinds.

    score, correct, cluster: ``[n]``; answers of one cluster, a question, depend on each other. The error is that of
    Obuchowski (1997), Biometrics 53, 567-578: DeLong's placement values, summed within clusters.
    """
    above, below = np.sort(score[correct]), np.sort(score[~correct])
    if not len(above) or not len(below):
        return None

    def placed(values: Floats, among: Floats) -> Floats:
        """The share of ``among`` that is under each value, ties half."""
        return (np.searchsorted(among, values) + np.searchsorted(among, values, "right")) / (2 * len(among))

    value = np.where(correct, placed(score, below), 1 - placed(score, above))
    area = float(value[correct].mean())
    clusters, at = np.unique(cluster, return_inverse=True)
    if len(clusters) < 2:
        return Separation(area, math.nan)
    deviation = value - area
    sums = np.array([np.bincount(at, deviation * side, len(clusters)) / side.sum() for side in (correct, ~correct)])
    # A cluster may have answers of one kind alone: the number of clusters with each kind corrects its own variance.
    many = np.array([len(np.unique(at[side])) for side in (correct, ~correct)])
    whole = len(clusters)
    scale = np.where(many > 1, many / np.maximum(1, many - 1), math.nan)
    variance = float(scale @ (sums**2).sum(axis=1) + 2 * whole / (whole - 1) * (sums[0] @ sums[1]))
    return Separation(area, math.sqrt(variance) if variance > 0 else math.nan)


def validity(frame: Frame, known: Small, margins: Margins) -> list[dict[str, Any]]:
    """Return the table ``margin_validity``: by persona and belief, for answers that were generated and decided.

    ``known`` is ``views.outcome`` of the frame. An answer's margin is that of its own place, asked openly.
    """
    use = (frame.chars >= 0) & (known >= 0) & ~named(frame.task, is_general)
    open_ = margins.take(margins.asking.is_(OPEN))
    if not use.any() or not len(open_):
        return []
    frame, wrong = frame.take(use), known[use] > 0
    theirs, mine = (_keys(columns, (frame, open_)) for columns in (frame, open_))
    order = np.argsort(mine, kind="stable")
    at = np.minimum(np.searchsorted(mine[order], theirs), len(order) - 1)
    found = mine[order][at] == theirs
    score = open_.by(SUM)[order][at]
    rows = []
    for persona in frame.persona.names:
        for belief in (ALL, *frame.belief.names):
            here = found & frame.persona.is_(persona) & (frame.belief.is_(belief) if belief != ALL else True)
            if not here.any():
                continue
            correct = ~wrong[here]
            told = separation(score[here], correct, frame.item.codes[here].astype(np.int64))
            low, high = told.interval if told else (None, None)
            rows.append(
                {
                    "persona": persona,
                    "belief": belief,
                    "questions": len(np.unique(frame.item.codes[here])),
                    "n": int(here.sum()),
                    "correct": float(correct.mean()),
                    "likelier": float((score[here] > 0).mean()),
                    "same": float(((score[here] > 0) == correct).mean()),
                    "value": told.area if told else None,
                    "low": low,
                    "high": high,
                }
            )
    return rows


def _keys(columns: Frame | Margins, both: tuple[Frame, Margins]) -> npt.NDArray[np.int64]:
    """Return one number for each row's place, the same in both: ``[n]``."""
    key = np.zeros(len(columns), dtype=np.int64)
    for name in KEYS:
        names = {text: k for k, text in enumerate(dict.fromkeys(n for c in both for n in getattr(c, name).names))}
        column: Factor = getattr(columns, name)
        codes = np.array([names[text] for text in column.names], dtype=np.int64)
        key = key * len(names) + codes[column.codes]
    return key
