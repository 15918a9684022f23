"""How the values of ``analysis.json`` are written in tables. Missing stays visibly missing: a dash, never zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from warmeng.study.report.figure_data import number

NUMERIC = ("int", "number", "points", "percent", "p", "nats")
DASH = "–"
# Less than this is rounding, and shown as 0.
NOTHING = 1e-12


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a shown table."""

    label: str
    numeric: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A table as text: what the page's template writes. ``labels`` leading columns are row headings."""

    id: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def shown(name: str, table: Mapping[str, Any]) -> Shown:
    """Return a table of the analysis as text."""
    columns = [dict(c) for c in table.get("columns") or ()]
    rows = tuple(
        tuple(cell(row.get(c["key"]), str(c.get("kind") or "text")) for c in columns) for row in table.get("rows") or ()
    )
    return Shown(
        f"table-{name.replace('_', '-')}",
        str(table.get("title") or name),
        str(table.get("note") or ""),
        tuple(Column(str(c.get("label") or c["key"]), c.get("kind") in NUMERIC) for c in columns),
        rows,
    )


def cell(value: Any, kind: str) -> str:
    """Return a value as its column's kind says: ``points`` signed, ``percent`` of a share, ``p`` with its floor."""
    if value is None or value == "" or kind == "text":
        return DASH if value is None or value == "" else str(value)
    found = number(value)
    if found is None:
        return str(value)
    if kind == "int":
        return f"{found:,.0f}"
    if kind == "points":
        return _minus(f"{found:+.1f}")
    if kind == "nats":
        return _minus(f"{found:+.2f}")
    if kind == "percent":
        return _minus(f"{100 * found:.1f} %")
    if kind == "p":
        return "< 0.0001" if found < 0.0001 else f"{found:.4f}"
    return _minus(f"{found if abs(found) > NOTHING else 0:.4g}")


def _minus(text: str) -> str:
    return text.replace("-", "−")
