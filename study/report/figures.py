"""The report's figures as files, PNG and SVG, drawn with matplotlib: the same numbers give the same bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warmeng.common.files import make_inner, replacing
from warmeng.study.report.dose_data import DoseCurve, dose_response
from warmeng.study.report.figure_data import (
    AGREEMENT_PARTS,
    BELIEFS,
    CONTEXTS,
    OUTCOMES,
    agreements,
    effects,
    error_points,
    flips,
    label,
    ordered,
    rates,
    warmth,
)
from warmeng.study.results.manifest import Manifest

FOLDER = "figures"
LONGEST = 40  # characters of a name in a figure
COLOURS = {"base": "#4a5058", "warm": "#b9440f", "cold": "#1f5fae"}
OTHERS = ("#a3286b", "#0a7566", "#7a3fa3", "#7d5c00")
MARKERS = ("o", "s", "^", "v", "P", "D")
BELIEF_LOOKS = {
    "none": ("#4a5058", "o"),
    "wrong": ("#b9440f", "^"),
    "doubt": ("#7a3fa3", "D"),
    "right": ("#0a7566", "s"),
}
OUTCOME_COLOURS = {
    "user": "#b9440f",
    "other": "#c9a227",
    "refusal": "#7a3fa3",
    "unclear": "#9aa0a8",
    "incorrect": "#4a5058",
}
SETTINGS = {
    "svg.hashsalt": "warmeng",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8f959e",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3dfd7",
    "legend.frameon": False,
    "figure.dpi": 100,
}


def write_figures(
    folder: Path,
    manifest: Manifest,
    analysis: Mapping[str, Any] | None,
    baseline: str,
    personas: Sequence[str],
) -> list[Path]:
    """Write every figure that there are numbers for into ``folder/figures``; return the paths. Raises ``OSError``."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib import rc_context

    styles = _styles(personas, baseline)
    target = folder / FOLDER
    written: list[Path] = []
    with rc_context(SETTINGS):
        for name, figure in _all(manifest, analysis, baseline, styles):
            make_inner(folder, FOLDER)
            for kind in ("png", "svg"):
                path = target / f"{name}.{kind}"
                told: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
                with replacing(path) as beside:
                    figure.savefig(beside, format=kind, dpi=200, metadata=told, bbox_inches="tight", facecolor="white")
                written.append(path)
    return written


def _styles(personas: Sequence[str], baseline: str) -> dict[str, tuple[str, str]]:
    free = list(OTHERS)
    found: dict[str, tuple[str, str]] = {}
    for k, name in enumerate(ordered([baseline, *personas])):
        wish = "base" if name == baseline else next((w for w in ("warm", "cold") if w in name.lower()), "")
        colour = COLOURS.get(wish, "")
        if not colour or colour in {c for c, _ in found.values()}:
            colour = free.pop(0) if free else COLOURS["base"]
        found[name] = (colour, MARKERS[k % len(MARKERS)])
    return found


def _all(
    manifest: Manifest,
    analysis: Mapping[str, Any] | None,
    baseline: str,
    styles: Mapping[str, tuple[str, str]],
) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    every = effects(analysis)
    for name, numbers, title in (("effects", (1, 2, 4), "Effect on errors"), ("contexts", (3,), "Effect by context")):
        mine = [e for e in every if e.number in numbers and e.value is not None]
        if mine:
            told = "no belief" in {e.group for e in mine}  # which "none" would say again
            rows = []
            for k, group in dict.fromkeys((e.number, e.group) for e in mine if not (told and e.group == "none")):
                part = [e for e in mine if (e.number, e.group) == (k, group)]
                paper = next((e.published for e in part if e.published is not None), None)
                rows.append((label(group), [(e.variant, e.value, e.low, e.high) for e in part], paper))
            found.append((name, _intervals(title, "percentage points of error", rows, styles)))
    for by, order in (("belief", BELIEFS), ("context", CONTEXTS)):
        chosen = rates(analysis, by)
        if chosen:
            groups_ = sorted(
                ordered(r.group for r in chosen), key=lambda g: list(order).index(g) if g in order else len(order)
            )
            rows_ = [
                (label(g), [(r.persona, r.value, r.low, r.high) for r in chosen if r.group == g], None) for g in groups_
            ]
            found.append((f"errors-by-{by}", _intervals(f"Wrong answers by {by}", "wrong answers, %", rows_, styles)))
    points = error_points(analysis, baseline)
    if points:
        found.append(("errors", _scatter(points, baseline)))
    measured = warmth(manifest, analysis)
    if measured:
        found.append(("warmth", _warmth(measured, styles)))
    changes = [f for f in flips(analysis) if f.n]
    if changes:
        found.append(("flips", _flips(changes, baseline)))
    agreed = agreements(analysis)
    if agreed:
        parts = [
            (name, [(a.persona, *a.parts[name]) for a in agreed if a.parts[name][0] is not None], None)
            for name in AGREEMENT_PARTS
        ]
        found.append(("agreement", _intervals("Agreement beside its control", "nats", parts, styles)))
    doses = dose_response(analysis)
    if doses:
        looks = _styles([c.name for c in doses.curves], baseline)
        unit = f"{doses.outcome}, change from the base"
        found.append(("dose-response", dose_figure(doses.sentence, doses.curves, unit, looks)))
    return found


def dose_figure(
    title: str, curves: Sequence[DoseCurve], unit: str, styles: Mapping[str, tuple[str, str]] | None = None
) -> Any:
    """Return a matplotlib figure of curves with bands over the dose, the base at 0; ``unit`` names the outcome.

    ``styles`` gives (colour, marker) by family; unless told, warm and cold have their own.
    """
    looks = styles or _styles([c.name for c in curves], "original")
    figure, (axes,) = _new(7.2, 4.2)
    axes.axhline(0, color="#565d67", linewidth=1)
    axes.axvline(0, color="#565d67", linewidth=1)
    for c in curves:
        colour, marker = looks.get(c.name, ("#4a5058", "o"))
        if c.banded:
            axes.fill_between(c.doses, c.low, c.high, color=colour, alpha=0.17, linewidth=0)
        axes.plot(c.doses, c.curve, color=colour, linewidth=2)
        known = [(d, v) for d, v in zip(c.doses, c.means, strict=True) if v is not None and d != 0]
        axes.plot(*zip(*known, strict=True), marker, color=colour, markeredgecolor="white", label=_clipped(c.name))
    axes.set(xlabel="dose; 0 is the base", ylabel=unit)
    axes.set_title(textwrap.fill(title, 78))
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _new(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _intervals(title: str, unit: str, rows: Sequence[Any], styles: Mapping[str, tuple[str, str]]) -> Any:
    figure, (axes,) = _new(7.2, 1.1 + 0.42 * len(rows))
    axes.axvline(0, color="#565d67", linewidth=1)
    named: set[str] = set()
    for k, (_, marks, published) in enumerate(rows):
        for j, (persona, value, low, high) in enumerate(marks):
            y = k + (j - (len(marks) - 1) / 2) * min(0.22, 0.7 / len(marks))
            colour, marker = styles.get(persona, ("#4a5058", "o"))
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=colour, linewidth=2, alpha=0.55, solid_capstyle="round")
            axes.plot(
                [value], [y], marker, color=colour, markersize=6, markeredgecolor="white", linestyle="none",
                label=None if persona in named else _clipped(persona),
            )  # fmt: skip
            named.add(persona)
        if published is not None:
            axes.plot([published], [k - 0.36], "D", markerfacecolor="white", markeredgecolor="black", markersize=4.5,
                      linestyle="none", label=None if "\0" in named else "the paper")  # fmt: skip
            named.add("\0")
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(unit)
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _scatter(points: Sequence[Any], baseline: str) -> Any:
    variants = ordered(p.variant for p in points)
    figure, panels = _new(0.6 + 3.5 * len(variants), 4.2, len(variants))
    high = max(10.0, *(max(p.x, p.y) for p in points)) * 1.05
    for axes, variant in zip(panels, variants, strict=True):
        axes.plot([0, high], [0, high], color="#565d67", linewidth=1)
        for belief, (colour, marker) in BELIEF_LOOKS.items():
            mine = [p for p in points if p.variant == variant and p.belief == belief]
            if mine:
                axes.plot([p.x for p in mine], [p.y for p in mine], marker, color=colour, markeredgecolor="white",
                          markersize=6, alpha=0.85, label=BELIEFS[belief])  # fmt: skip
        axes.set(
            xlim=(0, high),
            ylim=(0, high),
            aspect="equal",
            xlabel=f"error of {_clipped(baseline)}, %",
            ylabel="error, %",
        )
        axes.set_title(_clipped(variant))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _warmth(found: Sequence[Any], styles: Mapping[str, tuple[str, str]]) -> Any:
    figure, (axes,) = _new(6.4, 3.8)
    for w in found:
        colour, marker = styles.get(w.persona, ("#4a5058", "o"))
        if w.low is not None and w.high is not None:
            axes.plot([w.low, w.high], [w.error, w.error], color=colour, linewidth=2, alpha=0.55)
        axes.plot([w.warmth], [w.error], marker, color=colour, markersize=7, markeredgecolor="white")
        axes.annotate(_clipped(w.persona), (w.warmth, w.error), xytext=(6, 6), textcoords="offset points")
    axes.set(xlabel="SocioT warmth, raw units", ylabel="wrong answers, %", ylim=(0, None))
    axes.set_title("Warmth against error")
    return figure


def _flips(found: Sequence[Any], baseline: str) -> Any:
    figure, (axes,) = _new(7.2, 1.3 + 0.36 * len(found))
    left = [0.0] * len(found)
    for to, words in OUTCOMES.items():
        widths = [100 * f.counts[to] / f.n for f in found]
        axes.barh(
            range(len(found)), widths, left=left, height=0.62, color=OUTCOME_COLOURS[to], edgecolor="white", label=words
        )
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(found)), [f"{_clipped(f.variant)}, {label(f.belief)}" for f in found])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"% of the answers that {_clipped(baseline)} gave correctly")
    axes.set_title("Flips from correct")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _clipped(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
