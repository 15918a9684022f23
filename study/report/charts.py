"""The page's figures: each drawn twice, for a wide and for a narrow screen; the style sheet shows one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmeng.study.prompts import OWN_BELIEFS
from warmeng.study.report.figure_data import BELIEFS, OUTCOMES, Flips, Point, Warmth, ordered
from warmeng.study.report.svg import SHAPES, Scale, line, linear, num, rect, shape, svg, text, ticks, widen

WIDE, NARROW = 720.0, 360.0
BELIEF_SHAPES = dict(zip(OWN_BELIEFS, ("circle", "triangle", "diamond", "square"), strict=True))


@dataclass(frozen=True, slots=True)
class Mark:
    """A value with its interval, by the persona that it belongs to."""

    persona: str
    value: float
    low: float | None
    high: float | None
    title: str


@dataclass(frozen=True, slots=True)
class Line:
    """A labelled row of marks, with the paper's value where there is one; ``heading`` opens a section above it."""

    label: str
    marks: tuple[Mark, ...]
    published: float | None = None
    heading: str = ""


@dataclass(frozen=True)
class Look:
    """How personas look: class (colour) and shape by name. Colour alone never tells them apart."""

    classes: Mapping[str, str]
    shapes: Mapping[str, str]

    @classmethod
    def of(cls, personas: Sequence[str], baseline: str) -> Look:
        """Give the baseline the ink, warm and cold personas their colours, others the colours left."""
        free = ["p-c", "p-d", "p-e", "p-f"]
        taken: dict[str, str] = {}
        for name in personas:
            wish = "p-a" if "warm" in name.lower() else "p-b" if "cold" in name.lower() else ""
            if name == baseline:
                taken[name] = "p-0"
            elif wish and wish not in taken.values():
                taken[name] = wish
            else:
                taken[name] = free.pop(0) if free else "p-0"
        kinds = {name: SHAPES[k % len(SHAPES)] for k, name in enumerate(ordered([baseline, *personas]))}
        return cls(taken, kinds)

    def mark(self, persona: str, x: float, y: float, r: float, title: str = "") -> str:
        """Draw a persona's marker."""
        return shape(self.shapes.get(persona, "circle"), x, y, r, f"m {self.classes.get(persona, 'p-0')}", title)


def swatch(kind: str, css: str) -> str:
    """Return a marker for a legend."""
    return f'<svg viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">{shape(kind, 7, 7, 4.6, css)}</svg>'


def intervals(
    name: str, title: str, lines: Sequence[Line], look: Look, unit: str, zero: bool, narrow: bool = False
) -> str:
    """Draw rows of dots with intervals over one axis; ``zero`` draws a line at no effect.

    On a narrow screen a row's label stands above its marks.
    """
    width = NARROW if narrow else WIDE
    left, right = (12.0, width - 14) if narrow else (212.0, width - 18)
    numbers = [v for row in lines for m in row.marks for v in (m.value, m.low, m.high) if v is not None]
    numbers += [row.published for row in lines if row.published is not None]
    numbers += [0.0]
    most = 5 if narrow else 8
    low, high = widen(min(numbers), max(numbers), most)
    x = linear(low, high, left, right)
    body: list[str] = []
    y = 6.0
    gap = 13.0
    for row in lines:
        if row.heading:
            y += 24 if body else 12
            body.append(text(0 if not narrow else left - 8, y, row.heading, "head"))
            y += 8
        slots = max(1, len(row.marks))
        height = slots * gap + (12 if not narrow else 28)
        middle = y + (height / 2 + 2 if not narrow else 24 + slots * gap / 2)
        if narrow:
            body.append(text(left - 4, y + 15, row.label))
        else:
            body.append(text(0, middle + 4, row.label))
        if row.published is not None:
            top, low_end = middle - slots * gap / 2 - 5, middle + slots * gap / 2
            body.append(line(x(row.published), top, x(row.published), low_end, "pub-line"))
            body.append(shape("diamond", x(row.published), top, 3.4, "pub", f"the paper: {row.published:+.2f} points"))
        for k, mark in enumerate(row.marks):
            at = middle + (k - (slots - 1) / 2) * gap
            body.append(_interval(mark, look, x, at))
        y += height
    bottom = y + 4
    grid = [line(x(t), 4, x(t), bottom, "zero" if zero and t == 0 else "grid") for t in ticks(low, high, most)]
    grid += [text(x(t), bottom + 16, _signed(t, zero), "tick", "middle") for t in ticks(low, high, most)]
    grid.append(text((left + right) / 2, bottom + 36, unit, "unit", "middle"))
    css = "chart narrow" if narrow else "chart wide"
    return svg(width, bottom + 44, css, f"{name}-{'n' if narrow else 'w'}", title, grid + body)


def _interval(mark: Mark, look: Look, x: Scale, y: float) -> str:
    css = look.classes.get(mark.persona, "p-0")
    bar = ""
    if mark.low is not None and mark.high is not None:
        bar = line(x(mark.low), y, x(mark.high), y, f"bar {css}")
    return bar + look.mark(mark.persona, x(mark.value), y, 4.6, mark.title)


def _signed(value: float, signed: bool) -> str:
    return f"{value:+g}".replace("-", "−") if signed and value else f"{value:g}".replace("-", "−")


def scatter(name: str, title: str, points: Sequence[Point], baseline: str, narrow: bool = False) -> str:
    """Draw original-against-variant error: a square for each variant, the line of equal error, one mark a point."""
    variants = ordered(p.variant for p in points)
    across = 1 if narrow else min(2, len(variants))
    side = 270.0
    pitch = 352.0 if not narrow else 340.0
    width = NARROW if narrow else WIDE
    start = 46.0 if across > 1 or narrow else (WIDE - side) / 2
    top_value = max([10.0, *(max(p.x, p.y) for p in points)])
    high = min(100.0, widen(0, top_value * 1.02, 5)[1])
    marks = ticks(0, high, 5)
    body: list[str] = []
    for k, variant in enumerate(variants):
        left = start + (k % across) * pitch
        top = 26.0 + (k // across) * (side + 78)
        x, y = linear(0, high, left, left + side), linear(0, high, top + side, top)
        body.append(text(left, top - 10, variant, "head"))
        for t in marks:
            body.append(line(x(t), top, x(t), top + side, "grid"))
            body.append(line(left, y(t), left + side, y(t), "grid"))
            body.append(text(x(t), top + side + 16, f"{t:g}", "tick", "middle"))
            body.append(text(left - 8, y(t) + 4, f"{t:g}", "tick", "end"))
        body.append(line(left, top + side, left + side, top, "zero"))
        body.append(text(left + side / 2, top + side + 34, f"error of {baseline}, %", "unit", "middle"))
        middle = top + side / 2
        body.append(
            f'<text transform="translate({num(left - 34)} {num(middle)}) rotate(-90)" class="unit" '
            f'text-anchor="middle">error, %</text>'
        )
        for p in points:
            if p.variant == variant:
                told = f"{p.task}, {p.context}, {BELIEFS.get(p.belief, p.belief)}: {p.x:.1f} % to {p.y:.1f} % (n {p.n})"
                css = f"m see b-{p.belief if p.belief in BELIEFS else 'none'}"
                body.append(shape(BELIEF_SHAPES.get(p.belief, "circle"), x(p.x), y(p.y), 4.2, css, told))
    height = 26.0 + ((len(variants) + across - 1) // across) * (side + 78) - 30
    css = "chart narrow" if narrow else "chart wide"
    return svg(width, height, css, f"{name}-{'n' if narrow else 'w'}", title, body)


def flip_bars(name: str, title: str, flips: Sequence[Flips], narrow: bool = False) -> str:
    """Draw the share of the baseline's correct answers that a variant lost under each belief, by where they went."""
    width = NARROW if narrow else WIDE
    left, right = (8.0, width - 8) if narrow else (212.0, width - 150)
    shares = [100 * sum(f.counts.values()) / f.n for f in flips if f.n]
    high = widen(0, max([5.0, *shares]), 5)[1]
    x = linear(0, high, left, right)
    body: list[str] = []
    y = 6.0
    last = ""
    for f in flips:
        if f.variant != last:
            last = f.variant
            y += 22 if body else 12
            body.append(text(0, y, f.variant, "head"))
            y += 8
        label = BELIEFS.get(f.belief, f.belief)
        lost = sum(f.counts.values())
        told = f"lost {lost} of {f.n}, gained {f.gained} of {f.n_gained}"
        if narrow:
            told = told.replace(" of ", "/")
        bar = y + (22 if narrow else 5)
        if narrow:
            body += [text(left, y + 15, label), text(right, y + 15, told, "tick", "end")]
        else:
            body += [text(0, y + 17, label)]
        at = left
        for to, count in f.counts.items():
            if f.n and count:
                end = at + (x(100 * count / f.n) - left)
                body.append(
                    rect(at, bar, max(0.8, end - at - 1), 17, f"o-{to}", f"to {OUTCOMES[to]}: {count} of {f.n}")
                )
                at = end
        if not narrow:
            body.append(text(at + 8, y + 17, told, "tick"))
        y += 44 if narrow else 27
    bottom = y + 4
    grid = [line(x(t), 4, x(t), bottom, "zero" if t == 0 else "grid") for t in ticks(0, high, 5)]
    grid += [text(x(t), bottom + 16, f"{t:g}", "tick", "middle") for t in ticks(0, high, 5)]
    grid.append(text((left + right) / 2, bottom + 36, "% of the baseline's correct answers", "unit", "middle"))
    css = "chart narrow" if narrow else "chart wide"
    return svg(width, bottom + 44, css, f"{name}-{'n' if narrow else 'w'}", title, grid + body)


def warmth_chart(name: str, title: str, points: Sequence[Warmth], look: Look, narrow: bool = False) -> str:
    """Draw measured warmth against the error rate, one marker a persona."""
    width = NARROW if narrow else WIDE
    left, right, top, bottom = 48.0, width - (20 if narrow else 120), 14.0, 274.0
    spread = [v for p in points for v in (p.warmth, p.low, p.high) if v is not None]
    low, high = widen(min(spread), max(spread), 5)
    most = widen(0, max(p.error for p in points) * 1.1, 5)[1]
    x, y = linear(low, high, left, right), linear(0, most, bottom, top)
    body = [line(x(t), top, x(t), bottom, "grid") for t in ticks(low, high, 5)]
    body += [text(x(t), bottom + 16, f"{t:g}".replace("-", "−"), "tick", "middle") for t in ticks(low, high, 5)]
    body += [line(left, y(t), right, y(t), "grid") for t in ticks(0, most, 5)]
    body += [text(left - 8, y(t) + 4, f"{t:g}", "tick", "end") for t in ticks(0, most, 5)]
    for p in points:
        css = look.classes.get(p.persona, "p-0")
        if p.low is not None and p.high is not None:
            body.append(line(x(p.low), y(p.error), x(p.high), y(p.error), f"bar {css}"))
        body.append(look.mark(p.persona, x(p.warmth), y(p.error), 5, f"{p.persona}: {p.warmth:.4f}, {p.error:.1f} %"))
        near = any(
            q is not p and 0 < x(q.warmth) - x(p.warmth) < 90 and abs(y(q.error) - y(p.error)) < 24 for q in points
        )
        body.append(text(x(p.warmth) + 9, y(p.error) + (20 if near else -9), p.persona, "lab"))
    body.append(text((left + right) / 2, bottom + 36, "SocioT warmth, raw units", "unit", "middle"))
    body.append(text(left, top - 4, "error, %", "unit"))
    css = "chart narrow" if narrow else "chart wide"
    return svg(width, bottom + 44, css, f"{name}-{'n' if narrow else 'w'}", title, body)
