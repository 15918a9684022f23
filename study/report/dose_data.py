"""What the figure of dose and response shows: numbers out of ``analysis.json``, and one sentence of what is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warmeng.study.report.figure_data import Row, number, ordered, table
from warmeng.study.stats.susceptibility import sign


@dataclass(frozen=True, slots=True)
class DoseCurve:
    """One family: at each dose, ascending, the mean change from the base, the curve and its 95 % band.

    The curve is the monotone one where a trend is shown; where none is, neither way is drawn: it joins the means, with
    their own intervals. ``None`` where the analysis has no number. The base is dose 0 with change 0.
    """

    name: str
    doses: tuple[float, ...]
    means: tuple[float | None, ...]
    curve: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]

    @property
    def banded(self) -> bool:
        """Whether it has a band."""
        return None not in (*self.low, *self.high)

    @property
    def numbers(self) -> list[float]:
        """Everything that is drawn of it, on the axis of the outcome."""
        return [v for v in (*self.means, *self.curve, *self.low, *self.high) if v is not None]


@dataclass(frozen=True, slots=True)
class DoseResponse:
    """The first outcome's curves, what is seen in them, and the rows they are of."""

    outcome: str
    sentence: str
    curves: tuple[DoseCurve, ...]
    trends: tuple[Row, ...]
    rows: tuple[Row, ...]


def dose_response(analysis: Mapping[str, Any] | None) -> DoseResponse | None:
    """Return the first outcome of the analysis's table; nothing where no persona is a dose of another."""
    every = table(analysis, "dose_response")
    if not every:
        return None
    outcome = str(every[0]["outcome"])
    rows = tuple(r for r in every if r["outcome"] == outcome)
    trends = tuple(r for r in table(analysis, "dose_trends") if r["outcome"] == outcome)
    shown = {str(r["family"]) for r in trends if sign(r)}
    curves = []
    for family in ordered(str(r["family"]) for r in rows):
        mine = sorted((r for r in rows if r["family"] == family), key=lambda r: float(r["dose"]))
        keys = ("fit", "fit_low", "fit_high") if family in shown else ("value", "low", "high")
        doses = tuple(float(r["dose"]) for r in mine)
        means, fit, low, high = (tuple(number(r[key]) for r in mine) for key in ("value", *keys))
        curves.append(DoseCurve(family, doses, means, tuple(v or 0.0 for v in fit), low, high))
    return DoseResponse(outcome, sentence(outcome, trends), tuple(curves), trends, rows)


def sentence(outcome: str, trends: Sequence[Row]) -> str:
    """Return what the trends show, in one sentence: where the slope's 95 % interval leaves out 0, and where not."""
    falls, rises, unshown = ([str(r["family"]) for r in trends if sign(r) == way] for way in (-1, 1, 0))
    told = [f"{verb} with the dose of {_names(names)}" for verb, names in (("falls", falls), ("rises", rises)) if names]
    if unshown:
        what = "and is not shown to change with that" if told else "is not shown to change with the dose"
        told.append(f"{what} of {_names(unshown)}")
    text = f"{outcome} {', '.join(told)}"
    return text[:1].upper() + text[1:]


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
