"""How a run tells where it is: a live display on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

from warmeng.common.messages import duration

INTERVAL = 5.0  # seconds between plain lines
JUDGE = "judge "  # before a judge's name, where bars are named


class Progress(Protocol):
    """What a run reports."""

    def message(self, text: str) -> None:
        """Say one line."""

    def start(self, planned: Mapping[str, int], done: Mapping[str, int], work: float) -> None:
        """Begin: requests per persona (or judge), how many are done, and the work left in any unit."""

    def advance(self, persona: str, work: float, output_tokens: int, prompt_tokens: int) -> None:
        """One request is done; tokens are running totals of this session."""

    def stop(self) -> None:
        """End the display."""


class Silent:
    """Reports nothing."""

    def message(self, text: str) -> None:
        """Drop it."""

    def start(self, planned: Mapping[str, int], done: Mapping[str, int], work: float) -> None:
        """Drop it."""

    def advance(self, persona: str, work: float, output_tokens: int, prompt_tokens: int) -> None:
        """Drop it."""

    def stop(self) -> None:
        """Drop it."""


class Meter:
    """Counts done requests and estimates the time left from the share of work done."""

    def __init__(self, planned: Mapping[str, int], done: Mapping[str, int], work: float) -> None:
        self.planned = dict(planned)
        self.done = {name: done.get(name, 0) for name in planned}
        self.work, self.worked = work, 0.0
        self.output_tokens = self.prompt_tokens = 0
        self.began = time.monotonic()

    def advance(self, persona: str, work: float, output_tokens: int, prompt_tokens: int) -> None:
        """Count one request."""
        self.done[persona] += 1
        self.worked += work
        self.output_tokens, self.prompt_tokens = output_tokens, prompt_tokens

    def line(self) -> str:
        """Return total, speed and time left as one line."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        left = f", {duration(seconds * (self.work - self.worked) / self.worked)} left" if self.worked else ""
        judges = sum(name.startswith(JUDGE) for name in self.planned)
        what = "answers" if not judges else "judgments" if judges == len(self.planned) else "answers and judgments"
        return (
            f"{sum(self.done.values())} of {sum(self.planned.values())} {what}, "
            f"{self.output_tokens / seconds:.0f} output and {self.prompt_tokens / seconds:.0f} prompt tokens/s{left}"
        )


class Plain:
    """Lines on a stream that is not a terminal."""

    def __init__(self, console: Any) -> None:
        self.console = console
        self.meter: Meter | None = None
        self.last = 0.0

    def message(self, text: str) -> None:
        """Print a line."""
        _print(self.console, text)

    def start(self, planned: Mapping[str, int], done: Mapping[str, int], work: float) -> None:
        """Begin counting."""
        self.meter, self.last = Meter(planned, done, work), time.monotonic()

    def advance(self, persona: str, work: float, output_tokens: int, prompt_tokens: int) -> None:
        """Count, and print a line when the last one is old."""
        assert self.meter is not None
        self.meter.advance(persona, work, output_tokens, prompt_tokens)
        if time.monotonic() - self.last >= INTERVAL:
            self.last = time.monotonic()
            self.message(self.meter.line())

    def stop(self) -> None:
        """Print a last line."""
        if self.meter is not None:
            self.message(self.meter.line())
            self.meter = None


class Live:
    """One bar for each persona and a line of totals, redrawn in place."""

    def __init__(self, console: Any) -> None:
        self.console = console
        self.meter: Meter | None = None
        self.bars: Any = None

    def message(self, text: str) -> None:
        """Print a line above the bars."""
        _print(self.console, text)

    def start(self, planned: Mapping[str, int], done: Mapping[str, int], work: float) -> None:
        """Draw the bars."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bars

        name = TextColumn("{task.description}", markup=False)
        self.bars = Bars(name, BarColumn(), MofNCompleteColumn(), console=self.console, refresh_per_second=4)
        self.meter = Meter(planned, done, work)
        self.tasks = {p: self.bars.add_task(p, total=n, completed=self.meter.done[p]) for p, n in planned.items()}
        self.total = self.bars.add_task(
            "starting", total=sum(planned.values()), completed=sum(self.meter.done.values())
        )
        self.bars.start()

    def advance(self, persona: str, work: float, output_tokens: int, prompt_tokens: int) -> None:
        """Move the bars."""
        assert self.meter is not None
        self.meter.advance(persona, work, output_tokens, prompt_tokens)
        self.bars.update(self.tasks[persona], advance=1)
        self.bars.update(self.total, advance=1, description=self.meter.line().partition(", ")[2])

    def stop(self) -> None:
        """Leave the bars as they are."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None


def _print(console: Any, text: str) -> None:
    """Print a line. A log that is full, or that nobody reads any more, falls silent: it ends no run."""
    try:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    except OSError:
        console.quiet = True
        if console.stderr:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (or what is left in it fails again at the end)


def for_stderr() -> Progress:
    """Return the display that suits stderr."""
    from rich.console import Console

    console: Any = Console(stderr=True)
    console.on_broken_pipe = lambda: setattr(console, "quiet", True)  # its own ends the process
    return Live(console) if console.is_terminal else Plain(console)
