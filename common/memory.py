"""How much memory this process may use: of the machine, and of the containers that it is in; and giving it back."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")


def memory_limit(root: Path = ROOT) -> int | None:
    """Return the bytes that this process and those beside it in its container may use; ``None`` where none tells.

    The least of the machine's memory and the limits of its control groups, of either version, and of those around
    them. ``root``: where /proc and /sys are.
    """
    found = [*_machine(root), *_groups(root)]
    return min(found) if found else None


def _machine(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        name, _, rest = line.partition(":")
        if name == "MemTotal" and rest.split()[:1]:
            yield int(rest.split()[0]) * 1024


def _groups(root: Path) -> Iterator[int]:
    """Yield the limits of this process's control groups: ``N:CONTROLLERS:PATH`` each, without controllers version 2."""
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        own = top / path.lstrip("/")
        # In a container the path may be that of the machine outside, and the group is the top.
        for folder in (own, *own.parents):
            for text in _lines(folder / name):
                if text.strip().isdigit():
                    yield int(text)
            if folder == top:
                break


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def give_back() -> None:
    """Give freed memory back to the system where the C library keeps it for later (glibc); elsewhere do nothing."""
    # With another C library there is no such call, or none that can be asked.
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
