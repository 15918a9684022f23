"""An append-only file of JSON lines with a checksum each, from which an interrupted preparation continues.

A line's last key is ``crc32``, the CRC-32 of the bytes before ``, "crc32"``. One process writes (the caller holds the
folder's lock). A torn last line is cut; a damaged one elsewhere is an error, because what it held is not known.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from warmeng.common.errors import InputError
from warmeng.common.files import sync_folder
from warmeng.common.storage import storage

SYNC_LINES = 50
_TAIL = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\n')
_TAIL_SIZE = len(b', "crc32": "00000000"}\n')


class Journal:
    """Lines by their ``key``. Raises InputError for damage, StorageError where the disk does not take a line."""

    def __init__(self, path: Path) -> None:
        """Read the lines that are there into ``lines``; ``cut`` is the number of bytes of a torn last one."""
        self.path = path
        self.lines: dict[str, dict[str, Any]] = {}
        whole = self._read() if path.exists() else 0
        with storage(path):
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self.cut = os.fstat(self._handle).st_size - whole
            if self.cut:
                os.ftruncate(self._handle, whole)
            sync_folder(path.parent)
        self._size, self._unsynced, self._lost = whole, 0, False

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a line and remember it; nothing of it is left where that fails."""
        body = json.dumps(line, ensure_ascii=False).encode()[:-1]
        raw = b'%b, "crc32": "%08x"}\n' % (body, zlib.crc32(body))
        with storage(self.path):
            try:
                view = memoryview(raw)
                while view:
                    view = view[os.write(self._handle, view) :]
            except OSError:
                os.ftruncate(self._handle, self._size)
                raise
            self._unsynced += 1
            if self._unsynced >= SYNC_LINES:
                self._sync()
        self._size += len(raw)
        self.lines[line["key"]] = dict(line)

    def close(self) -> None:
        """Make everything durable."""
        try:
            with storage(self.path):
                self._sync()
        finally:
            os.close(self._handle)

    def _sync(self) -> None:
        """Make the lines durable. A failed fsync is never retried: a second one may succeed without having written."""
        if self._lost:
            return
        try:
            os.fsync(self._handle)
        except OSError:
            self._lost = True
            raise
        self._unsynced = 0

    def __enter__(self) -> Journal:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def _read(self) -> int:
        whole = 0
        with storage(self.path), self.path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    break
                tail = _TAIL.fullmatch(raw, max(0, len(raw) - _TAIL_SIZE))
                if tail is None or int(tail[1], 16) != zlib.crc32(raw[: tail.start()]):
                    raise InputError(
                        f"{self.path}:{number}: the line is damaged (its checksum does not match); nothing was "
                        "changed: restore the file or choose another --out"
                    )
                line = json.loads(raw)
                del line["crc32"]
                self.lines[line["key"]] = line
                whole += len(raw)
        return whole
