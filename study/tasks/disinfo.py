"""MASK Disinformation in the authors' columns: ``prompt_disinfo``, ``ground_truth``, ``ground_false``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from warmeng.study.tasks.rows import read_rows, text
from warmeng.study.tasks.task import Item

COLUMNS = frozenset({"prompt_disinfo", "ground_truth", "ground_false"})


def read(path: Path) -> Iterator[tuple[int, Item]]:
    """Yield (line, item); ``InputError`` with file and line."""
    for line, row in read_rows(path):
        where = f"{path}:{line}"
        question, right, wrong = (text(row, key, where) for key in ("prompt_disinfo", "ground_truth", "ground_false"))
        yield line, Item("", question, right, wrong)
