"""CSV and TSV as spreadsheets, pandas and R write them; every value is text, and nothing is guessed.

Read beside plain CSV in UTF-8: UTF-16 with its byte order mark, semicolons or tabs between the columns, Excel's first
line ``sep=;``, and a first column without a name that numbers the rows, which is left out.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from warmeng.common.errors import InputError, one_line
from warmeng.common.files import BOM, UTF16, decode, opened, read_bytes, reading

# What cuts a line into columns; the usual one of a format is tried first.
SEPARATORS = (",", ";", "\t")
# Bytes that a header must end within.
PEEK = 1 << 20
# What pandas calls a column without a name when it reads its own file again.
UNNAMED = ("", "Unnamed: 0")
_TOLD = re.compile(r"sep=([,;\t|])\r?\n")
_WHOLE = re.compile(r"\d+")


def read_csv(path: Path, separator: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a file with a header. Nothing is guessed: "None", "NA" and "" are text.

    ``separator``: the usual one, which holds unless it leaves the header whole and another one cuts it. Raises
    ``InputError`` with file and line.
    """
    rows = read_cells(path, separator)
    first, header = next(rows, (0, None))
    if header is None:
        raise InputError(f"{path}: is empty, expected a header line")
    twice = next((name for k, name in enumerate(header) if name in header[:k]), None)
    if twice is not None:
        raise InputError(f"{path}:{first}: the column {one_line(twice, 80)!r} is there twice: give each its own name")
    numbered = len(header) > 1 and header[0] in UNNAMED
    for line, row in rows:
        if len(row) != len(header):
            raise InputError(
                f"{path}:{line}: has {len(row)} fields, expected {len(header)}: quote a cell that has a separator in it"
            )
        if numbered and not _WHOLE.fullmatch(row[0]):
            raise InputError(
                f"{path}:{line}: the first column has no name and holds {one_line(row[0], 40)!r}, no number of a row: "
                "name the column, or leave it out"
            )
        yield line, dict(zip(header[numbered:], row[numbered:], strict=True))


def read_cells(path: Path, separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of each row that is not empty; ``separator`` as ``read_csv`` has it."""
    return _cells(_text(read_bytes(path), str(path)), path, separator)


def first_cells(path: Path, separator: str = ",") -> list[str]:
    """Return the first row that is not empty, a header or not, without a nameless number of rows before it.

    What doesn't decode stays odd. Raises ``InputError`` for a file without a row.
    """
    with reading(path), opened(path) as file:
        raw = file.read(PEEK)
    text = raw.decode("utf-16" if raw.startswith(UTF16) else "utf-8-sig", errors="replace")
    for _, row in _cells(text, path, separator):
        return row[len(row) > 1 and row[0] in UNNAMED :]
    raise InputError(f"{path}: is empty, expected a header line")


def _text(raw: bytes, where: str) -> str:
    if not raw.startswith(UTF16):
        return decode(raw.removeprefix(BOM), where)
    try:
        return raw.decode("utf-16")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start} is not UTF-16: save the file as UTF-8") from None


def _cells(text: str, path: Path, usual: str) -> Iterator[tuple[int, list[str]]]:
    told = _TOLD.match(text)
    skipped = 1 if told else 0
    separator = told[1] if told else _separator(text, usual)
    lines = io.StringIO(text[told.end() :] if told else text, newline="")
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num + skipped, row
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num + skipped}: is not valid CSV ({one_line(error)})") from None


def _separator(text: str, usual: str) -> str:
    """Return the usual separator, or where it leaves the first row whole the one that cuts it into the most cells."""

    def cut(separator: str) -> int:
        try:
            return next((len(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row), 0)
        except csv.Error:
            return 0

    return usual if cut(usual) > 1 else max((usual, *SEPARATORS), key=cut)
