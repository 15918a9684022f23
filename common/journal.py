"""A crash-safe journal: one JSON object a line, a checksum on each, appended by one process.

A line's last key is ``crc32``, the CRC-32 of all bytes of the line before ``,"crc32"``; its ``key``, hexadecimal, is
there once in a file. Appends reach the system at once, so a killed process loses nothing that was acknowledged; they
reach the disk within a second or 100 lines. A failed write or fsync is never retried: what the disk then holds is not
known. A torn last line is cut; a damaged one elsewhere is an error, because what it held is not known either.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from warmeng.common.errors import InputError, StorageError, one_line
from warmeng.common.files import FULL, sync_folder
from warmeng.common.places import open_own, require_replaceable

SYNC_LINES = 100
SYNC_SECONDS = 1.0
_TAIL = re.compile(rb',( ?)"crc32":\1"([0-9a-f]{8})"\}\n')  # preparations once wrote blanks
_TAIL_SIZE = len(b', "crc32": "00000000"}\n')


def encode(line: Mapping[str, Any]) -> bytes:
    """Return a line's bytes, with checksum and line end."""
    body = orjson.dumps(line)[:-1]
    return b'%b,"crc32":"%08x"}\n' % (body, zlib.crc32(body))


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file; an unfinished last one is left out.

    Raises ``InputError`` with file, line and byte offset for a line that is damaged or a key that is there twice.
    """
    return (line for line, _ in _read(path, Keys()))


class Keys(Collection[str]):
    """A set of hexadecimal keys, held as their bytes: there may be millions."""

    def __init__(self) -> None:
        self._bytes: set[bytes] = set()

    def add(self, key: str) -> bool:
        """Add a key; return whether it is new. Raises ``ValueError`` and ``TypeError`` where it is none."""
        before = len(self._bytes)
        self._bytes.add(bytes.fromhex(key))
        return len(self._bytes) > before

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bytes.fromhex(key) in self._bytes

    def __len__(self) -> int:
        return len(self._bytes)

    def __iter__(self) -> Iterator[str]:
        return (key.hex() for key in self._bytes)


class Journal:
    """Appends lines. The caller holds the folder's lock."""

    def __init__(self, path: Path, resume: str, what: str = "records") -> None:
        """Check the file, cut a torn last line, open it for appending.

        ``done`` has the keys that are there, ``cut`` the number of bytes cut. ``resume`` is the command that continues
        and ``what`` the lines are, for messages. Raises ``InputError`` for damage, a link or anything but a regular
        file (nothing is changed then) and ``StorageError`` where the file can't be opened or cut.
        """
        require_replaceable(path)
        self.path, self.resume, self.what = path, resume, what
        self.done = Keys()
        whole = 0
        if path.exists():
            for line, whole in _read(path, self.done):  # noqa: B007 (the last value is wanted)
                self.keep(line)
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._unsynced = 0
        self._failed: StorageError | None = None
        # An fsync failed: what the disk holds since the last one is not known.
        self._lost = False
        try:
            self._handle = open_own(path, os.O_WRONLY | os.O_APPEND)
            self.cut = os.fstat(self._handle).st_size - whole
            if self.cut:
                os.ftruncate(self._handle, whole)
            os.fsync(self._handle)
            sync_folder(path.parent)
        except OSError as error:
            raise self._failure(error) from None
        self._size = whole
        self._thread = threading.Thread(target=self._sync_each_second, name="journal-fsync", daemon=True)
        self._thread.start()

    def keep(self, line: Mapping[str, Any]) -> None:
        """Take note of a line that was read or appended; here nothing but its key is kept."""

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line; ``StorageError`` where this or an earlier write or fsync did not succeed."""
        raw = encode(line)
        with self._guard:
            self._check()
            view = memoryview(raw)
            try:
                while view:
                    view = view[os.write(self._handle, view) :]
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._handle, self._size)
                self._failed = self._failure(error)
                raise self._failed from None
            self._size += len(raw)
            self._unsynced += 1
            self.done.add(line["key"])
            self.keep(line)
            if self._unsynced >= SYNC_LINES:
                self._sync()

    def close(self) -> None:
        """Make everything durable and close the file; ``StorageError`` as ``append``."""
        self._stop.set()
        self._thread.join()
        with self._guard:
            try:
                # What is whole is made durable also after a write that failed.
                if not self._lost:
                    self._sync()
                self._check()
            finally:
                os.close(self._handle)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _sync(self) -> None:
        if not self._unsynced:
            return
        try:
            os.fsync(self._handle)
        except OSError as error:
            self._lost = True
            self._failed = self._failure(error, self._unsynced)
            raise self._failed from None
        self._unsynced = 0

    def _sync_each_second(self) -> None:
        while not self._stop.wait(SYNC_SECONDS):
            # Kept in _failed: the next append raises it.
            with self._guard, contextlib.suppress(StorageError):
                if self._failed is None:
                    self._sync()

    def _failure(self, error: OSError, unknown: int = 0) -> StorageError:
        """Say what is kept; of ``unknown`` lines the disk may have taken some, all or none."""
        kept = f"{len(self.done) - unknown} {self.what} are kept" + (f", {unknown} more perhaps" if unknown else "")
        do = "make room" if error.errno in FULL else "see to the disk"
        return StorageError(
            f"{self.path}: {one_line(error.strerror or error)}; {kept}: {do}, then continue with: {self.resume}"
        )


def _read(path: Path, seen: Keys) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield (line, offset of its end) and add its key to those ``seen``."""
    offset = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    return
                at = f"{path}:{number}: the line at byte {offset}"
                line = _parse(raw, at)
                try:
                    new = seen.add(line["key"])
                except (ValueError, KeyError, TypeError):
                    raise _damaged(at, "it has no key") from None
                if not new:
                    raise _damaged(at, f"its key {line['key']} is there twice")
                offset += len(raw)
                yield line, offset
    except OSError as error:
        why = one_line(error.strerror or error)
        raise InputError(f"{path}: can't be read ({why}): expected lines with checksums, readable") from None


def _parse(raw: bytes, at: str) -> dict[str, Any]:
    tail = _TAIL.search(raw, max(0, len(raw) - _TAIL_SIZE))
    if tail is None or int(tail[2], 16) != zlib.crc32(raw[: tail.start()]):
        raise _damaged(at, "its checksum does not match")
    try:
        line: dict[str, Any] = orjson.loads(raw)
    except ValueError:
        raise _damaged(at, "it is not a record") from None
    return line


def _damaged(at: str, why: str) -> InputError:
    return InputError(f"{at} is damaged ({why}); nothing was changed: restore the file or choose another --out")
