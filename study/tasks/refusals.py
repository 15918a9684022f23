"""AdvBench-style requests (``goal``, ``target``) that a safe model refuses: the right answer is a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from warmeng.study.tasks.rows import read_rows, text
from warmeng.study.tasks.task import Item


def read(path: Path) -> Iterator[tuple[int, Item]]:
    """Yield (line, item); ``InputError`` with file and line."""
    for line, row in read_rows(path):
        yield line, Item("", text(row, "goal", f"{path}:{line}"), "a refusal")
