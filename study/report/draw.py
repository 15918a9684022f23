"""From the analysis to the page's figures: title, caption, both drawings, legend, and the same numbers as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from warmeng.study.prompts import CHOICE
from warmeng.study.report import charts
from warmeng.study.report.cells import Column, Shown
from warmeng.study.report.charts import BELIEF_SHAPES, Line, Look, Mark, swatch
from warmeng.study.report.figure_data import (
    AGREEMENT_PARTS,
    BELIEFS,
    CONTEXTS,
    OUTCOMES,
    Effect,
    agreements,
    effects,
    error_points,
    flips,
    label,
    ordered,
    rates,
    warmth,
)
from warmeng.study.report.outcome import between, points
from warmeng.study.results.manifest import Manifest

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Figure:
    """A figure of the page; ``absent`` says why there is nothing to draw. ``legend`` is (marker, name) pairs."""

    id: str
    title: str
    caption: str
    wide: Markup | str = ""
    narrow: Markup | str = ""
    legend: tuple[tuple[Markup, str], ...] = ()
    table: Shown | None = None
    absent: str = ""


def figures(
    manifest: Manifest, analysis: Mapping[str, Any] | None, baseline: str, personas: Sequence[str]
) -> list[Figure]:
    """Return every figure of the page, drawn or absent with its reason, always in the same order."""
    look = Look.of(personas, baseline)
    found = effects(analysis)
    return [
        _effects(found, look),
        _scatter(analysis, baseline),
        _contexts(found, analysis, look, baseline),
        _beliefs(analysis, look),
        _warmth(manifest, analysis, look),
        _flips(analysis, baseline),
        _agreement(analysis, look),
    ]


def _legend(personas: Sequence[str], look: Look, published: bool = False) -> tuple[tuple[Markup, str], ...]:
    from markupsafe import Markup

    found = [
        (Markup(swatch(look.shapes.get(p, "circle"), f"m {look.classes.get(p, 'p-0')}")), p) for p in ordered(personas)
    ]
    if published:
        found.append((Markup(swatch("diamond", "pub")), "the paper's value (fine-tuned warm)"))
    return tuple(found)


def _lines(found: Sequence[Effect], headings: Mapping[int, str]) -> list[Line]:
    lines: list[Line] = []
    for kind, heading in headings.items():
        mine = [e for e in found if e.number == kind]
        first = True
        groups = ordered(e.group for e in mine)
        for group in [g for g in groups if g != "none" or "no belief" not in groups]:
            rows = [e for e in mine if e.group == group]
            marks = tuple(
                Mark(e.variant, e.value, e.low, e.high,
                     f"{e.variant}, {label(group)}: {points(e.value)} ({between(e.low, e.high)})")
                for e in rows
                if e.value is not None
            )  # fmt: skip
            published = next((e.published for e in rows if e.published is not None), None)
            if marks:
                lines.append(Line(label(group), marks, published, heading if first else ""))
                first = False
    return lines


def _both(draw: Any) -> tuple[Markup, Markup]:
    from markupsafe import Markup

    return Markup(draw(False)), Markup(draw(True))


def _effects(found: Sequence[Effect], look: Look) -> Figure:
    title = "Main effect, kinds of context, beliefs"
    caption = (
        "How much more often a persona is wrong than the baseline, in percentage points, with 95 % intervals "
        "(question-clustered bootstrap). Right of zero is worse."
    )
    lines = _lines(found, {1: "Plain questions", 2: "By kind of context", 4: "By belief"})
    if not lines:
        why = "No regression could be fitted: see the tables for what can still be said."
        none = "This run has no analysis of effects."
        return Figure(
            "figure-effects",
            title,
            caption,
            absent=why if found else none,
            table=effect_table([e for e in found if e.number != 3], "effects-table"),
        )
    wide, narrow = _both(
        lambda small: charts.intervals("effects", title, lines, look, "percentage points of error", True, small)
    )
    shown = ordered(m.persona for row in lines for m in row.marks)
    return Figure(
        "figure-effects",
        title,
        caption,
        wide,
        narrow,
        _legend(shown, look, any(r.published is not None for r in lines)),
        effect_table([e for e in found if e.number != 3], "effects-table"),
    )


def _scatter(analysis: Mapping[str, Any] | None, baseline: str) -> Figure:
    from markupsafe import Markup

    title = "Error against the baseline's"
    caption = (
        f"One mark for each task, context and belief. Above the line, the persona is wrong more often than {baseline}. "
        "Beliefs that are not the user's own are in the tables."
    )
    found = error_points(analysis, baseline)
    if not found:
        return Figure("figure-errors", title, caption, absent="There are no error rates of two personas to compare.")
    wide, narrow = _both(lambda small: charts.scatter("errors", title, found, baseline, small))
    present = {p.belief for p in found}
    legend = tuple((Markup(swatch(BELIEF_SHAPES[b], f"m b-{b}")), name) for b, name in BELIEFS.items() if b in present)
    rows = tuple((p.variant, p.task, p.context, p.belief, f"{p.x:.1f}", f"{p.y:.1f}", f"{p.n:,}") for p in found)
    heads = (("persona", False), ("task", False), ("context", False), ("belief", False), (f"{baseline}, %", True),
             ("persona, %", True), ("n", True))  # fmt: skip
    table = Shown("figure-errors-table", title, "", tuple(Column(*h) for h in heads), rows)
    return Figure("figure-errors", title, caption, wide, narrow, legend, table)


def _contexts(found: Sequence[Effect], analysis: Mapping[str, Any] | None, look: Look, baseline: str) -> Figure:
    title = "Contexts"
    caption = "The effect on errors in each context, without a belief, in percentage points, with 95 % intervals."
    lines = _lines(found, {3: ""})
    if lines:
        order = list(CONTEXTS)
        lines.sort(key=lambda r: next((k for k, c in enumerate(order) if CONTEXTS[c] == r.label), len(order)))
        wide, narrow = _both(
            lambda small: charts.intervals("contexts", title, lines, look, "percentage points of error", True, small)
        )
        shown = ordered(m.persona for row in lines for m in row.marks)
        legend = _legend(shown, look, any(r.published is not None for r in lines))
        table = effect_table([e for e in found if e.number == 3], "figure-contexts-table")
        return Figure("figure-contexts", title, caption, wide, narrow, legend, table)
    mine = rates(analysis, "context")
    if not mine:
        return Figure("figure-contexts", title, caption, absent="There are no error rates by context.")
    caption = (
        "The share of wrong answers in each context, without a belief, with 95 % intervals; the regression on contexts "
        "could not be fitted."
    )
    return _rates("contexts", title, caption, mine, look, CONTEXTS)


def _beliefs(analysis: Mapping[str, Any] | None, look: Look) -> Figure:
    title = "Beliefs"
    caption = "The share of wrong answers by what the user claims, over all tasks and contexts, with 95 % intervals."
    mine = rates(analysis, "belief")
    if not mine:
        return Figure("figure-beliefs", title, caption, absent="There are no error rates by belief.")
    return _rates("beliefs", title, caption, mine, look, BELIEFS)


def _rates(name: str, title: str, caption: str, mine: Sequence[Any], look: Look, order: Mapping[str, str]) -> Figure:
    groups = sorted(ordered(r.group for r in mine), key=lambda g: list(order).index(g) if g in order else len(order))
    lines = [
        Line(label(group), tuple(
            Mark(r.persona, r.value, r.low, r.high,
                 f"{r.persona}, {label(group)}: {r.value:.1f} % ({between(r.low, r.high, 1, False)}), n {r.n}")
            for r in mine if r.group == group))
        for group in groups
    ]  # fmt: skip
    wide, narrow = _both(lambda small: charts.intervals(name, title, lines, look, "wrong answers, %", False, small))
    rows = tuple(
        (label(r.group), r.persona, f"{r.value:.1f}", between(r.low, r.high, 1, False) or "–", f"{r.n:,}") for r in mine
    )
    heads = (("group", False), ("persona", False), ("wrong, %", True), ("95 % interval", True), ("n", True))
    table = Shown(f"figure-{name}-table", title, "", tuple(Column(*h) for h in heads), rows)
    return Figure(f"figure-{name}", title, caption, wide, narrow, _legend([r.persona for r in mine], look), table)


def _warmth(manifest: Manifest, analysis: Mapping[str, Any] | None, look: Look) -> Figure:
    title = "Warmth against error"
    caption = "Measured warmth of each persona's text, and its error rate on questions without a belief."
    found = warmth(manifest, analysis)
    if not found:
        return Figure("figure-warmth", title, caption, absent="Warmth was not measured in this run.")
    wide, narrow = _both(lambda small: charts.warmth_chart("warmth", title, found, look, small))
    rows = tuple(
        (w.persona, f"{w.warmth:.4f}", between(w.low, w.high, 4, False) or "–", f"{w.error:.1f}") for w in found
    )
    heads = (("persona", False), ("warmth", True), ("95 % interval", True), ("wrong, %", True))
    table = Shown("figure-warmth-table", title, "", tuple(Column(*h) for h in heads), rows)
    return Figure("figure-warmth", title, caption, wide, narrow, _legend([w.persona for w in found], look), table)


def _flips(analysis: Mapping[str, Any] | None, baseline: str) -> Figure:
    from markupsafe import Markup

    title = "Flips"
    caption = (
        f"Of the questions that {baseline} answered correctly, the share that a persona did not, by what it said "
        "instead; gained are those that it alone answered correctly."
    )
    found = [f for f in flips(analysis) if f.n or f.n_gained]
    if not found:
        return Figure("figure-flips", title, caption, absent="There are no pairs of answers to compare.")
    wide, narrow = _both(lambda small: charts.flip_bars("flips", title, found, small))
    legend = tuple(
        (Markup(swatch("square", f"o-{to}")), name)
        for to, name in OUTCOMES.items()
        if any(f.counts[to] for f in found)
    )  # fmt: skip
    heads = (("persona", False), ("belief", False), ("n", True), *((f"to {w}", True) for w in OUTCOMES.values()),
             ("gained", True), ("of", True))  # fmt: skip
    rows = tuple(
        (
            f.variant,
            label(f.belief),
            f"{f.n:,}",
            *(f"{f.counts[to]:,}" for to in OUTCOMES),
            f"{f.gained:,}",
            f"{f.n_gained:,}",
        )
        for f in found
    )
    table = Shown("figure-flips-table", title, "", tuple(Column(*h) for h in heads), rows)
    return Figure("figure-flips", title, caption, wide, narrow, legend, table)


def _agreement(analysis: Mapping[str, Any] | None, look: Look) -> Figure:
    title = "Agreement beside its control"
    found = agreements(analysis)
    if not found:
        why = "Agreement needs the beliefs right, wrong, mention-right and mention-wrong: not all were asked."
        return Figure("figure-agreement", title, "", absent=why)
    style = "in the order-balanced choice" if found[0].asking == CHOICE else "of the answers to the open question"
    caption = (
        f"How far a claim moves the margin {style}: the user's own, the same one only mentioned (repetition), and what "
        "the user's own does beyond that, which is agreement. In nats, over all tasks, with 95 % intervals."
    )
    lines = [
        Line(name, tuple(
            Mark(a.persona, value, low, high, f"{a.persona}, {name}: {points(value, 2)} ({between(low, high, 2)})")
            for a in found for value, low, high in [a.parts[name]] if value is not None))
        for name in AGREEMENT_PARTS
    ]  # fmt: skip
    wide, narrow = _both(lambda small: charts.intervals("agreement", title, lines, look, "nats", True, small))
    heads = (("persona", False), ("n", True), *((name, True) for name in AGREEMENT_PARTS))
    rows = tuple(
        (a.persona, f"{a.n:,}", *(f"{points(v, 2)} ({between(low, high, 2)})" for v, low, high in a.parts.values()))
        for a in found
    )
    table = Shown("figure-agreement-table", title, "", tuple(Column(*h) for h in heads), rows)
    return Figure("figure-agreement", title, caption, wide, narrow, _legend([a.persona for a in found], look), table)


def number_words(effect: Effect) -> str:
    """Return which regression an effect is of."""
    names = {1: "Main effect", 2: "By kind of context", 3: "By context", 4: "By belief"}
    return names.get(effect.number, f"Regression {effect.number}")


def effect_table(found: Sequence[Effect], name: str) -> Shown | None:
    """Return the effects beside the paper's values, nothing where there are none."""
    if not found:
        return None
    heads = (("regression", False), ("group", False), ("persona", False), ("n", True), ("effect, points", True),
             ("95 % interval", True), ("the paper", True))  # fmt: skip
    rows = tuple(
        (
            number_words(e),
            label(e.group),
            e.variant,
            f"{e.n:,}",
            points(e.value),
            between(e.low, e.high) or "–",
            points(e.published, 2),
        )
        for e in found
    )
    note = (
        "Average marginal effect on the share of incorrect answers, in percentage points; intervals by "
        "question-clustered bootstrap."
    )
    return Shown(name, "Effects beside the paper's", note, tuple(Column(*h) for h in heads), rows)
