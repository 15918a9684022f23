"""One process at a time in a folder, by a lock that goes with its process however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType

from warmeng.common.errors import FolderLocked, StorageError, one_line
from warmeng.common.files import make_folder
from warmeng.common.places import open_own


class FolderLock:
    """Holds a folder from the moment it is made until ``release``, which leaves no file of it behind."""

    def __init__(self, folder: Path, name: str) -> None:
        """Make the folder if need be and lock it by the file ``name``.

        Raises ``FolderLocked``, which names the process that has it, ``InputError`` where the file is a link or no
        regular file, and ``StorageError``.
        """
        self._folder, self._path = folder, folder / name
        self._made: list[Path] = []
        try:
            self._handle = self._hold()
        except OSError as error:
            raise StorageError(
                f"{folder}: can't write there ({one_line(error.strerror or error)}): choose another --out, or make "
                "room (what was finished before is intact), then give the same command again"
            ) from None
        with contextlib.suppress(OSError):  # the number is only for others' messages
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, str(os.getpid()).encode(), 0)

    def _hold(self) -> int:
        while True:
            self._made = make_folder(self._folder) or self._made
            handle = open_own(self._path, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(handle), os.stat(self._path)):
                    return handle
            except BlockingIOError:
                pid = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(handle)
                raise FolderLocked(
                    f"{self._folder}: process {pid} is writing this run: wait for it, or choose another --out"
                ) from None
            except FileNotFoundError:
                # The former holder removed it between our two calls: what we locked is nobody's lock any more.
                pass
            except OSError:
                os.close(handle)
                raise
            os.close(handle)

    def release(self) -> None:
        """Let go of the folder; one that was made for the lock and is still empty goes too."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._handle)
        with contextlib.suppress(OSError):
            for made in self._made:
                made.rmdir()

    def __enter__(self) -> FolderLock:
        """Return itself: the lock is held since it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the folder."""
        self.release()
