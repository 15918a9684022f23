"""Says on stderr how far a preparation is: one line redrawn on a terminal, one every few seconds elsewhere."""

from __future__ import annotations

import time
from typing import Any

INTERVAL = 5.0  # seconds between lines where nothing can be redrawn


class Progress:
    """Counts the units of one stage after another."""

    def __init__(self, console: Any) -> None:
        self.console = console
        self._bar: Any = None
        self._task: Any = None
        self._last = 0.0

    def message(self, text: str) -> None:
        """Say one line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, stage: str, total: int, done: int) -> None:
        """Begin a stage of so many units, some of which are done."""
        self.stage, self.total, self.done, self.note = stage, total, done, ""
        self._first, self._began, self._last = done, time.monotonic(), time.monotonic()
        if self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bars

            text = TextColumn("{task.description}", markup=False)
            self._bar = Bars(text, BarColumn(), MofNCompleteColumn(), console=self.console, refresh_per_second=4)
            self._task = self._bar.add_task(stage, total=total, completed=done)
            self._bar.start()

    def advance(self, note: str = "", count: int = 1) -> None:
        """Count units; ``note`` is shown behind the stage's name."""
        self.done, self.note = self.done + count, note or self.note
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, total=self.total, description=self._line())
        elif time.monotonic() - self._last >= INTERVAL:
            self._last = time.monotonic()
            self.message(f"{self._line()} {self.done} of {self.total}{self._left()}")

    def stop(self) -> None:
        """End the stage; without a terminal its last count is printed."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self.done > self._first:
            self.message(f"{self._line()} {self.done} of {self.total}")

    def _line(self) -> str:
        return f"{self.stage}: {self.note}," if self.note else f"{self.stage}:"

    def _left(self) -> str:
        seconds = time.monotonic() - self._began
        done = self.done - self._first
        return f", about {round(seconds * (self.total - self.done) / done)} s left" if done else ""


def for_stderr() -> Progress:
    """Return the display for stderr."""
    from rich.console import Console

    return Progress(Console(stderr=True))
