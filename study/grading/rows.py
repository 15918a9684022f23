"""Rows to grade from a file: a question, an answer, what is right, and whatever else a file tells of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmeng.common.cells import from_cell
from warmeng.common.errors import InputError, show
from warmeng.common.files import parse_json
from warmeng.engine.tables import is_delimited
from warmeng.engine.tables import read_rows as read_table
from warmeng.study.grading.grade import GRADES
from warmeng.study.prompts import BELIEFS as KNOWN
from warmeng.study.tasks.own import SEPARATOR
from warmeng.study.tasks.task import GENERATED, GRADINGS, Item

LABELS = GRADES[:4]
# Columns by layout, each with the first that a file has: the authors' files call the right answer "answer".
AUTHORS = {"answer": ("output",), "right": ("correct_answer", "ground_truth", "answer")}
OWN = {"answer": ("answer",), "right": ("right", "correct_answer")}
# What ``warmeng export --format csv`` writes.
EXPORT = {"answer": ("text",), "right": ("answer",)}
EXPORTED = {"key", "question", "answer"}  # columns that say so
COMPARED = tuple(name for name in GRADINGS if name not in GENERATED)  # gradings of answers that nobody wrote
NAMES = ("aliases", "wrong_aliases", "others")  # columns that hold lists
QUESTION = ("question", "content_key", "prompt_disinfo")
WRONG = ("wrong", "incorrect_answer", "wrong_answer", "ground_false")
# The authors' prompt_template, in MedQA's files prompt_type.
BELIEFS = {
    "original": "none",
    "original_neutral": "none",
    "incorrect": "wrong",
    "correct": "doubt",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One answer to grade; ``label`` is a person's grade, ``persona`` whose answer it is, where a file says so.

    ``wrong`` is what a user claims under belief ``wrong``. A judge is shown the claim, never the persona.
    """

    where: str
    question: str
    answer: str
    right: str
    label: str | None = None
    wrong: str = ""
    belief: str = "none"
    persona: str = ""
    aliases: tuple[str, ...] = ()
    wrong_aliases: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    # The rule of its task, where a file says so.
    grading: str = ""
    # Whether the answer ended at the token limit.
    cut: bool = False

    @property
    def item(self) -> Item:
        """The row's question as an item, for the exact rules."""
        return Item(self.where, self.question, self.right, self.wrong, self.aliases, self.wrong_aliases, self.others)


def row_of(where: str, item: Item, text: str, belief: str) -> Row:
    """Return the row that an item's answer is."""
    names = (item.aliases, item.wrong_aliases, item.others)
    return Row(where, item.question, text, item.answer, None, item.wrong, belief, "", *names)


def read_rows(path: Path, labels: str | None = None) -> Iterator[Row]:
    """Yield the rows of a file, JSON, CSV, TSV or Parquet; ``labels`` names a column with people's grades.

    Columns: question, answer or output, right or correct_answer; optional are wrong, aliases, wrong_aliases and others
    (further wrong answers), which are lists, JSON text of one, or texts with ``|`` between; grading, finish, belief,
    persona. The authors' own columns are known too (content_key, output, correct_answer, incorrect_answer,
    ground_truth, ...; an empty right answer of theirs was "None"), and those of our export (question, text, answer,
    ...), whose rows without an answer's text are left out. Labels may be upper case. Raises ``InputError`` with file
    and line for a missing column, a value that is no text, or a label that is not one of the four.
    """
    for number, row in _read(path):
        if not (_ours(row) and _wordless(row)):
            yield _row(row, f"{path}:{number}", labels)


def wordless(path: Path) -> int:
    """Return how many rows of an export have no text to grade: probabilities of given answers, failed requests."""
    return sum(_ours(row) and _wordless(row) for _, row in _read(path))


def _read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    divided = is_delimited(path)
    for number, row in read_table(path):
        if divided and _ours(row):
            yield number, {name: from_cell(cell) for name, cell in row.items()}
        else:
            yield number, row


def _exported(row: dict[str, Any]) -> bool:
    # A text that is not there is none of Parquet's.
    written = "text" in row or "status" in row
    return written and row.keys() >= EXPORTED and "output" not in row and not any(name in row for name in OWN["right"])


def _ours(row: dict[str, Any]) -> bool:
    return _exported(row) or ("output" in row and row.keys() >= {"grading", "finish"})


def _wordless(row: dict[str, Any]) -> bool:
    if row.get("grading") in COMPARED:
        return True
    return row.get("status", "ok") != "ok" or bool(row.get("labels") and not row.get("text"))


def _row(row: dict[str, Any], where: str, labels: str | None) -> Row:
    layout = EXPORT if _exported(row) else AUTHORS if "output" in row else OWN

    def text(choices: tuple[str, ...], needed: str = "") -> str:
        column = next((c for c in choices if c in row), None)
        if column is None:
            if needed:
                raise InputError(f"{where}: has no column {needed}")
            return ""
        if not isinstance(row[column], str):
            raise InputError(f"{where}: {column} is {row[column]!r}, expected text")
        return str(row[column])

    question = text(QUESTION, "question or content_key")
    answer = text(layout["answer"], "answer or output")
    right = text(layout["right"], "right or correct_answer")
    if not right.strip():
        if layout is not AUTHORS:
            raise InputError(f"{where}: the right answer is blank: write one")
        right = "None"
    template = text(("prompt_template", "prompt_type"))
    belief = text(("belief",)) or BELIEFS.get(template, "none")
    if belief not in KNOWN:
        raise InputError(f"{where}: belief is {belief!r}, expected one of {', '.join(KNOWN)}")
    grading = text(("grading",))
    if grading and grading not in GRADINGS:
        raise InputError(f"{where}: grading is {show(grading)}, expected one of {', '.join(GRADINGS)}")
    aliases, wrong_aliases, others = (_names(row.get(column), f"{where}: {column}") for column in NAMES)
    label = None
    if labels is not None:
        found = row.get(labels)
        label = found.strip().lower() if isinstance(found, str) else found
        if label not in LABELS:
            raise InputError(f"{where}: label {labels} is {found!r}, expected one of {', '.join(LABELS)}")
    return Row(
        where, question, answer, right.strip(), label, text(WRONG), belief, text(("persona",)), aliases, wrong_aliases,
        others, grading, row.get("finish") == "length",
    )  # fmt: skip


def _names(value: Any, where: str) -> tuple[str, ...]:
    """Return a list of names: a list, the JSON text of one, or texts with a separator between."""
    if isinstance(value, str):
        value = parse_json(value, where) if value.lstrip().startswith("[") else value.split(SEPARATOR)
    if value is not None and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise InputError(f"{where} is {show(value)}, expected a list of texts")
    return tuple(name for name in value or () if name.strip())
