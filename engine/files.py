"""Strict readers for the files that people write, and an atomic writer for ours.

Lines end at ``\\n`` only: U+2028 and U+0085 are text. Every error is an ``InputError`` that names file and line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from warmeng.engine.errors import InputError, one_line

BOM = b"\xef\xbb\xbf"


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a regular file; ``InputError`` where it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}): give a file that exists") from None


def read_text(path: Path) -> str:
    """Return a UTF-8 file as text, byte for byte but for a byte order mark."""
    return _decode(read_bytes(path).removeprefix(BOM), str(path))


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for every line that is not blank, in bounded memory.

    Refused: lines that are no JSON object, a key given twice, NaN and infinities, lone surrogates, other encodings.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                raw = line.removeprefix(BOM) if number == 1 else line
                if raw.strip():
                    yield number, parse_object(raw, f"{path}:{number}")
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}): give a JSON lines file that exists") from None


def parse_object(raw: bytes, where: str) -> dict[str, Any]:
    """Parse one JSON object strictly; ``where`` starts the message of an ``InputError``."""
    value = parse_json(_decode(raw, where), where)
    if not isinstance(value, dict):
        raise InputError(f"{where}: is a JSON {type(value).__name__}, expected an object with named keys")
    return value


def parse_json(text: str, where: str) -> Any:
    """Parse one JSON value: no key twice, no NaN, no lone surrogates; ``where`` starts the ``InputError``'s message."""
    try:
        value = json.loads(text, object_pairs_hook=_no_twice, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{where}: has a lone surrogate: write real characters") from None
    except RecursionError:
        raise InputError(f"{where}: is nested too deeply: write it flatter") from None
    except ValueError as error:
        raise InputError(f"{where}: is not valid JSON ({one_line(error)}): correct it") from None
    return value


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        at = f"{where}:{line}" if b"\n" in raw[:-1] else where
        raise InputError(f"{at}: byte {error.start} is not UTF-8: save the file as UTF-8") from None


def read_csv(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a CSV file with a header. Nothing is guessed: "None", "NA" and "" are text."""
    import csv
    import io

    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise InputError(f"{path}: is empty, expected a header line")
        if len(set(header)) != len(header):
            raise InputError(f"{path}:1: a column name is given twice: give each its own")
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(f"{path}:{reader.line_num}: has {len(row)} fields, expected {len(header)}")
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: is not valid CSV ({one_line(error)})") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping of a YAML file; no tags, no key twice. ``InputError`` gives file and line."""
    import yaml

    class Loader(yaml.SafeLoader):
        """A safe loader that refuses a key given twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
                if isinstance(key.value, str):
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    text = read_text(path)
    try:
        value = yaml.load(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{line}: is not valid YAML ({one_line(error.problem or error)})") from None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise InputError(f"{path}: is not valid YAML ({one_line(error)})") from None
    if value is None:
        raise InputError(f"{path}: is empty, expected 'name: value' lines")
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{path}:1: expected 'name: value' lines, got {type(value).__name__}")
    return value


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader, a crash or a power loss sees either the old content or the whole new one.

    Raises ``OSError`` as the system gave it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises ``OSError``."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
