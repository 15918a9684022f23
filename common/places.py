"""Where files are written: only onto regular files or nothing, under names that no data and nobody else chose."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from pathlib import Path

from warmeng.common.errors import InputError, one_line

# What a name from somebody else's file must not bring into a file's name.
_FOREIGN = re.compile(r"[^\w.+=@ -]+")
MOST_NAME = 100  # bytes of such a name


def beside_of(path: Path, ending: str = "tmp") -> Path:
    """Return a name for what is written before it takes the place of ``path``; ``sweep`` knows it by this form."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.{ending}")


def require_replaceable(path: Path) -> None:
    """Raise ``InputError`` where a file of this name would replace anything but a regular file."""
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError):
        return  # whoever writes hears what the system says
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe"}
        kind = kinds.get(stat.S_IFMT(mode), "a device or socket")
        raise InputError(
            f"{one_line(path)}: is {kind}, expected a regular file or nothing there: remove it, or choose another name"
        )


def open_own(path: Path, flags: int) -> int:
    """Open a file of ours in a folder, made if need be, and return its handle: a regular file, never a link's target.

    Raises ``InputError`` for anything else of that name, which is neither read nor changed, and ``OSError``.
    """
    try:
        # Not blocking: somebody's pipe would wait for its other end.
        handle = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError:
        require_replaceable(path)
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{one_line(path)}: is no regular file: remove it")
    return handle


def file_name(text: str) -> str:
    """Return a name as a part of a file's name: data never leads into another folder, nor onto another name's file.

    Names that a run gives stay as they are. Any other gets a hash of the whole behind what is left of it.
    """
    kept = _FOREIGN.sub("-", text).lstrip(". ")
    if kept == text and 0 < len(text.encode()) <= MOST_NAME:
        return text
    shortened = kept.encode()[: MOST_NAME - 20].decode("utf-8", "ignore")
    return f"{shortened or 'name'}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
