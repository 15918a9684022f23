"""Strict readers for the files that people write, and atomic writers for ours.

Lines end at ``\\n`` only: U+2028 and U+0085 are text. Every error is an ``InputError`` that names file and line.
"""

from __future__ import annotations

import codecs
import errno
import gzip
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from warmeng.common.errors import InputError, one_line, show
from warmeng.common.places import beside_of, require_replaceable

BOM = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# How files begin that are no text in UTF-8, and what to do with one.
OTHERS = {
    GZIP: "is compressed by gzip: add .gz to the file's name",
    b"PK\x03\x04": "is a ZIP archive, as Excel's workbooks are: save it as CSV in UTF-8",
    b"PAR1": "is Parquet: let its name end in .parquet",
    **dict.fromkeys(UTF16, "is UTF-16: save the file as UTF-8"),
}
# Bytes of a compressed file, or of a line of one: a small one can hold any number.
MAX_UNPACKED = 2**30
# Bytes of a file that is parsed whole: the most hostile text takes about 30 times as much.
MAX_JSON = 8 * 2**20
# Characters: the parser takes about a second for 100,000.
MAX_YAML = 2**18
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
STORAGE = FULL | {errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV, errno.ESTALE}
# A network file system whose other end is gone.
STORAGE |= {errno.ENOTCONN, errno.EREMOTEIO}
STORAGE |= {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}  # names that no file can have there
_MEND = "correct it, or fetch it again"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # an escape that may be a lone one
# What a write in progress is named: .NAME.PID.RANDOM.tmp; earlier versions had no random part.
_BESIDE = re.compile(r"\..+?\.(\d+)(?:\.[0-9a-f]{8})?\.(?:tmp|old)")


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a regular file, of ``.gz`` what it holds; ``InputError`` where it can't be read."""
    with reading(path), opened(path) as file:
        if path.suffix != ".gz":
            return file.read()
        content = file.read(MAX_UNPACKED + 1)
    if len(content) > MAX_UNPACKED:
        raise InputError(f"{one_line(path)}: holds more than {MAX_UNPACKED} bytes: unpack it first")
    return content


def opened(path: Path) -> IO[bytes]:
    """Return a file opened for reading, ``.gz`` unpacked. Raises as ``open`` and, when it is read, as ``gzip`` does."""
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong when a file is opened or read into an ``InputError`` that names it."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zlib.error) as error:  # ValueError: a null byte in the name
        raise InputError(f"{one_line(path)}: can't be read ({_why(error)}): {_remedy(error)}") from None


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have has none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_text(path: Path) -> str:
    """Return a UTF-8 file as text, byte for byte but for a byte order mark."""
    return decode(read_bytes(path).removeprefix(BOM), str(path))


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for every line that is not blank, in bounded memory.

    Refused: lines that are no JSON object, a key given twice, NaN and infinities, lone surrogates, other encodings.
    """
    with reading(path), opened(path) as file:
        number = 0
        while line := file.readline(MAX_UNPACKED if path.suffix == ".gz" else -1):
            number += 1
            raw = line.removeprefix(BOM) if number == 1 else line
            if raw.strip():
                yield number, parse_object(raw, f"{path}:{number}")


def _why(error: Exception) -> str:
    return one_line(getattr(error, "strerror", None) or error, 80)


def _remedy(error: Exception) -> str:
    if isinstance(error, gzip.BadGzipFile):
        return "it is named as gzip and isn't, take .gz off its name or fetch it again"
    damaged = isinstance(error, EOFError | zlib.error)
    return "it is cut off or damaged, fetch it again" if damaged else "give a file that exists"


def read_json(path: Path, limit: int = MAX_JSON) -> dict[str, Any]:
    """Return the object of a JSON file of at most ``limit`` bytes; strict as ``parse_json``."""
    with reading(path), path.open("rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise InputError(f"{one_line(path)}: has more than {limit} bytes, which no sound JSON file here has: {_MEND}")
    return parse_object(raw, str(path))


def parse_object(raw: bytes, where: str) -> dict[str, Any]:
    """Parse one JSON object, strictly as ``parse_json``."""
    value = parse_json(decode(raw, where), where)
    if not isinstance(value, dict):
        raise InputError(f"{where}: is a JSON {type(value).__name__}, expected an object with named keys")
    return value


def parse_json(text: str, where: str) -> Any:
    """Parse one JSON value: no key twice, no NaN, no lone surrogates; ``where`` starts the ``InputError``'s message."""
    return _strictly(lambda: (_STRICT.decode(text), len(text)), text, 0, where)[0]


def parse_json_at(text: str, start: int, where: str) -> tuple[Any, int]:
    """Parse, as ``parse_json``, the JSON value that begins at an index of ``text``; return it and where it ends."""
    return _strictly(lambda: _STRICT.raw_decode(text, start), text, start, where)


def _strictly(parse: Callable[[], tuple[Any, int]], text: str, start: int, where: str) -> tuple[Any, int]:
    try:
        value, end = parse()
        if _SURROGATE.search(text, start, end):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{where}: has a lone surrogate: write real characters") from None
    except RecursionError:
        raise InputError(f"{where}: is nested too deeply: write it flatter") from None
    except ValueError as error:
        raise InputError(f"{where}: is not valid JSON ({one_line(error)}): {_MEND}") from None
    return value, end


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {show(key)} is given twice")
            seen.add(key)
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_no_twice, parse_constant=_no_constant)


def decode(raw: bytes, where: str) -> str:
    """Return UTF-8 as text; ``InputError`` that names the line of a byte that is none, or what the file is instead."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        at = f"{where}:{line}" if b"\n" in raw[:-1] else where
        is_other = next((what for start, what in OTHERS.items() if raw.startswith(start)), None)
        raise InputError(f"{at}: {is_other or f'byte {error.start} is not UTF-8: save the file as UTF-8'}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping of a YAML file; no tags, no aliases, no key twice. ``InputError`` gives file and line."""
    import yaml

    class Loader(yaml.SafeLoader):
        """A safe loader that refuses a key given twice, and aliases: a few can stand for any number of values."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.MarkedYAMLError(problem="an alias (*name) is not allowed: write it out", problem_mark=mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
                if isinstance(key.value, str):
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    text = read_text(path)
    if len(text) > MAX_YAML:
        raise InputError(f"{path}: has {len(text)} characters, expected at most {MAX_YAML}: split it")
    try:
        value = yaml.load(text, Loader=Loader)
        repr(value).encode()  # fails for numbers of thousands of digits
        _refuse_surrogates(value)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{line}: is not valid YAML ({one_line(error.problem or error)})") from None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path}: is not valid YAML ({one_line(error)})") from None
    if value is None:
        raise InputError(f"{path}: is empty, expected 'name: value' lines")
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{path}:1: expected 'name: value' lines, got {type(value).__name__}")
    return value


def _refuse_surrogates(value: object) -> None:
    """Raise UnicodeEncodeError for a text anywhere in a value that UTF-8 can't hold."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict | list):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            _refuse_surrogates(part)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader, a crash or a power loss sees either the old content or the whole new one.

    Raises ``OSError`` as the system gave it.
    """
    with replacing(path) as beside, beside.open("wb") as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` for a new file, which takes its place, durably, when the block ends well.

    The file beside is new, and nobody can know its name before it is there: no link that somebody laid is followed.
    Raises ``InputError`` where ``path`` is anything but a regular file or absent (a folder, a link, a device), and
    ``OSError``, with the file's name also where the system does not give it.
    """
    require_replaceable(path)
    beside = beside_of(path)
    try:
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.filename in (None, str(beside)):
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left of writes in progress, in a folder and those in it. Raises ``OSError``."""
    for path in [*folder.glob(".*"), *folder.glob("*/.*")]:
        match = _BESIDE.fullmatch(path.name)
        if match and not _is_alive(int(match[1])):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # there is one, of somebody else
    return True


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it, durably; return the new ones, the innermost first. Raises ``OSError``."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in made:
        sync_folder(place.parent)
    return made


def make_inner(folder: Path, *names: str) -> Path:
    """Make a folder below ``folder``, durably, and return it. Raises ``OSError``.

    Raises ``InputError`` where one of the ``names`` is a link: what is written there would be written elsewhere.
    """
    place = folder
    for name in names:
        place = place / name
        if place.is_symlink():
            raise InputError(f"{one_line(place)}: is a link, expected a folder or nothing there: remove it")
    make_folder(place)
    return place


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises ``OSError``."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def storage_failure(error: OSError, then: str = "give the same command again") -> str | None:
    """Return one line for an error of the disk or of rights: file, cause, what to do first and ``then``.

    ``None`` for any other error.
    """
    if error.errno not in STORAGE:
        return None
    names = [str(name) for name in (error.filename, error.filename2) if name]
    do = "make room" if error.errno in FULL else "choose a place that can be read and written"
    return f"{one_line(names[-1]) if names else 'the output'}: {error.strerror}: {do}, then {then}"
