"""Ends a process whose engine no longer moves, with the stacks of all its threads, so that the work can be continued.

What moves is told by the engine's own counters: a step that is slow, a model that loads and a disk that is read for
long are no stalls. Nothing is closed at the end, because what hangs may hold what closing needs: records reach the
disk within a second of their writing, so all of them are there by then. Not seen is native code that hangs and keeps
the interpreter's lock, since nobody can look then.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from warmeng.common.errors import one_line

# EX_TEMPFAIL of sysexits.h: the same again may succeed.
EXIT_CODE = 75
# In the run's folder: what the last stall looked like.
FILE = "stalled.txt"
SECONDS = 300
TICK = 1.0  # seconds between looks
# Seconds that each part of the report may take: the disk or the terminal may be what hangs.
LAST_WORDS = 5.0


class Watchdog:
    """Looks whether something moves, while ``watch`` says that it should."""

    def __init__(self, seconds: float, folder: Path, resume: str, quiet: Callable[[], None] = lambda: None) -> None:
        """``seconds`` without a move are a stall, 0 for never. ``resume`` is the command that continues.

        ``quiet`` ends the display, so that the report can be read.
        """
        self.seconds, self.folder, self.resume, self.quiet = seconds, folder, resume, quiet

    @contextmanager
    def watch(self, pulse: Callable[[], object]) -> Iterator[None]:
        """Expect ``pulse`` to give another value at least every ``seconds`` as long as this lasts."""
        if not self.seconds:
            yield
            return
        done = threading.Event()
        thread = threading.Thread(target=self._look, args=(pulse, done), name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _look(self, pulse: Callable[[], object], done: threading.Event) -> None:
        tick = min(TICK, self.seconds / 10)
        last, idle, looked = pulse(), 0.0, time.monotonic()
        while not done.wait(tick):
            now = time.monotonic()
            # A process that was stopped for a while, and goes on, hasn't hung.
            idle += min(now - looked, 2 * tick)
            looked = now
            if (current := pulse()) != last:
                last, idle = current, 0.0
            elif idle >= self.seconds:
                self._end()

    def _end(self) -> None:
        headline = (
            f"warmeng: no step for {self.seconds:g} s: something hangs; what every thread does is in "
            f"{one_line(self.folder / FILE)} and below; all records are kept, continue with: "
            f"{one_line(self.resume, 4000)} (where steps do take that long, with another --stall-seconds)\n"
        )
        report = (headline + stacks()).encode("utf-8", "replace")
        for part in (self.quiet, lambda: _write(2, report), lambda: _save(self.folder / FILE, report)):
            thread = threading.Thread(target=part, daemon=True)
            thread.start()
            thread.join(LAST_WORDS)
        os._exit(EXIT_CODE)


class Watched:
    """An engine whose work a watchdog sees; everything else of it is as it was."""

    def __init__(self, engine: Any, watchdog: Watchdog) -> None:
        self._engine, self._watchdog, self._answers = engine, watchdog, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def _pulse(self) -> tuple[int, int]:
        return self._engine.stats.steps, self._answers

    def results(self, interrupted: Collection[object] = ()) -> Generator[Any, None, None]:
        """Yield the engine's results. Time that their reader takes counts too: a disk may hang as well."""
        with self._watchdog.watch(self._pulse):
            for result in self._engine.results(interrupted):
                self._answers += 1
                yield result

    def score(self, requests: Iterable[Any]) -> list[Any]:
        """Answer score requests, in their order."""
        with self._watchdog.watch(self._pulse):
            return list(self._engine.score(requests))

    def probe_adapter(self, name: str) -> float:
        """Return the largest absolute change of the logits on a fixed probe."""
        with self._watchdog.watch(self._pulse):
            return float(self._engine.probe_adapter(name))


def stacks() -> str:
    """Return what every thread of this process does, the main one first, without the values of variables."""
    frames = sys._current_frames()
    threads = sorted(threading.enumerate(), key=lambda thread: thread is not threading.main_thread())
    parts = []
    for thread in threads:
        if thread.ident in frames and thread is not threading.current_thread():
            stack = "".join(traceback.format_stack(frames[thread.ident]))
            parts.append(f"\nthread {thread.name}, most recent call last:\n{stack}")
    return "".join(parts)


def _write(handle: int, text: bytes) -> None:
    view = memoryview(text)
    while view:
        view = view[os.write(handle, view) :]


def _save(path: Path, text: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    _write(handle, text)
    os.fsync(handle)
