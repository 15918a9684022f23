"""Writers of a training run's files, whose results are whole or absent. Strict readers are in ``common/files.py``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from warmeng.common import files
from warmeng.common.errors import StorageError, one_line
from warmeng.common.places import beside_of

LOCK = ".lock"


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn the system's errors of writing ``path`` into a StorageError of one line."""
    try:
        yield
    except OSError as error:
        why = error.strerror or one_line(error, 120)
        raise StorageError(
            f"can't write {path} ({why}); what was finished before is intact: "
            "make room or choose another folder, then give the same command again"
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
        files.make_folder(folder.parent)
        beside, old = beside_of(folder), beside_of(folder, "old")
        try:
            beside.mkdir()
            fill(beside)
            for path in beside.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            files.sync_folder(beside)
            if folder.exists():
                os.replace(folder, old)
            os.replace(beside, folder)
            files.sync_folder(folder.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
