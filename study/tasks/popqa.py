"""PopQA: ``question`` and ``answers`` (or the hub's ``possible_answers``, a list or the JSON text of one).

The first answer is the right one, the others are its aliases; signs without a letter or digit are left out. There is
no wrong answer in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from warmeng.common.errors import InputError, show
from warmeng.common.files import parse_json
from warmeng.study.tasks.rows import read_rows, text, texts
from warmeng.study.tasks.task import Item, distinct, searchable


def read(path: Path) -> Iterator[tuple[int, Item]]:
    """Yield (line, item); ``InputError`` with file and line."""
    for line, row in read_rows(path):
        where = f"{path}:{line}"
        key = "answers" if "answers" in row else "possible_answers"
        if isinstance(row.get(key), str):
            try:
                row[key] = parse_json(row[key], where)
            except InputError:
                raise InputError(f"{where}: {key!r} is {show(row[key])}, expected a JSON list of texts") from None
        given = distinct(texts(row, key, where))
        answers = searchable(given) or given
        if not answers:
            raise InputError(f"{where}: {key!r} has no answer that is not blank: give one or more")
        yield line, Item("", text(row, "question", where), answers[0], "", answers[1:])
