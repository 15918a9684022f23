"""How long work tells where it is: bars on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from warmeng.common.log import LOGGER, is_quiet
from warmeng.common.messages import duration
from warmeng.common.terminal import console

INTERVAL = 5.0  # seconds between plain lines
# Seconds that something may take before it is shown at all.
PATIENCE = 1.0
# Share of the work, and seconds, before which the time that is left can't be told.
EARLY, LONG = 0.05, 60.0
T = TypeVar("T")


class Progress(Protocol):
    """What work reports."""

    def message(self, text: str) -> None:
        """Say one line."""

    def start(self, planned: Mapping[str, int], done: Mapping[str, int], status: Callable[[], str]) -> None:
        """Begin a part: how many units are planned by name, how many are done, and what to say of all of them.

        ``status`` is asked whenever something is shown, on whatever thread; it follows the numbers in a line:
        ``answers, 50 tokens/s``.
        """

    def advance(self, name: str) -> None:
        """One unit is done."""

    def stop(self) -> None:
        """End the part, if one has begun."""


class Silent:
    """Reports nothing."""

    def message(self, text: str) -> None:
        """Leave it to the log."""
        LOGGER.info(text)

    def start(self, planned: Mapping[str, int], done: Mapping[str, int], status: Callable[[], str]) -> None:
        """Drop it."""

    def advance(self, name: str) -> None:
        """Drop it."""

    def stop(self) -> None:
        """Drop it."""


class Plain:
    """Lines on a stream that is not a terminal."""

    def __init__(self, console: Any) -> None:
        self.console = console
        self._done = self._total = 0
        self._status: Callable[[], str] | None = None
        self._told, self._last = 0, 0.0

    def message(self, text: str) -> None:
        """Print a line."""
        LOGGER.info(text)
        _print(self.console, text)

    def start(self, planned: Mapping[str, int], done: Mapping[str, int], status: Callable[[], str]) -> None:
        """Begin counting."""
        self._total, self._done = sum(planned.values()), sum(done.get(name, 0) for name in planned)
        self._status, self._told, self._last = status, self._done, time.monotonic()

    def advance(self, name: str) -> None:
        """Count, and print a line when the last one is old."""
        self._done += 1
        if time.monotonic() - self._last >= INTERVAL:
            self._tell()

    def stop(self) -> None:
        """Print a last line, where the last one printed is not of now."""
        if self._done != self._told:
            self._tell()
        self._status = None

    def _tell(self) -> None:
        if self._status is not None:
            self._told, self._last = self._done, time.monotonic()
            self.message(f"{self._done} of {self._total} {self._status()}")


class Live:
    """One bar for each name, one of all where there are several, and the status, redrawn in place."""

    def __init__(self, console: Any) -> None:
        self.console = console
        self._bars: Any = None

    def message(self, text: str) -> None:
        """Print a line above the bars."""
        LOGGER.info(text)
        _print(self.console, text)

    def start(self, planned: Mapping[str, int], done: Mapping[str, int], status: Callable[[], str]) -> None:
        """Draw the bars."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bars
        from rich.text import Text

        class WithStatus(Bars):
            """Bars above a line of text."""

            def get_renderables(self) -> Iterable[Any]:
                """Yield the bars and the status of now."""
                yield from super().get_renderables()
                yield Text(status())

        name = TextColumn("{task.description}", markup=False)
        self._bars = WithStatus(name, BarColumn(), MofNCompleteColumn(), console=self.console, refresh_per_second=4)
        there = {name: done.get(name, 0) for name in planned}
        self._tasks = {p: self._bars.add_task(p, total=n, completed=there[p]) for p, n in planned.items()}
        self._all = None
        if len(planned) > 1:
            self._all = self._bars.add_task("all", total=sum(planned.values()), completed=sum(there.values()))
        self._bars.start()

    def advance(self, name: str) -> None:
        """Move the bars."""
        self._bars.advance(self._tasks[name])
        if self._all is not None:
            self._bars.advance(self._all)

    def stop(self) -> None:
        """Leave the bars as they are."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


class Pace:
    """The time that a part takes since it began, and the time that its rest will take at the same speed."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since it began, more than 0."""
        return max(time.monotonic() - self._began, 1e-9)

    def left(self, done: float, total: float) -> str:
        """Return ``, 20 s left`` for what is done of a total, counted from the beginning; nothing at either end.

        What comes first of a batch comes late: nothing is said of the first ``EARLY`` unless ``LONG`` seconds passed.
        """
        if not 0 < done < total or (done < EARLY * total and self.seconds < LONG):
            return ""
        return f", {duration(self.seconds * (total - done) / done)} left"


def counted(items: Iterable[T], total: int, what: str, progress: Progress) -> Iterator[T]:
    """Yield the items, and show how many of so many there were where it takes longer than ``PATIENCE``."""
    pace, shown, done = Pace(), False, 0

    def status() -> str:
        return f"{what}{pace.left(done, total)}"

    try:
        for item in items:
            yield item
            done += 1
            if shown:
                progress.advance(what)
            elif pace.seconds > PATIENCE:
                progress.start({what: total}, {what: done}, status)
                shown = True
    finally:
        if shown:
            progress.stop()


def _print(console: Any, text: str) -> None:
    """Print a line. A log that is full, or that nobody reads any more, falls silent: it ends no run."""
    try:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    except OSError:
        console.quiet = True
        if console.stderr:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (or what is left in it fails again at the end)


def for_stderr() -> Progress:
    """Return the display that suits stderr: none where the logger ``warmeng`` takes no messages."""
    if is_quiet():
        return Silent()
    shown: Any = console(stderr=True)
    shown.on_broken_pipe = lambda: setattr(shown, "quiet", True)  # a log that nobody reads ends no run
    return Live(shown) if shown.is_terminal else Plain(shown)
