"""Rates and effects corrected for a judge's errors, by persona.

The correction is Rogan and Gladen's (1978). Its limits: it takes for granted that the labelled answers are like the
run's answers of the same persona (the embedded set is short answers to plain questions), that the judge errs as often
in every task and context, and that answers which are neither right nor wrong are left out of both. With few labelled
answers its intervals are wide, and with a judge hardly better than chance it says nothing: then ``None``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

DRAWS = 2000
# The exact rules must be right in this share of the decided labelled answers of each style.
MIN_EXACT = 0.95
ALL = "all"  # of the labelled styles
# Sensitivity + specificity - 1 below this divides by almost nothing.
MIN_YOUDEN = 0.05

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Detection:
    """How a judge finds incorrect answers, over labelled ones that label and judge both call correct or incorrect.

    ``sensitivity`` = found / incorrect: judged incorrect of those that are; ``specificity`` = passed / correct: judged
    correct of those that are. ``None`` where there are none.
    """

    found: float
    incorrect: float
    passed: float
    correct: float

    @property
    def sensitivity(self) -> float | None:
        """Share of incorrect answers that are judged so."""
        return min(1.0, self.found / self.incorrect) if self.incorrect else None

    @property
    def specificity(self) -> float | None:
        """Share of correct answers that are judged so."""
        return min(1.0, self.passed / self.correct) if self.correct else None


@dataclass(frozen=True, slots=True)
class Corrected:
    """A raw value, the corrected one and its 95 % interval; ``None`` where the judge can't carry a correction."""

    raw: float | None
    value: float | None
    low: float | None
    high: float | None


def correct_rate(p: float, sens: float, spec: float) -> float | None:
    """Return the true error rate behind a judged one: (p + spec - 1) / (sens + spec - 1), kept within 0 and 1.

    ``p`` is the share judged incorrect; all are 0..1. ``None`` where sens + spec - 1 is below ``MIN_YOUDEN``.
    Rogan and Gladen (1978), with the truncation that is usual where sampling error takes it outside.
    """
    for name, value in (("p", p), ("sens", sens), ("spec", spec)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} is {value}, expected 0 to 1")
    youden = sens + spec - 1.0
    if youden < MIN_YOUDEN:
        return None
    return min(1.0, max(0.0, (p + spec - 1.0) / youden))


def corrected_rate(
    wrong: Counts, decided: Counts, detection: Detection, *, draws: int = DRAWS, seed: int = 0
) -> Corrected:
    """Return an error rate, 0..1, corrected as in ``corrected_difference``."""
    rng = np.random.default_rng(seed)
    rates = _rates(wrong, decided, _weights(rng, len(decided), draws))
    return _interval(*_point(wrong, decided, detection), _draw(rng, rates, detection))


def corrected_difference(
    wrong: tuple[Counts, Counts],
    decided: tuple[Counts, Counts],
    detections: tuple[Detection, Detection],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Corrected:
    """Return the second persona's error rate minus the first's in percentage points, each corrected by its own errors.

    The interval is the bootstrap's percentile one: questions are drawn with all their answers, and sensitivity and
    specificity from Jeffreys' distributions given the labelled counts (a plain bootstrap of a judge that made no
    error on a few labelled answers would say that it never makes one).

    ``wrong`` and ``decided`` are counts by question ``[items]``, of the same questions in the same order for both:
    a draw takes the same questions for both. Where both personas have the very same labelled answers (equal
    ``Detection`` objects that are one object), the same sensitivity and specificity are drawn for both.
    """
    if len({len(x) for x in (*wrong, *decided)}) != 1:
        raise ValueError("both personas need counts of the same questions")
    rng = np.random.default_rng(seed)
    weights = _weights(rng, len(decided[0]), draws)
    same = detections[0] is detections[1]
    state = rng.integers(2**63)
    raws: list[float | None] = []
    values: list[float | None] = []
    found: list[Floats] = []
    for k in range(2):
        own = np.random.default_rng([int(state), 0 if same else k])
        found.append(_draw(own, _rates(wrong[k], decided[k], weights), detections[k]))
        raw, value = _point(wrong[k], decided[k], detections[k])
        raws.append(raw)
        values.append(value)
    return _interval(_minus(raws), _minus(values), 100 * (found[1] - found[0]))


def _minus(pair: list[float | None]) -> float | None:
    first, second = pair
    return None if first is None or second is None else 100 * (second - first)


def _weights(rng: np.random.Generator, items: int, draws: int) -> Floats:
    """How often each question is drawn: ``[draws, items]``."""
    if not items:
        return np.zeros((draws, 0))
    return rng.multinomial(items, np.full(items, 1 / items), size=draws).astype(np.float64)


def _rates(wrong: Counts, decided: Counts, weights: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weights @ wrong / (weights @ decided), dtype=np.float64)


def _draw(rng: np.random.Generator, rates: Floats, d: Detection) -> Floats:
    size = len(rates)
    sens = rng.beta(d.found + 0.5, d.incorrect - d.found + 0.5, size)
    spec = rng.beta(d.passed + 0.5, d.correct - d.passed + 0.5, size)
    youden = sens + spec - 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(youden < MIN_YOUDEN, np.nan, (rates + spec - 1.0) / youden)
    return np.asarray(np.clip(found, 0.0, 1.0), dtype=np.float64)


def _point(wrong: Counts, decided: Counts, d: Detection) -> tuple[float | None, float | None]:
    n = int(np.sum(decided))
    if not n:
        return None, None
    raw = float(np.sum(wrong)) / n
    sens, spec = d.sensitivity, d.specificity
    return raw, None if sens is None or spec is None else correct_rate(raw, sens, spec)


def _interval(raw: float | None, value: float | None, found: Floats) -> Corrected:
    """Where more than a twentieth of the draws has a judge no better than chance, no interval can be given."""
    sound = found[np.isfinite(found)]
    if value is None or not len(sound) or len(sound) < 0.95 * len(found):
        return Corrected(raw, None, None, None)
    low, high = np.percentile(sound, [2.5, 97.5])
    return Corrected(raw, value, float(low), float(high))


def detection_of(facts: Mapping[str, Any], persona: str) -> tuple[Detection, str]:
    """Return the counts by which a run's persona is corrected, and the labelled style that they come from.

    ``facts`` is a judge's entry of the manifest (``as_dict``). A labelled persona of the same name is taken; else the
    embedded style whose word stands in the name (``warm-prompt``: warm; ``original``: plain); else all of them.
    """
    table = facts["by_persona"]
    style = style_of(persona, [name for name in table if name != ALL])
    entry = table[style]
    return Detection(*(int(entry[key]) for key in ("found", "incorrect", "passed", "correct"))), style


def style_of(persona: str, known: Sequence[str]) -> str:
    """Return the labelled persona or style that stands for a persona of a run, ``all`` where none does."""
    if persona in known:
        return persona
    small = persona.lower()
    for style in ("warm", "cold"):
        if style in small and style in known:
            return style
    return "plain" if small in ("original", "base", "baseline") and "plain" in known else ALL
