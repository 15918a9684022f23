"""Faults inside one process, at the calls through which it changes a folder.

``install`` puts wrappers around ``os`` functions and the files that ``open`` gives. Every call that changes something
under ``root`` is an event: it is numbered, may be logged with its bytes, and may be where the process is killed or
gets an error. Writes of buffered files count when they reach the system, as they do for the kernel.
"""

from __future__ import annotations

import builtins
import io
import os
import pickle
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WRITES = ("write", "pwrite")


@dataclass
class Plan:
    """What happens to one process. ``at`` numbers the events that match ``kinds`` and ``names``, from 0."""

    root: str
    kinds: tuple[str, ...] = ()  # write, pwrite, fsync, replace, truncate, unlink, mkdir, rmdir; all of them if empty
    names: tuple[str, ...] = ()  # beginnings of file names; all if empty
    at: int | None = None  # the event where it happens; from it on for errors that last
    kill: str = ""  # before, middle (half of a write's bytes are there) or after
    error: int = 0  # errno
    lasting: bool = False  # whether later events that match fail too
    log: str = ""  # file of pickled events
    acks: str = ""  # file of the keys whose ``append`` returned
    count: int = 0  # events that matched so far
    _guard: Any = field(default_factory=threading.RLock)


class Injector:
    """Carries a plan out."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.real = {name: getattr(os, name) for name in ("write", "pwrite", "fsync", "replace", "rename", "ftruncate",
                                                          "unlink", "remove", "mkdir", "rmdir")}  # fmt: skip
        self.open = builtins.open
        self.root = os.path.realpath(plan.root)
        self.log = os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if plan.log else -1

    def path_of(self, target: Any, dir_fd: int | None = None) -> str:
        """Return the real path of a handle or name."""
        try:
            if isinstance(target, int):
                return os.readlink(f"/proc/self/fd/{target}")
            folder = os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else os.getcwd()
        except OSError:
            return ""
        path = os.path.join(folder, os.fspath(target))
        return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))

    def inside(self, path: str) -> bool:
        """Whether a path is the root or below."""
        return path == self.root or path.startswith(self.root + "/")

    def tell(self, *event: Any) -> None:
        """Log an event."""
        if self.log >= 0:
            self.real["write"](self.log, pickle.dumps((time.monotonic(), *event)))

    def call(self, kind: str, path: str, real: Any, data: Any = None, more: Any = None) -> Any:
        """Make one call that changes ``path``, with what the plan has for it.

        ``real`` takes the bytes where there are some; ``more`` is logged (a size, a second path).
        """
        plan = self.plan
        if not self.inside(path):
            return real(data) if data is not None else real()
        with plan._guard:
            name = os.path.basename(path)
            matches = (not plan.kinds or kind in plan.kinds) and (not plan.names or name.startswith(plan.names))
            now = plan.count
            plan.count += matches
            hit = matches and plan.at is not None and (now == plan.at or (plan.lasting and now > plan.at))
            if hit and plan.error:
                if data is not None and len(data) > 1 and now == plan.at:
                    written = real(bytes(data[: len(data) // 2]))  # a disk that fills up takes a part first
                    self.tell(kind, path, bytes(data[:written]), more)
                    return written
                self.tell("error", path, None, kind)
                raise OSError(plan.error, os.strerror(plan.error), path)
            if hit and plan.kill == "before":
                self.die()
            if hit and plan.kill == "middle" and data is not None:
                real(bytes(data[: max(1, len(data) // 2)]))
                self.die()
            held = bytes(data) if data is not None else None
            try:
                result = real(data) if data is not None else real()
            except OSError:
                self.tell("failed", path, None, kind)  # of its own accord, as an unlink of what is not there
                if hit and plan.kill:
                    self.die()
                raise
            self.tell(kind, path, held[:result] if held is not None else None, more)
            if hit and plan.kill:
                self.die()
            return result

    def die(self) -> None:
        """End the process as ``kill -9`` does."""
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    def install(self) -> None:
        """Put the wrappers in place."""
        real = self.real

        def write(fd: int, data: Any) -> int:
            return self.call("write", self.path_of(fd), lambda d: real["write"](fd, d), memoryview(data).cast("B"))

        def pwrite(fd: int, data: Any, offset: int) -> int:
            raw = memoryview(data).cast("B")
            return self.call("pwrite", self.path_of(fd), lambda d: real["pwrite"](fd, d, offset), raw, offset)

        def fsync(fd: Any) -> None:
            fd = fd if isinstance(fd, int) else fd.fileno()
            self.call("fsync", self.path_of(fd), lambda: real["fsync"](fd))

        def ftruncate(fd: int, size: int) -> None:
            self.call("truncate", self.path_of(fd), lambda: real["ftruncate"](fd, size), None, size)

        def replace(source: Any, target: Any, **more: Any) -> None:
            path = self.path_of(target)
            self.call("replace", path, lambda: real["replace"](source, target, **more), None, self.path_of(source))

        def path_call(kind: str, name: str) -> Any:
            def made(path: Any, *args: Any, dir_fd: int | None = None, **more: Any) -> None:
                call = lambda: real[name](path, *args, dir_fd=dir_fd, **more)  # noqa: E731
                self.call(kind, self.path_of(path, dir_fd), call)

            return made

        os.write, os.pwrite, os.fsync, os.ftruncate = write, pwrite, fsync, ftruncate  # type: ignore[assignment]
        os.replace = os.rename = replace  # type: ignore[assignment]
        os.unlink = path_call("unlink", "unlink")
        os.remove = path_call("unlink", "remove")
        os.mkdir = path_call("mkdir", "mkdir")
        os.rmdir = path_call("rmdir", "rmdir")
        builtins.open = io.open = self.opened  # type: ignore[assignment]

    def opened(self, file: Any, mode: str = "r", buffering: int = -1, *args: Any, **more: Any) -> Any:
        """``open``, where writes of files under the root are events."""
        if isinstance(file, int) or not set(mode) & set("wax+") or not self.inside(self.path_of(file)):
            return self.open(file, mode, buffering, *args, **more)
        names = ("encoding", "errors", "newline")
        text = dict(zip(names, args, strict=False)) | {k: more[k] for k in names if k in more}
        before = os.path.exists(file)
        raw = _Raw(self, os.fspath(file), mode.replace("b", "").replace("t", ""))
        if not before or "w" in mode:
            self.tell("create", self.path_of(file), b"", None)
        buffer: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, **text)


class _Raw(io.FileIO):
    """A file whose writes go through the injector."""

    def __init__(self, injector: Injector, path: str, mode: str) -> None:
        super().__init__(path, mode)
        self.injector = injector

    def write(self, data: Any) -> int:  # type: ignore[override]
        at = self.tell() if "a" not in self.mode else None
        path = self.injector.path_of(self.fileno())
        return self.injector.call("write", path, super().write, memoryview(data).cast("B"), at)


def install(plan: Plan) -> None:
    """Begin: events are counted from now on."""
    injector = Injector(plan)
    injector.install()
    if plan.acks:
        from warmeng.common.journal import Journal

        handle = os.open(plan.acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        append = Journal.append

        def acknowledged(self: Journal, record: Any) -> None:
            append(self, record)
            injector.real["write"](handle, f"{record['key']}\n".encode())
            injector.tell("ack", str(self.path), record["key"].encode(), None)

        Journal.append = acknowledged  # type: ignore[method-assign]


def read_log(path: Path) -> list[tuple[Any, ...]]:
    """Return the events of a log: (seconds, kind, path, bytes or ``None``, more)."""
    events = []
    with path.open("rb") as file:
        while True:
            try:
                events.append(pickle.load(file))
            except EOFError:
                return events
