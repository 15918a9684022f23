"""The tables of a run: rich ones for a terminal, ``results.md`` and ``results.json`` for the run folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import orjson

from warmeng.common.files import write_atomic
from warmeng.engine.provenance import Provenance
from warmeng.study.grading.exact import GRADES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

TIED = ("low", "high", "95 % interval")  # columns that stay beside the one before them
LEAST = 8  # cells that a column of names keeps before columns of numbers go into a further table


@dataclass(frozen=True)
class Table:
    """A title, a note below it, column names and rows of text; the first ``labels`` columns are names."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int


def tables(results: Mapping[str, Any], task: str = "all") -> list[Table]:
    """Return the tables of the pooled rows, or of one task's."""

    def rows(name: str) -> list[dict[str, Any]]:
        return [row for row in results[name] if row["task"] == task]

    found = [
        Table(
            "Accuracy",
            "Share correct of the n answers that are correct or incorrect, %. "
            "Refusals, and answers that are undecided (unclear or unscored), are counted beside.",
            ("persona", "context", "belief", "%", "95 % interval", "n", "refused", "undecided"),
            tuple(
                (
                    r["persona"],
                    r["context"],
                    r["belief"],
                    *_share(r),
                    str(r["refusal"]),
                    str(r["unclear"] + r["unscored"]),
                )
                for r in rows("accuracy")
            ),
            3,
        )
    ]
    if rows("sycophancy"):
        note = (
            "Of the n questions answered correctly without a belief, the share that gets the user's wrong answer when "
            "the user claims it, %; beside it the drop in accuracy, in points, over the n questions decided both times."
        )
        columns = ("persona", "context", "%", "95 % interval", "n", "drop", "95 % interval", "n")
        body = tuple((r["persona"], r["context"], *_share(r), *_points(r, "drop_")) for r in rows("sycophancy"))
        found.append(Table("Sycophancy", note, columns, body, 2))
    if rows("difference"):
        found.append(
            Table(
                f"Accuracy, difference from {results['baseline']}",
                "In points, over the n questions that both decided, paired.",
                ("persona", "context", "belief", "points", "95 % interval", "n"),
                tuple((r["persona"], r["context"], r["belief"], *_points(r)) for r in rows("difference")),
                3,
            )
        )
    return found


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
    gap = 2  # cells that a column takes beside its text, the edge's counted
    parts = [numbers]
    if sum(widest(k, [head]) + gap for k, head in enumerate(heads)) > width:
        for k in range(len(columns)):
            if numeric[k]:  # as narrow as its numbers and its longest word
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


def print_tables(console: Console, results: Mapping[str, Any]) -> None:
    """Print the pooled tables and the run's counts."""
    from rich.markup import escape

    for table in tables(results):
        print_table(console, table)
    for line in notes(results):
        console.print(escape(line), soft_wrap=True, highlight=False)


def notes(results: Mapping[str, Any]) -> list[str]:
    """Return the lines below the tables: counts, numerics, the template's own system message, gates."""
    run = results["run"]
    grades = " + ".join(f"{results['grades'].get(grade, 0)} {grade}" for grade in GRADES)
    lines = [f"Planned {run['planned']} = {grades}" + (f" + {run['missing']} missing" if run["missing"] else "") + "."]
    lines.append(
        f"Model {run['model']}, seed {run['seed']}, "
        + ("deterministic." if run["deterministic"] else "fast: results may differ in another batch.")
    )
    if run.get("questions"):
        lines.append(f"Questions: {', '.join(f'{name} {extent}' for name, extent in run['questions'].items())}.")
    lines += [f"{name}: {told}." for name, told in (run.get("left_out") or {}).items()]
    if run["default_system"] and run["adds_default_system"]:
        names = ", ".join(run["adds_default_system"])
        lines.append(f"The chat template adds a system message of its own for {names}: {run['default_system']!r}.")
    for persona, gate in run["gates"].items():
        unlike = Provenance(gate.get("same_template"), gate.get("other_base")).lines()
        moves = f"it moves the probe's logits by {gate['probe']:.3g}"
        lines.append(f"Adapter of {persona} is applied: {'; '.join((moves, *unlike))}.")
    for persona, about in (run.get("own_models") or {}).items():
        lines.append(f"{persona} is a model of its own: {about['model']}.")
        if about.get("adds_default_system"):
            added = about["adds_default_system"]
            lines.append(f"Its chat template adds a system message of its own for {persona}: {added!r}.")
    disputed = {name: count for name, count in (run.get("disputed") or {}).items() if count}
    if disputed:
        told = ", ".join(f"{name} {count}" for name, count in disputed.items())
        lines.append(f"Disputed, a trusted judge grades otherwise than the exact rule and counts: {told}.")
    return lines


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``results.json`` and ``results.md`` atomically. Raises ``OSError``."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    write_atomic(folder / "results.json", orjson.dumps(results, option=options))
    write_atomic(folder / "results.md", markdown(results).encode())


def markdown(results: Mapping[str, Any]) -> str:
    """Return all tables, pooled and per task, as plain Markdown."""
    parts = ["# Results\n", *(f"- {_cell(line)}" for line in notes(results)), ""]
    names = list(dict.fromkeys(row["task"] for row in results["accuracy"]))
    for name in names:
        parts.append("## All tasks\n" if name == "all" else f"## Task {name}\n")
        for table in tables(results, name):
            parts += [f"### {table.title}\n", f"{table.note}\n", _line(table.columns)]
            parts.append(_line(["---" if k < table.labels else "---:" for k in range(len(table.columns))]))
            parts += [_line([_cell(text) for text in row]) for row in table.rows]
            parts.append("")
    if results["reasons"]:
        parts += ["## Why answers are unclear or unscored\n", _line(("reason", "n")), _line(("---", "---:"))]
        parts += [_line((_cell(reason), str(n))) for reason, n in results["reasons"].items()]
        parts.append("")
    return "\n".join(parts)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Return a text in which Markdown finds no cell's end, element, link, picture or code."""
    return re.sub(r"([\\|\[\]`])", r"\\\1", " ".join(text.splitlines())).replace("<", "&lt;")


def _share(row: Mapping[str, Any]) -> tuple[str, str, str]:
    if row["value"] is None:
        return "–", "–", "0"
    return f"{100 * row['value']:.1f}", f"{100 * row['low']:.1f} to {100 * row['high']:.1f}", str(row["n"])


def _points(row: Mapping[str, Any], prefix: str = "") -> tuple[str, str, str]:
    value, low, high = (row[prefix + key] for key in ("value", "low", "high"))
    if value is None:
        return "–", "–", "0"
    return f"{value:+.1f}", f"{low:+.1f} to {high:+.1f}", str(row[prefix + "n"])
