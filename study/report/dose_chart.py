"""The page's figure of dose and response: curves with bands over the dose, the base at 0, drawn without a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from warmeng.study.report.cells import Column, Shown
from warmeng.study.report.charts import NARROW, WIDE, Look, swatch
from warmeng.study.report.dose_data import DoseCurve, dose_response
from warmeng.study.report.draw import Figure
from warmeng.study.report.outcome import between, points
from warmeng.study.report.svg import line, linear, polygon, polyline, svg, text, ticks, widen


def dose_chart(name: str, title: str, curves: Sequence[DoseCurve], look: Look, unit: str, narrow: bool = False) -> str:
    """Draw families of doses: a band, the curve in it, a marker at each dose's mean; lines through the base.

    ``unit`` names the outcome. On a wide screen a family's name stands at its curve's end.
    """
    width = NARROW if narrow else WIDE
    left, right, top, bottom = 52.0, width - (16 if narrow else 130), 30.0, 300.0
    doses = [d for c in curves for d in c.doses]
    values = [v for c in curves for v in c.numbers] + [0.0]
    x = linear(min(doses), max(doses), left, right)
    low, high = widen(min(values), max(values), 6)
    y = linear(low, high, bottom, top)
    marks = ticks(min(doses), max(doses), 5 if narrow else 8)
    body = [line(x(t), top, x(t), bottom, "zero" if t == 0 else "grid") for t in marks]
    body += [text(x(t), bottom + 16, f"{t:g}".replace("-", "−"), "tick", "middle") for t in marks]
    for t in ticks(low, high, 6):
        body.append(line(left, y(t), right, y(t), "zero" if t == 0 else "grid"))
        body.append(text(left - 8, y(t) + 4, f"{t:g}".replace("-", "−"), "tick", "end"))
    for c in curves:
        css = look.classes.get(c.name, "p-0")
        if c.banded:
            ends = [*zip(c.doses, c.low, strict=True), *reversed(list(zip(c.doses, c.high, strict=True)))]
            body.append(polygon([(x(d), y(v)) for d, v in ends if v is not None], f"band {css}"))
    for c in curves:
        css = look.classes.get(c.name, "p-0")
        body.append(polyline([(x(d), y(v)) for d, v in zip(c.doses, c.curve, strict=True)], f"curve {css}"))
        for d, mean in zip(c.doses, c.means, strict=True):
            if mean is not None and d != 0:
                body.append(look.mark(c.name, x(d), y(mean), 4.2, f"{c.name}, dose {d:g}: {points(mean, 2)}"))
    if not narrow:
        body += [text(x(c.doses[-1]) + 9, at, c.name) for c, at in _apart(curves, [y(c.curve[-1]) for c in curves])]
    body.append(text((left + right) / 2, bottom + 36, "dose; 0 is the base", "unit", "middle"))
    body.append(text(4, top - 12, unit, "unit"))
    css = "chart narrow" if narrow else "chart wide"
    return svg(width, bottom + 44, css, f"{name}-{'n' if narrow else 'w'}", title, body)


def _apart(curves: Sequence[DoseCurve], ends: Sequence[float], gap: float = 15.0) -> list[tuple[DoseCurve, float]]:
    """Return each curve with the height of its name, moved down where two would stand on each other."""
    found: list[tuple[DoseCurve, float]] = []
    for k in sorted(range(len(curves)), key=lambda k: ends[k]):
        wanted = ends[k] + 4
        near = [at for c, at in found if abs(c.doses[-1] - curves[k].doses[-1]) < 1e-9]
        found.append((curves[k], max([wanted, *(at + gap for at in near)])))
    return found


def dose_figure(analysis: Mapping[str, Any] | None, baseline: str) -> Figure | None:
    """Return the page's figure; nothing where no persona of the run is a dose of another."""
    from markupsafe import Markup

    found = dose_response(analysis)
    if found is None:
        return None
    names = [c.name for c in found.curves]
    look = Look.of(names, baseline)
    unit = f"{found.outcome}, change from the base"
    wide, narrow = (
        Markup(dose_chart("doses", found.sentence, found.curves, look, unit, small)) for small in (False, True)
    )
    legend = tuple((Markup(swatch(look.shapes[n], f"m {look.classes[n]}")), n) for n in names)
    slopes = "; ".join(
        f"{r['family']} {points(r['slope'], 3)} ({between(r['low'], r['high'], 3)})" for r in found.trends
    )
    caption = (
        "Marks are means over questions, paired with the base; lines are monotone curves through the base with 95 % "
        "bands, and join the means where no trend is shown. "
        f"Change per unit of dose, with 95 % intervals: {slopes}."
    )
    heads = (("family", False), ("persona", False), ("dose", True), ("n", True), ("change", True),
             ("95 % interval", True), ("curve", True), ("95 % band", True), ("warmth", True), ("KL", True))  # fmt: skip
    rows = tuple(
        (
            r["family"],
            r["persona"],
            f"{r['dose']:g}",
            f"{r['n']:,}",
            points(r["value"], 3),
            between(r["low"], r["high"], 3) or "–",
            points(r["fit"], 3),
            between(r["fit_low"], r["fit_high"], 3) or "–",
            points(r["warmth"], 4),
            "–" if r["kl"] is None else f"{r['kl']:.4f}",
        )
        for r in found.rows
    )
    table = Shown("figure-doses-table", "Dose and response", "", tuple(Column(*h) for h in heads), rows)
    return Figure("figure-doses", found.sentence, caption, wide, narrow, legend, table)
