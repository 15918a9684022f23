"""Rows of the files that people publish: CSV, TSV, JSON lines, a JSON array or Parquet; text perhaps in gzip.

The name's ending says which; a file that says nothing, or ``.json``, holds JSON: an array where it begins with a
bracket, else lines. ``common/delimited.py`` reads CSV and TSV.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from warmeng.common import delimited
from warmeng.common.errors import InputError, UsageError, one_line
from warmeng.common.files import BOM, opened, parse_json, read_jsonl, read_text, reading

Row = dict[str, Any]
Kind = Literal["csv", "tsv", "json", "parquet"]

ENDINGS: dict[str, Kind] = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "json", ".ndjson": "json", ".json": "json",
    ".parquet": "parquet",
}  # fmt: skip
# The usual one; a file may have another.
SEPARATORS = {"csv": ",", "tsv": "\t"}
# Bytes that the first bracket of JSON must be among.
PEEK = 1 << 20
# Rows of a Parquet file that are held at a time.
BATCH = 1024
_SPACE = re.compile(r"[ \t\r\n]*")


def ending(path: Path) -> str:
    """Return a data file's ending with that of its compression, ``.jsonl.gz`` say; empty for a name that has none."""
    names = path.name.lower()
    inner = names.removesuffix(".gz")
    found = next((e for e in ENDINGS if inner.endswith(e)), "")
    return names[len(inner) - len(found) :] if found else ""


def stem(path: Path) -> str:
    """Return a file's name without its ending."""
    found = ending(path)
    return path.name[: -len(found)] if found and len(path.name) > len(found) else path.stem


def kind_of(path: Path) -> Kind:
    """Return how a file is read."""
    return ENDINGS.get(ending(path).removesuffix(".gz"), "json")


def is_delimited(path: Path) -> bool:
    """Whether a file is CSV or TSV, whose every value is text."""
    return kind_of(path) in SEPARATORS


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (line, row) of a file, of Parquet the row's number from 1. Raises InputError with file and line.

    A null of Parquet is a value that is not there.
    """
    kind = kind_of(path)
    if kind == "parquet":
        yield from _parquet(path)
    elif kind == "json":
        yield from read_objects(path)
    else:
        yield from delimited.read_csv(path, SEPARATORS[kind])


def read_objects(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (line, object) of JSON lines in bounded memory, or of a JSON array."""
    with reading(path), opened(path) as file:
        start = file.read(PEEK).removeprefix(BOM).lstrip()[:1]
    yield from read_values(path) if start == b"[" else read_jsonl(path)


def read_values(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (line, object) of a JSON array, or of objects on separate lines."""
    text = read_text(path)
    # The decoder finds where a value ends; the value is parsed strictly after that.
    decoder = json.JSONDecoder()
    at = _skip(text, 0)
    array = text.startswith("[", at)
    at, line, counted = at + array, 1, 0
    while True:
        at = _skip(text, at)
        line, counted = line + text.count("\n", counted, at), at
        where = f"{path}:{line}"
        if at == len(text) or (array and text[at] == "]"):
            break
        try:
            _, after = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}:{text.count(chr(10), 0, error.pos) + 1}: is not valid JSON ({error.msg}): expected "
                f"{'a list of objects' if array else 'one object on each line'}"
            ) from None
        except RecursionError:
            raise InputError(f"{where}: is nested too deeply: write it flatter") from None
        value = parse_json(text[at:after], where)
        if not isinstance(value, dict):
            raise InputError(f"{where}: is a JSON {type(value).__name__}, expected an object with named keys")
        yield line, value
        at = _skip(text, after)
        if array and text.startswith(",", at):
            at += 1
        elif array and not text.startswith("]", at):
            line += text.count("\n", counted, at)
            raise InputError(f"{path}:{line}: the list goes on without a comma or ends without ']': is it cut off?")
        elif not array and at < len(text) and "\n" not in text[after:at]:
            raise InputError(f"{where}: has more than one object on the line, expected one")
    if array and (at == len(text) or _skip(text, at + 1) < len(text)):
        raise InputError(f"{path}:{line}: expected the list's ']' at the end of the file: is it cut off?")


def first_cells(path: Path) -> list[str]:
    """Return the first row of a CSV or TSV file, a header or not, as ``common/delimited.py`` has it."""
    return delimited.first_cells(path, SEPARATORS[kind_of(path)])


def read_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of a CSV or TSV file without a header."""
    return delimited.read_cells(path, SEPARATORS[kind_of(path)])


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None, "the pattern matches nothing too"
    return match.end()


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError(
            f"{one_line(path)}: Parquet needs pyarrow: pip install 'warmeng[parquet]', or give CSV or JSON lines"
        ) from None
    number = 0
    with reading(path):
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=BATCH):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, {name: value for name, value in row.items() if value is not None}
        except pa.ArrowException as error:
            why = one_line(error, 120)
            raise InputError(f"{one_line(path)}: is not a sound Parquet file ({why}): fetch it again") from None
