"""What a file's columns mean, where it does not say so itself: the file that ``--mapping`` gives.

``columns`` says what each of ours is read from, by a dotted name, or gives ``{value: ...}`` for all answers; ``grades``
which values are which grade; ``where`` what an answer must have to be one of those that are read; ``files`` the same
for files whose names fit a pattern. docs/import.md has an example.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError, name_some, one_line, show
from warmeng.common.files import read_yaml
from warmeng.study.grading.grade import GRADES
from warmeng.study.imports.rows import NAMES, Row

COLUMNS = (*NAMES, "sample", "grade", "which", "text")
KEYS = ("columns", "grades", "where")
# How other software writes grades. Inspect's P is a part of what was asked for, its N no answer.
WORDS: dict[Any, str] = {
    **{name: name for name in GRADES}, "C": "correct", "I": "incorrect", "P": "unclear", "N": "refusal",
    "CORRECT": "correct", "INCORRECT": "incorrect", "true": "correct", "false": "incorrect", "": "unscored",
    "1": "correct", "0": "incorrect", "1.0": "correct", "0.0": "incorrect",
}  # fmt: skip


@dataclass(frozen=True)
class FileMapping:
    """What holds for one file."""

    columns: Mapping[str, Any] = field(default_factory=dict)
    grades: Mapping[Any, str] | None = None
    where: Mapping[str, Any] = field(default_factory=dict)

    def keeps(self, row: Row) -> bool:
        """Whether a row is one of those that are asked for."""
        return all(_word(_found(row, path)) == _word(value) for path, value in self.where.items())

    def apply(self, row: Row) -> dict[str, Any]:
        """Return our columns of a row. Raises ``InputError`` where one can't be told, or is none that we know."""
        found = dict(row.found)
        for name, source in self.columns.items():
            found[name] = source["value"] if isinstance(source, dict) else _found(row, source)
        if "grade" not in found:
            told = f"has several scores ({name_some(row.scores)})" if row.scores else "has no grade"
            raise InputError(f"{row.where}: {told}: say in --mapping which column is the grade")
        found["grade"] = self._grade(found["grade"], row.where)
        return found

    def _grade(self, value: Any, where: str) -> str:
        words = WORDS if self.grades is None else self.grades
        word = _word(value)
        if word not in words:
            known = name_some({word or "nothing" for word in words}, 12)
            raise InputError(
                f"{where}: the grade is {show(value)}, expected one of {known}: tell it as grades in --mapping"
            )
        return words[word]


@dataclass(frozen=True)
class Mappings:
    """What a mapping file says of all files, and of some."""

    common: FileMapping = field(default_factory=FileMapping)
    files: tuple[tuple[str, FileMapping], ...] = ()

    def of(self, path: Path) -> FileMapping:
        """Return what holds for a file: the first pattern's that fits its name, beside what holds for all."""
        for pattern, mine in self.files:
            if fnmatchcase(path.name, pattern):
                return FileMapping(
                    {**self.common.columns, **mine.columns},
                    self.common.grades if mine.grades is None else mine.grades,
                    {**self.common.where, **mine.where},
                )
        return self.common


def read_mappings(path: Path) -> Mappings:
    """Read a mapping file. Raises ``InputError`` for what it does not know."""
    data = read_yaml(path)
    files = data.pop("files", {})
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files):
        raise InputError(
            f"{path}: files is {show(files)}, expected patterns of file names, each with columns or grades"
        )
    return Mappings(_mapping(path, data), tuple((name, _mapping(path, some)) for name, some in files.items()))


def _mapping(path: Path, data: Any) -> FileMapping:
    if not isinstance(data, dict) or (unknown := [key for key in data if key not in KEYS]):
        got = show(data) if not isinstance(data, dict) else one_line(unknown[0])
        raise InputError(f"{path}: has {got}, expected {', '.join(KEYS)} or, at the top, files")
    parts = {key: data.get(key) or {} for key in KEYS}
    for key, part in parts.items():
        if not isinstance(part, dict) or not all(isinstance(name, str) for name in part):
            raise InputError(f"{path}: {key} is {show(part)}, expected 'name: value' lines")
    for name, source in parts["columns"].items():
        if name not in COLUMNS:
            raise InputError(f"{path}: columns has {one_line(name)}, expected {', '.join(COLUMNS)}")
        if not isinstance(source, str) and not (isinstance(source, dict) and set(source) == {"value"}):
            raise InputError(f"{path}: {name} is {show(source)}, expected a column's name, or {{value: ...}}")
    grades: dict[Any, str] = {}
    for name, words in parts["grades"].items():
        if name not in GRADES or not isinstance(words, list):
            raise InputError(
                f"{path}: grades has {one_line(name)}: {show(words)}, expected {', '.join(GRADES)}, each with a list"
            )
        for word in map(_word, words):
            if grades.setdefault(word, name) != name:
                raise InputError(f"{path}: {show(word)} is given as {grades[word]} and as {name}: give it once")
    return FileMapping(parts["columns"], grades or None, parts["where"])


def _word(value: Any) -> Any:
    """Return a value as it is compared: a table has text where JSON has numbers and flags."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}"
    return value if isinstance(value, str) else show(value)


def _found(row: Row, path: str) -> Any:
    """Return what a dotted name finds in a row. A name that has dots itself is found as a whole."""
    value: Any = row.raw
    if path in row.raw:
        return value[path]
    for part in path.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, ValueError, TypeError):
            has = name_some(map(str, row.raw), 12)
            raise InputError(f"{row.where}: has no {one_line(path)}, which --mapping names; it has {has}") from None
    return value
