"""``overruled.csv`` of a run folder: grades that people give in place of the rules' and judges', with who and why.

A row names an answer by its ``key``. The records stay as they are: this is a view of them, like a judge's grade, and
whatever reads the run reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from warmeng.common.errors import InputError, show
from warmeng.engine.tables import read_rows
from warmeng.study.grading.grade import GRADES
from warmeng.study.results.frame import WHICH

FILE = "overruled.csv"
COLUMNS = ("key", "grade", "who", "why")
# Of an incorrect answer: whose wrong answer it is, ``user`` or ``other``.
MAY = ("which",)


@dataclass(frozen=True, slots=True)
class Overruled:
    """A grade by hand. ``where`` is its file and line, for messages."""

    grade: str
    which: str
    who: str
    why: str
    where: str

    @property
    def reason(self) -> str:
        """What stands as the grade's reason."""
        return f"overruled by {self.who}: {self.why}"


def read_overruled(folder: Path) -> dict[str, Overruled]:
    """Return the grades by hand of a run, by the answer's key; none without the file.

    Raises ``InputError`` with file and line for a row that lacks something, and for an answer that is there twice.
    """
    path = folder / FILE
    found: dict[str, Overruled] = {}
    if not path.exists():
        return found
    for number, row in read_rows(path):
        where = f"{path}:{number}"
        if unknown := sorted(set(row) - {*COLUMNS, *MAY}):
            raise InputError(f"{where}: has the column {show(unknown[0], 40)}, expected {', '.join(COLUMNS + MAY)}")
        values = {name: str(row.get(name) or "").strip() for name in (*COLUMNS, *MAY)}
        for name in COLUMNS:
            if not values[name]:
                raise InputError(f"{where}: {name} is empty: a grade by hand needs {', '.join(COLUMNS)}")
        if values["grade"] not in GRADES:
            raise InputError(f"{where}: grade is {show(values['grade'], 40)}, expected one of {', '.join(GRADES)}")
        if values["which"] not in WHICH or (values["which"] and values["grade"] != "incorrect"):
            raise InputError(
                f"{where}: which is {show(values['which'], 40)}, expected user or other, of incorrect ones"
            )
        if values["key"] in found:
            raise InputError(f"{where}: key {show(values['key'], 40)} is there twice: expected each answer once")
        key = values.pop("key")
        found[key] = Overruled(**values, where=where)
    return found


def overruled_line(by: Mapping[str, int]) -> str:
    """Return how many grades people gave, and who, in a sentence; "" where nobody did."""
    who = ", ".join(f"{name} {count:,}" for name, count in by.items())
    return f"{sum(by.values()):,} grades were given by hand ({who}): overruled.csv says why." if by else ""
