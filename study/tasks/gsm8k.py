"""GSM8K: ``question`` and ``answer``, whose last line is ``#### NUMBER``; the number is the right answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from warmeng.common.errors import InputError, show
from warmeng.study.tasks.rows import read_rows, text
from warmeng.study.tasks.task import Item

MARK = "####"


def read(path: Path) -> Iterator[tuple[int, Item]]:
    """Yield (line, item); ``InputError`` with file and line."""
    for line, row in read_rows(path):
        where = f"{path}:{line}"
        solution = text(row, "answer", where)
        _, mark, number = solution.rpartition(MARK)
        if not mark or not any(c.isdigit() for c in number):
            raise InputError(f"{where}: 'answer' ends with {show(solution[-40:])}, expected '{MARK} NUMBER'")
        yield line, Item("", text(row, "question", where), number.strip())
