"""A disk that forgets what was not made durable, rebuilt from the log of a process's calls.

A file's bytes are durable from its fsync on, a name from the fsync of its folder on. Real disks keep more than that,
in any of several ways: ``WAYS``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WAYS = ("nothing", "names", "half", "zeros")  # what a disk keeps of that which was not made durable


@dataclass
class _File:
    live: bytes = b""
    durable: bytes = b""


@dataclass
class Disk:
    """The names and bytes that processes see, and those that survive."""

    root: str
    names: dict[str, _File | None] = field(default_factory=dict)  # ``None`` for a folder
    durable: dict[str, _File | None] = field(default_factory=dict)

    def apply(self, kind: str, path: str, data: bytes | None, more: Any) -> None:
        """Follow one event of ``injecting.read_log``."""
        if kind in ("ack", "failed") or not path.startswith(self.root):
            return
        if kind == "mkdir":
            self.names[path] = None
        elif kind in ("rmdir", "unlink"):
            self.names.pop(path, None)
        elif kind == "replace":
            self.names[path] = self.names.pop(more)
        elif kind == "fsync" and (path == self.root or self.names.get(path, self) is None):
            here = {name for name in {*self.names, *self.durable} if os.path.dirname(name) == path}
            for name in here:
                if name in self.names:
                    self.durable[name] = self.names[name]
                else:
                    del self.durable[name]
        else:
            file = self.names.setdefault(path, _File())
            assert file is not None, f"{path} is a folder"
            if kind == "fsync":
                file.durable = file.live
            elif kind == "create":
                file.live = b""
            elif kind == "truncate":
                file.live = file.live[:more]
            else:
                assert data is not None
                at = len(file.live) if more is None else more
                file.live = file.live[:at] + data + file.live[at + len(data) :]

    def leave(self, target: Path, way: str) -> None:
        """Make a folder as it is found after a power loss."""
        names = self.durable if way == "nothing" else self.names
        for name, file in sorted(names.items()):
            parent = os.path.dirname(name)
            if parent != self.root and parent not in names:
                continue  # its folder is not there
            path = target / os.path.relpath(name, self.root)
            if file is None:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            content, more = file.durable, file.live[len(file.durable) :]
            if file.live.startswith(file.durable):
                content += {"half": more[: len(more) // 2], "zeros": bytes(len(more))}.get(way, b"")
            path.write_bytes(content)


@dataclass(frozen=True)
class Exposed:
    """What a power loss at the worst moment would have taken of the records that were written."""

    records: int
    seconds: float


def exposed(events: Iterable[tuple[Any, ...]], records: str) -> Exposed:
    """Return the most written records, and the greatest age of one, that were not durable at any moment."""
    most, oldest = 0, 0.0
    waiting: list[float] = []  # when each was written
    for at, kind, path, *_ in events:
        if waiting:
            oldest = max(oldest, at - waiting[0])
        if path.endswith(records) and kind == "write":
            waiting.append(at)
            most = max(most, len(waiting))
        elif path.endswith(records) and kind == "fsync":
            waiting.clear()
    return Exposed(most, oldest)
