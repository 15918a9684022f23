"""The tables of an analysis, as its schemas describe them, and how they are written as CSV and Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from warmeng.common.cells import as_cell
from warmeng.study.stats.answer_schema import ANSWER_SCHEMA
from warmeng.study.stats.compare_schema import COMPARE_SCHEMA
from warmeng.study.stats.grader_schema import GRADER_SCHEMA
from warmeng.study.stats.margin_schema import MARGIN_SCHEMA

# Of ``analysis.json`` and ``results.json``: raise it when a table is no longer what it was.
FORMAT = 6
DASH = "–"
Table = dict[str, Any]
# By name.
SCHEMA = ANSWER_SCHEMA | GRADER_SCHEMA | MARGIN_SCHEMA | COMPARE_SCHEMA


def table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table as ``analysis.json`` holds it; rows get every column, missing ones as ``None``."""
    title, note, columns = SCHEMA[name]
    keys = [key for key, _, _ in columns]
    for row in rows:
        assert row.keys() <= set(keys), f"{name}: no column for {set(row) - set(keys)}"
    return {
        "title": title,
        "note": note,
        "columns": [{"key": key, "label": label, "kind": kind} for key, label, kind in columns],
        "rows": [{key: row.get(key) for key in keys} for row in rows],
    }


def to_csv(found: Table) -> bytes:
    """Return a table's rows with full precision; a missing number is an empty field, and no name is a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = [column["key"] for column in found["columns"]]
    writer.writerow(keys)
    writer.writerows([_cell(row[key]) for key in keys] for row in found["rows"])
    return out.getvalue().encode("utf-8")


def _cell(value: Any) -> Any:
    return "" if value is None else as_cell(value) if isinstance(value, str) else value


def to_markdown(tables: Iterable[Table], heading: str, notes: Sequence[str]) -> bytes:
    """Return all tables as one Markdown document."""
    lines = [f"# {heading}", "", *(f"- {escaped(note)}" for note in notes), ""]
    for found in tables:
        lines += section(found, found["rows"])
    return "\n".join(lines).encode("utf-8")


def section(found: Table, rows: Sequence[Mapping[str, Any]], level: int = 2) -> list[str]:
    """Return some rows of a table as lines of Markdown below its title and note; none for no row."""
    if not rows:
        return []
    columns = found["columns"]
    lines = [f"{'#' * level} {found['title']}", "", found["note"], ""]
    lines.append(_line(column["label"] for column in columns))
    lines.append(_line("---" if column["kind"] == "text" else "---:" for column in columns))
    lines += [_line(escaped(shown(row[c["key"]], c["kind"])) for c in columns) for row in rows]
    return [*lines, ""]


def shown(value: Any, kind: str) -> str:
    """Return a value as text: points with a sign, shares in percent; a missing one is a dash."""
    if value is None or value == "":
        return DASH
    if kind == "points":
        return f"{value:+.1f}"
    if kind == "percent":
        return f"{100 * value:.1f} %"
    if kind == "p":
        return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
    if kind == "int":
        return str(int(value))
    if kind == "nats":
        return f"{value:+.2f}"
    if kind == "number":
        return f"{value:.4g}"
    return str(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """Return a text in which Markdown finds no cell's end, element, link, picture or code."""
    return re.sub(r"([\\|\[\]`])", r"\\\1", " ".join(text.splitlines())).replace("<", "&lt;")
