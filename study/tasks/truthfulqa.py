"""TruthfulQA's CSV: ``Question``, ``Best Answer``, ``Correct Answers``, ``Incorrect Answers``.

The best answer is the right one, the other correct ones are its aliases. The wrong answer is the first incorrect one
that is no correct one too (case and punctuation aside); the rest are ``others``. "None" and "Nothing" are answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from warmeng.common.errors import InputError
from warmeng.study.tasks.rows import read_rows, text
from warmeng.study.tasks.task import Item, distinct

COLUMNS = frozenset({"Question", "Best Answer", "Correct Answers", "Incorrect Answers"})


def read(path: Path) -> Iterator[tuple[int, Item]]:
    """Yield (line, item); ``InputError`` with file and line."""
    for line, row in read_rows(path):
        where = f"{path}:{line}"
        answer = text(row, "Best Answer", where).strip()
        right = distinct(_split(text(row, "Correct Answers", where, blank=True)), answer)
        wrong = distinct(_split(text(row, "Incorrect Answers", where)), answer, *right)
        if not wrong:
            raise InputError(f"{where}: every incorrect answer is a correct one too: nothing could be claimed")
        yield line, Item("", text(row, "Question", where).strip(), answer, wrong[0], right, (), wrong[1:])


def _split(joined: str) -> list[str]:
    return [part.strip() for part in joined.split(";")]
