"""Files of one's own: JSON (lines or an array), CSV, TSV or Parquet, an item a row, with the keys of ``Item``.

``id``, ``question`` and ``answer`` are needed; ``wrong``, ``aliases``, ``wrong_aliases``, ``others``, ``original``
and ``marks`` may be there. Where ``wrong`` is missing, one is written before a run that needs it. In CSV and TSV a
list's texts are separated by ``|``.

The first object of a JSON file may declare the task:
``{"task": {"name": "capitals", "grading": "likelihood"}}``; without it the name is the file's and grading is
``alias``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError, show
from warmeng.engine.tables import is_delimited, read_rows
from warmeng.study.tasks.task import GRADINGS, Grading, Item

TEXTS = ("id", "question", "answer", "wrong", "original")
NEEDED = ("id", "question", "answer")
LISTS = ("aliases", "wrong_aliases", "others", "marks")
KEYS = (*TEXTS, *LISTS)
SEPARATOR = "|"


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
        if divided:
            for key in LISTS:
                if key in row:
                    row[key] = [text for text in row[key].split(SEPARATOR) if text.strip()]
        elif place == 0 and "task" in row:
            continue
        yield number, _item(row, f"{path}:{number}")


def _item(row: dict[str, Any], where: str) -> Item:
    unknown = sorted(set(row) - set(KEYS))
    if unknown:
        raise InputError(f"{where}: unknown key {show(unknown[0])}, expected {', '.join(KEYS)}")
    for key in TEXTS:
        value = row.get(key) if key in NEEDED else row.get(key, "")
        if value is None:
            raise InputError(f"{where}: has no {key}, expected text")
        if not isinstance(value, str) or (key in NEEDED and not value.strip()):
            raise InputError(f"{where}: {key!r} is {show(value)}, expected text that is not blank")
    lists: dict[str, tuple[str, ...]] = {}
    for key in LISTS:
        value = row.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
            raise InputError(f"{where}: {key!r} is {show(value)}, expected a list of texts")
        lists[key] = tuple(value)
    wrong = row.get("wrong", "")
    return Item(
        row["id"],
        row["question"],
        row["answer"],
        wrong if wrong.strip() else "",
        lists["aliases"],
        lists["wrong_aliases"],
        lists["others"],
        row.get("original", ""),
        lists["marks"],
    )
