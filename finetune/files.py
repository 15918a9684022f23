"""Writers of a training run's files, whose results are whole or absent. Strict readers are in ``engine/files.py``."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from warmeng.engine import files
from warmeng.engine.errors import one_line


class LockedError(RuntimeError):
    """Another process writes the run folder."""

    exit_code = 73


class StorageError(RuntimeError):
    """The disk is full or can't be written; what was finished before is intact."""

    exit_code = 74


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn the system's errors of writing ``path`` into a StorageError of one line."""
    try:
        yield
    except OSError as error:
        why = error.strerror or one_line(error, 120)
        raise StorageError(
            f"can't write {path} ({why}): free space or choose another folder; what was finished before is intact"
        ) from None


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that whoever reads it, whenever, sees the old content or all of the new. Raises StorageError."""
    with storage(path):
        files.write_atomic(path, data)


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make ``folder`` with what ``fill`` writes into the path that it is given: the whole of it, or nothing.

    A folder that is there is replaced. Raises StorageError.
    """
    with storage(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            fill(beside)
            for path in beside.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            if folder.exists():
                os.replace(folder, old)
            os.replace(beside, folder)
            files.sync_folder(folder.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; LockedError where another process has it."""
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LockedError(f"{folder} is in use by another process: wait for it or choose another folder") from None
        yield
    finally:
        os.close(handle)
