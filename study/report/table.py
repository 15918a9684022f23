"""Tables on a terminal, as wide as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

# Columns that stay beside the one before them.
TIED = ("low", "high", "95 % interval")
# Cells that a column of names keeps before columns of numbers go into a further table.
LEAST = 8


@dataclass(frozen=True)
class Table:
    """A title, a note below it, column names and rows of text; the first ``labels`` columns are names."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int


def print_table(console: Console, table: Table) -> None:
    """Print one table with its title and note."""
    from rich.markup import escape

    console.print(f"[bold]{escape(table.title)}[/bold]\n{escape(table.note)}", highlight=False)
    numeric = [k >= table.labels for k in range(len(table.columns))]
    for part in laid_out(console.width, table.columns, numeric, table.rows):
        console.print(part)


def laid_out(
    width: int, columns: Sequence[str], numeric: Sequence[bool], rows: Sequence[Sequence[str]]
) -> list[RichTable]:
    """Return rows as tables no wider than ``width``: names fold where they must, numbers never.

    Numbers that don't fit beside the names go into further tables, with the names before them again. What stands before
    the last column of names belongs to the names.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.markup import escape
    from rich.table import Table as RichTable

    def widest(k: int, heads: Sequence[str]) -> int:
        return max(map(cell_len, (*heads, *(row[k] for row in rows))))

    heads = list(columns)
    count = 1 + max((k for k, is_number in enumerate(numeric) if not is_number), default=-1)
    names, numbers = list(range(count)), list(range(count, len(columns)))
    # Cells that a column takes beside its text, the edge's counted.
    gap = 2
    parts = [numbers]
    if sum(widest(k, [head]) + gap for k, head in enumerate(heads)) > width:
        for k in range(len(columns)):
            # As narrow as its numbers and its longest word.
            if numeric[k]:
                heads[k] = "\n".join(wrap(heads[k], widest(k, heads[k].split())))
        sizes = [widest(k, head.split("\n")) + gap for k, head in enumerate(heads)]
        taken = sum(sizes[k] if numeric[k] else min(sizes[k], LEAST + gap) for k in names)
        units: list[list[int]] = []
        for k in numbers:
            if units and columns[k] in TIED and taken + sum(sizes[j] for j in (*units[-1], k)) <= width:
                units[-1].append(k)
            else:
                units.append([k])
        parts = [[]]
        for unit in units:
            if parts[-1] and taken + sum(sizes[j] for j in (*parts[-1], *unit)) > width:
                parts.append([])
            parts[-1] += unit
    tables = []
    for part in parts:
        shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
        for k in (*names, *part):
            if numeric[k]:
                shown.add_column(escape(heads[k]), justify="right", no_wrap=True, overflow="ellipsis")
            else:
                shown.add_column(escape(heads[k]), justify="left", overflow="fold")
        for row in rows:
            shown.add_row(*(escape(row[k]) for k in (*names, *part)))
        tables.append(shown)
    return tables
