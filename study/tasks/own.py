"""Files of one's own: JSON (lines or an array), CSV, TSV or Parquet, an item a row, with the keys of ``Item``.

``question`` and ``answer`` are needed; ``id``, ``wrong``, ``aliases``, ``wrong_aliases``, ``others``, ``original``
and ``marks`` may be there. Without ids, question and answer make them. Where ``wrong`` is missing, one is written
before a run that needs it. In CSV and TSV a list's texts are separated by ``|``, or written as JSON or as pandas
writes a list. A JSON null is a value that is not there.

The first object of a JSON file may declare the task:
``{"task": {"name": "capitals", "grading": "likelihood"}}``; without it the name is the file's and grading is
``alias``.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError, show
from warmeng.engine.tables import is_delimited, read_rows
from warmeng.study.tasks.task import GRADINGS, Grading, Item

TEXTS = ("id", "question", "answer", "wrong", "original")
NEEDED = ("question", "answer")
LISTS = ("aliases", "wrong_aliases", "others", "marks")
KEYS = (*TEXTS, *LISTS)
SEPARATOR = "|"
# "None" is not among them: it answers questions.
MISSING = frozenset({"NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NULL"})


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the first line of a file says of its task."""

    name: str | None = None
    grading: Grading | None = None


def declaration(path: Path) -> Declaration:
    """Return what the file's first line declares; nothing for CSV, and for a file without a declaration."""
    if is_delimited(path):
        return Declaration()
    for number, row in read_rows(path):
        if "task" not in row:
            break
        where, declared = f"{path}:{number}", row["task"]
        if len(row) != 1 or not isinstance(declared, dict) or not set(declared) <= {"name", "grading"}:
            raise InputError(f'{where}: expected {{"task": {{"name": ..., "grading": ...}}}} and nothing else')
        grading = declared.get("grading")
        if grading is not None and grading not in GRADINGS:
            raise InputError(f"{where}: grading is {show(grading)}, expected one of {', '.join(GRADINGS)}")
        name = declared.get("name")
        return Declaration(None if name is None else str(name), grading)
    return Declaration()


def read(path: Path) -> Iterator[tuple[int, Item]]:
    """Yield (line, item); ``InputError`` with file and line for anything that is not as it should be."""
    divided = is_delimited(path)
    for place, (number, row) in enumerate(read_rows(path)):
        where = f"{path}:{number}"
        if divided:
            missing = next((key for key, cell in row.items() if cell in MISSING), None)
            if missing:
                raise InputError(
                    f"{where}: {show(missing, 40)} is {row[missing]!r}, as other software writes a value that is not "
                    "there: leave the cell empty, or give JSON lines where it is meant"
                )
            row |= {key: _listed(row[key], f"{where}: {key!r}") for key in LISTS if key in row}
        elif place == 0 and "task" in row:
            continue
        yield number, _item(row, where)


def _listed(cell: str, where: str) -> list[str]:
    """Return a cell's texts: separated by ``|``, or a list as JSON or Python writes it.

    Python's form counts only where Python would write the value so: ``['a' 'b']``, as numpy writes two texts, is one.
    """
    if not (cell.lstrip().startswith("[") and cell.rstrip().endswith("]")):
        return [text for text in cell.split(SEPARATOR) if text.strip()]
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = parse(cell.strip())
            if isinstance(value, list) and (parse is json.loads or repr(value) == cell.strip()):
                return value
    raise InputError(f"{where} is {show(cell, 60)}, expected texts with {SEPARATOR} between, or a list as JSON")


def _item(row: dict[str, Any], where: str) -> Item:
    unknown = sorted(set(row) - set(KEYS))
    if unknown:
        known = ", ".join(KEYS)
        raise InputError(f"{where}: unknown key {show(unknown[0], 40)}, expected {known}: rename it or leave it out")
    row = {key: value for key, value in row.items() if value is not None}
    if type(row.get("id")) is int:
        row["id"] = str(row["id"])
    for key in TEXTS:
        if key not in row:
            if key in NEEDED:
                raise InputError(f"{where}: has no {key}, expected text")
            continue
        value = row[key]
        if not isinstance(value, str) or (key in (*NEEDED, "id") and not value.strip()):
            raise InputError(f"{where}: {key!r} is {show(value)}, expected text that is not blank")
    lists: dict[str, tuple[str, ...]] = {}
    for key in LISTS:
        value = row.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
            raise InputError(f"{where}: {key!r} is {show(value)}, expected a list of texts")
        lists[key] = tuple(value)
    wrong = row.get("wrong", "")
    return Item(
        row.get("id", ""),
        row["question"],
        row["answer"],
        wrong if wrong.strip() else "",
        lists["aliases"],
        lists["wrong_aliases"],
        lists["others"],
        row.get("original", ""),
        lists["marks"],
    )
