"""Inline SVG for the page: escaped text, and classes in place of colours, so that the style sheet rules both modes.

No element has a ``style`` attribute: the page's security policy forbids them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

SHAPES = ("circle", "square", "triangle", "wedge", "cross", "diamond")
Scale = Callable[[float], float]


def num(value: float) -> str:
    """Return a coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def text(x: float, y: float, content: str, css: str = "lab", anchor: str = "start") -> str:
    """Return a line of text."""
    at = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{num(x)}" y="{num(y)}" class="{css}"{at}>{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """Return a straight line."""
    return f'<line x1="{num(x1)}" y1="{num(y1)}" x2="{num(x2)}" y2="{num(y2)}" class="{css}"/>'


def rect(x: float, y: float, width: float, height: float, css: str, title: str = "") -> str:
    """Return a filled rectangle with a tooltip."""
    inner = f"<title>{escape(title)}</title>" if title else ""
    place = f'x="{num(x)}" y="{num(y)}" width="{num(width)}" height="{num(height)}"'
    return f'<rect {place} class="{css}">{inner}</rect>'


def shape(kind: str, x: float, y: float, r: float, css: str, title: str = "") -> str:
    """Return a marker of about the same area for every kind, centred at (x, y)."""
    inner = f"<title>{escape(title)}</title>" if title else ""
    if kind == "circle":
        return f'<circle cx="{num(x)}" cy="{num(y)}" r="{num(r)}" class="{css}">{inner}</circle>'
    around = {
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "triangle": [(0, -1.25), (1.2, 0.9), (-1.2, 0.9)],
        "wedge": [(0, 1.25), (1.2, -0.9), (-1.2, -0.9)],
        "cross": [
            (-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4),
            (0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4),
        ],
    }[kind]  # fmt: skip
    points = " ".join(f"{num(x + r * dx)},{num(y + r * dy)}" for dx, dy in around)
    return f'<polygon points="{points}" class="{css}">{inner}</polygon>'


def polygon(points: Sequence[tuple[float, float]], css: str) -> str:
    """Return a filled area around points."""
    return f'<polygon points="{_places(points)}" class="{css}"/>'


def polyline(points: Sequence[tuple[float, float]], css: str) -> str:
    """Return straight lines from point to point."""
    return f'<polyline points="{_places(points)}" class="{css}"/>'


def _places(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{num(x)},{num(y)}" for x, y in points)


def svg(width: float, height: float, css: str, name: str, title: str, body: Sequence[str]) -> str:
    """Return a whole drawing; ``name`` makes its title's id unique in the page."""
    head = (
        f'<svg viewBox="0 0 {num(width)} {num(height)}" width="{num(width)}" height="{num(height)}" class="{css}" '
        f'role="img" aria-labelledby="{name}-t" focusable="false">'
    )
    return f'{head}<title id="{name}-t">{escape(title)}</title>{"".join(body)}</svg>'


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Return the map of low..high to start..end."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers from low to high, at most ``most`` of them, steps of 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / max(most, 1)))
    for factor in (1, 2, 5, 10):
        if span / (step * factor) <= most:
            step *= factor
            break
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def widen(low: float, high: float, most: int) -> tuple[float, float]:
    """Return a range that ends on ticks around low..high."""
    found = ticks(low, high, most)
    step = found[1] - found[0] if len(found) > 1 else max(abs(high - low), 1.0)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
