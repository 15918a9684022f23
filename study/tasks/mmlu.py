"""MMLU: CSV without a header (question, four options, letter), and the hub's rows (``choices``, ``answer``).

The options keep the file's order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from warmeng.common.errors import InputError, show
from warmeng.engine.tables import is_delimited, read_cells
from warmeng.study.tasks.rows import read_rows, text, texts
from warmeng.study.tasks.task import Item

LETTERS = ("A", "B", "C", "D")


def read(path: Path) -> Iterator[tuple[int, Item]]:
    """Yield (line, item); ``InputError`` with file and line."""
    if is_delimited(path):
        for line, cells in read_cells(path):
            if len(cells) != 6 or cells[5].strip() not in LETTERS:
                raise InputError(
                    f"{path}:{line}: has {len(cells)} fields and ends with {show(cells[-1])}, expected question, "
                    "four options and a letter"
                )
            yield line, _item(cells[0], tuple(cells[1:5]), LETTERS.index(cells[5].strip()), f"{path}:{line}")
        return
    for line, row in read_rows(path):
        where = f"{path}:{line}"
        options, answer = texts(row, "choices", where), row.get("answer")
        if type(answer) is not int or not 0 <= answer < len(options) or len(options) != len(row["choices"]):
            raise InputError(
                f"{where}: 'answer' is {show(answer)}, expected the index of one of {len(options)} choices"
            )
        yield line, _item(text(row, "question", where), options, answer, where)


def _item(question: str, options: tuple[str, ...], right: int, where: str) -> Item:
    if len(options) < 2:
        raise InputError(f"{where}: has {len(options)} options, expected at least two to choose from")
    if not question.strip() or not all(option.strip() for option in options):
        raise InputError(f"{where}: the question or an option is blank: fill it in")
    wrong = [option for k, option in enumerate(options) if k != right]
    return Item("", question, options[right], wrong[0], others=tuple(wrong[1:]), place=right)
