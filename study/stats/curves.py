"""Two dose-response curves at equal warmth, or at an equal distance from the base.

An adapter's coefficient and a prompt's have no common unit; what they did to the text has. Each curve joins the mean
outcomes at its doses by straight lines over what was measured there, itself made monotone in the dose; two curves are
compared where both were measured, never beyond. Questions and prompts are drawn with replacement, the same for both
curves, so the interval holds the error of the measured doses too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from warmeng.study.stats.dose import fits_through, slopes, trend
from warmeng.study.stats.draws import BOOTSTRAP, SOUND, Floats, expanded, interval, ratio


@dataclass(frozen=True)
class Curve:
    """One family's doses, ascending, with the base as dose 0.

    ``measured`` is ``[prompts, doses]``: each prompt's warmth less the base's, or its KL from the base; ``outcome`` is
    ``[questions, doses]``, each question's change from the base. Both are 0 at the base; NaN is missing. Curves that
    are compared have the same prompts and questions in the same rows.
    """

    name: str
    doses: Floats
    measured: Floats
    outcome: Floats

    @property
    def base(self) -> int:
        """The base's place among the doses."""
        return int(np.flatnonzero(self.doses == 0)[0])

    def points(self, prompts: Floats, questions: Floats) -> tuple[Floats, Floats]:
        """Return the measured doses and the mean outcomes, ``[draws, doses]`` each, of weighted prompts and questions.

        The measured doses are isotonic in the dose and 0 at the base, rising or falling as their trend does.
        """
        found = slopes(self.doses, self.measured)
        rising = prompts @ np.where(np.isfinite(found), found, 0.0) >= 0
        counts = prompts @ np.isfinite(self.measured)
        return fits_through(_means(self.measured, prompts), counts, rising, self.base), _means(self.outcome, questions)


@dataclass(frozen=True, slots=True)
class Compared:
    """First less second at ``at``, and the range that both cover; ``refused`` says why there is no difference."""

    at: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    covered: tuple[float, float] | None = None
    refused: str = ""


def compare(
    first: Curve, second: Curve, what: str, at: float | None = None, seed: int = 0, replicates: int = BOOTSTRAP
) -> Compared:
    """Return the difference of two curves where both have the same measured dose ``at``, called ``what``.

    Unless told, ``at`` is half of the end, farthest from 0, of the range that both cover. Refused: a curve that lacks
    values at a dose, or whose measured dose has no trend over the dose that can be told from 0; curves that cover no
    common range; an ``at`` outside it, and one that is outside it in more than 5 % of the draws.
    """
    curves = (first, second)
    if why := _unsound(curves, what):
        return Compared(refused=why)
    points = [c.points(np.ones((1, len(c.measured))), np.ones((1, len(c.outcome)))) for c in curves]
    ends = [(float(x.min()), float(x.max())) for x, _ in points]
    low, high = max(a for a, _ in ends), min(b for _, b in ends)
    if low >= high:
        told = ", ".join(f"{c.name} {a:.3g} to {b:.3g}" for c, (a, b) in zip(curves, ends, strict=True))
        return Compared(refused=f"the two cover no common range of {what}: {told}")
    at = (high if high >= -low else low) / 2 if at is None else at
    if not low <= at <= high:
        why = f"{what} {at:.3g} is outside what both cover ({low:.3g} to {high:.3g})"
        return Compared(at, covered=(low, high), refused=why)
    value = _at(*points[0], at)[0] - _at(*points[1], at)[0]
    rng = np.random.default_rng(seed)
    prompts, questions = (_draw(rng, len(rows), replicates) for rows in (first.measured, first.outcome))
    draws = np.subtract(*(_at(*c.points(prompts, questions), at) for c in curves))
    bounds = interval(draws, expanded(min(len(first.measured), len(first.outcome))))
    if bounds[0] is None and replicates:
        why = f"{what} {at:.3g} is outside what both cover in more than {1 - SOUND:.0%} of the draws"
        return Compared(at, covered=(low, high), refused=why)
    return Compared(at, float(value), *bounds, covered=(low, high))


def _unsound(curves: Sequence[Curve], what: str) -> str:
    for curve in curves:
        if not (np.isfinite(curve.measured).any(0).all() and np.isfinite(curve.outcome).any(0).all()):
            return f"{curve.name} has a dose without {what} or without an outcome"
        slope = trend(curve.doses, curve.measured, flips=0)
        if slope.low is None or slope.high is None or slope.low <= 0 <= slope.high:
            return f"{curve.name}: {what} is not shown to rise or fall with the dose"
    return ""


def _draw(rng: np.random.Generator, size: int, replicates: int) -> Floats:
    return rng.multinomial(size, np.full(size, 1 / size), replicates).astype(np.float64)


def _means(values: Floats, weights: Floats) -> Floats:
    known = np.isfinite(values)
    return ratio(weights @ np.where(known, values, 0.0), weights @ known)


def _at(x: Floats, y: Floats, at: float) -> Floats:
    """Return each draw's outcome at a measured dose, ``[draws]``; NaN outside what the draw covers."""
    order = np.argsort(x, axis=1, kind="stable")
    x, y = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
    return np.array([np.interp(at, a, b, left=np.nan, right=np.nan) for a, b in zip(x, y, strict=True)])
