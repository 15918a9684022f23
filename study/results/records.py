"""``records.jsonl``: one finished answer a line, a checksum on each, appended by one writer.

A line is a JSON object whose last key is ``crc32``, the CRC-32 of all bytes of the line before ``,"crc32"``. Appends
reach the system at once, so a killed process loses nothing that was acknowledged; they reach the disk within a
second or 100 records. A failed write or fsync is never retried: what the disk then holds is not known.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.errors import InputError, StorageError, one_line
from warmeng.common.files import FULL, sync_folder

FILE = "records.jsonl"
LOCK = "run.lock"
SYNC_RECORDS = 100
SYNC_SECONDS = 1.0
TAIL = re.compile(rb',"crc32":"([0-9a-f]{8})"\}\n')
TAIL_SIZE = len(b',"crc32":"00000000"}\n')


def encode(record: Mapping[str, Any]) -> bytes:
    """Return a record's line, with checksum and line end."""
    body = orjson.dumps(record)[:-1]
    return b'%b,"crc32":"%08x"}\n' % (body, zlib.crc32(body))


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file; an unfinished last line is left out.

    Raises ``InputError`` with file, line and byte offset for a line that is damaged or a key that is there twice.
    """
    for record, _ in _read(path):
        yield record


def _read(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield (record, offset of its line's end)."""
    seen: set[bytes] = set()
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                record = _parse(line, path, number, offset)
                key = bytes.fromhex(record["key"])
                if key in seen:
                    raise _damaged(path, number, offset, f"its key {record['key']} is there twice")
                seen.add(key)
                offset += len(line)
                yield record, offset
    except OSError as error:
        why = one_line(error.strerror or error)
        raise InputError(f"{path}: can't be read ({why}): expected the records of a run, readable") from None


def _parse(line: bytes, path: Path, number: int, offset: int) -> dict[str, Any]:
    tail = TAIL.fullmatch(line, max(0, len(line) - TAIL_SIZE))
    if tail is None or int(tail[1], 16) != zlib.crc32(line[: tail.start()]):
        raise _damaged(path, number, offset, "its checksum does not match")
    try:
        record: dict[str, Any] = orjson.loads(line)
        bytes.fromhex(record["key"])
    except (ValueError, KeyError, TypeError):
        raise _damaged(path, number, offset, "it is not a record") from None
    return record


def _damaged(path: Path, number: int, offset: int, why: str) -> InputError:
    return InputError(
        f"{path}:{number}: the line at byte {offset} is damaged ({why}); nothing was changed: "
        "restore the file or choose another --out"
    )


class RecordWriter:
    """Appends records. The caller holds the folder's lock."""

    def __init__(self, path: Path, resume: str) -> None:
        """Check the file, cut a torn last line, open it for appending. ``resume`` is the command that continues.

        ``done`` has the keys that are there, ``cut`` the number of bytes cut. Raises ``InputError`` for damage
        (nothing is changed then) and ``StorageError`` where the file can't be opened or cut.
        """
        self.path, self.resume = path, resume
        self.done: set[str] = set()
        whole = 0
        if path.exists():
            for record, whole in _read(path):  # noqa: B007 (the last value is wanted)
                self.done.add(record["key"])
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._unsynced = 0
        self._failed: StorageError | None = None
        self._lost = False  # an fsync failed: what the disk holds since the last one is not known
        try:
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            size = os.fstat(self._handle).st_size
            self.cut = size - whole
            if self.cut:
                os.ftruncate(self._handle, whole)
            os.fsync(self._handle)
            sync_folder(path.parent)
        except OSError as error:
            raise self._failure(error) from None
        self._size = whole
        self._thread = threading.Thread(target=self._sync_each_second, name="records-fsync", daemon=True)
        self._thread.start()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; ``StorageError`` where this or an earlier write or fsync did not succeed."""
        line = encode(record)
        with self._guard:
            self._check()
            view = memoryview(line)
            try:
                while view:
                    view = view[os.write(self._handle, view) :]
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._handle, self._size)
                self._failed = self._failure(error)
                raise self._failed from None
            self._size += len(line)
            self._unsynced += 1
            self.done.add(record["key"])
            if self._unsynced >= SYNC_RECORDS:
                self._sync()

    def close(self) -> None:
        """Make everything durable and close the file; ``StorageError`` as ``append``."""
        self._stop.set()
        self._thread.join()
        with self._guard:
            try:
                if not self._lost:  # what is whole is made durable also after a write that failed
                    self._sync()
                self._check()
            finally:
                os.close(self._handle)

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
            with self._guard, contextlib.suppress(StorageError):  # kept in _failed: the next append raises it
                if self._failed is None:
                    self._sync()

    def _failure(self, error: OSError, unknown: int = 0) -> StorageError:
        """Say what is kept; of ``unknown`` records the disk may have taken some, all or none."""
        kept = f"{len(self.done) - unknown} records are kept" + (f", {unknown} more perhaps" if unknown else "")
        do = "make room" if error.errno in FULL else "see to the disk"
        return StorageError(
            f"{self.path}: {one_line(error.strerror or error)}; {kept}: {do}, then continue with: {self.resume}"
        )
