"""TriviaQA: the original JSON (``{"Data": [...]}``) and the hub's rows. There is no wrong answer in the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from warmeng.common.errors import InputError, show
from warmeng.common.files import parse_json_at, read_text
from warmeng.engine.tables import ending
from warmeng.study.tasks.rows import Row, read_rows, text, texts
from warmeng.study.tasks.task import Item, distinct, searchable

DATA = re.compile(r'"Data"\s*:\s*\[')
BETWEEN = re.compile(r"[\s,]*")


def read(path: Path) -> Iterator[tuple[int, Item]]:
    """Yield (line, item); ``InputError`` with file and line."""
    if is_original(path):
        names = ("Question", "QuestionId", "Answer", "Value", "Aliases")
        rows = _data(path)
    else:
        names = ("question", "question_id", "answer", "value", "aliases")
        rows = read_rows(path)
    for line, row in rows:
        yield line, _item(row, f"{path}:{line}", *names)


def is_original(path: Path) -> bool:
    """Whether a file is in the original layout: one object with a ``Data`` list."""
    if ending(path).removesuffix(".gz") != ".json":
        return False
    text = read_text(path)
    return not text.lstrip().startswith("[") and DATA.search(text) is not None


def _item(row: Row, where: str, question: str, identity: str, answer: str, value: str, aliases: str) -> Item:
    found = row.get(answer)
    if not isinstance(found, dict):
        raise InputError(f"{where}: {answer!r} is {show(found)}, expected an object with {value!r} and {aliases!r}")
    right = text(found, value, where)
    given = (right, *distinct(texts(found, aliases, where) if aliases in found else (), right))
    answers = searchable(given) or given
    identifier = row.get(identity)
    return Item(
        identifier if isinstance(identifier, str) else "", text(row, question, where), answers[0], "", answers[1:]
    )


def _data(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (line, entry) of the ``Data`` list, one parsed at a time: the evidence lists make these files large."""
    content = read_text(path)
    start = DATA.search(content)
    if not start:
        raise InputError(f'{path}: has no "Data" list: expected the original layout of TriviaQA')
    at, line, counted = start.end(), 1, 0
    while True:
        gap = BETWEEN.match(content, at)
        at = gap.end() if gap else at
        line, counted = line + content.count("\n", counted, at), at
        if content.startswith("]", at):
            return
        entry, at = parse_json_at(content, at, f"{path}:{line}")
        if not isinstance(entry, dict):
            raise InputError(f"{path}:{line}: is {show(entry)}, expected an object with a question")
        yield line, entry
