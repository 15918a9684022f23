"""How a training run tells where it is: a live display on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from warmeng.common.messages import duration

INTERVAL = 10.0  # seconds between plain lines
Record = dict[str, Any]


class Progress(Protocol):
    """What a run reports."""

    def message(self, text: str) -> None:
        """Say one line."""

    def start(self, steps: int, done: int) -> None:
        """Begin: steps of the whole run, and those done before."""

    def step(self, record: Record) -> None:
        """One step is done; the record is its line of the log."""

    def stop(self) -> None:
        """End the display."""


class Silent:
    """Reports nothing."""

    def message(self, text: str) -> None:
        """Drop it."""

    def start(self, steps: int, done: int) -> None:
        """Drop it."""

    def step(self, record: Record) -> None:
        """Drop it."""

    def stop(self) -> None:
        """Drop it."""


class Plain:
    """Lines on stderr."""

    def __init__(self) -> None:
        self._last = 0.0
        self._meter = _Meter(0, 0)

    def message(self, text: str) -> None:
        """Print it."""
        print(text, file=sys.stderr, flush=True)

    def start(self, steps: int, done: int) -> None:
        """Remember the size."""
        self._meter = _Meter(steps, done)

    def step(self, record: Record) -> None:
        """Print a line where the last one is some seconds old."""
        self._meter.add(record)
        now = time.monotonic()
        if now - self._last >= INTERVAL or self._meter.done == self._meter.steps:
            self._last = now
            self.message(self._meter.line(record))

    def stop(self) -> None:
        """Nothing to end."""


class Live:
    """A bar and one line for each persona."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._console = Console(stderr=True)
        self._live = RichLive(console=self._console, refresh_per_second=4, transient=True)
        self._meter = _Meter(0, 0)

    def message(self, text: str) -> None:
        """Print it above the display."""
        self._console.print(text, highlight=False, markup=False)

    def start(self, steps: int, done: int) -> None:
        """Begin the display."""
        self._meter = _Meter(steps, done)
        self._live.start()

    def step(self, record: Record) -> None:
        """Draw the step."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        self._meter.add(record)
        table = Table("persona", "epoch", "loss", "gradient norm", "learning rate", box=None)
        for name, values in record["personas"].items():
            numbers = (f"{values['epoch']:.2f}", f"{values['loss']:.4f}", f"{values['grad_norm']:.3f}")
            table.add_row(name, *numbers, f"{values['learning_rate']:.2e}")
        bar = ProgressBar(total=self._meter.steps, completed=self._meter.done)
        self._live.update(Group(self._meter.head(record), bar, table))

    def stop(self) -> None:
        """End the display."""
        self._live.stop()


def for_stderr() -> Progress:
    """Return the live display where stderr is a terminal, lines elsewhere."""
    return Live() if sys.stderr.isatty() else Plain()


class _Meter:
    """Steps done, speed and the time left."""

    def __init__(self, steps: int, done: int) -> None:
        self.steps, self.done, self._before = steps, done, done
        self._tokens = 0
        self._began = time.monotonic()

    def add(self, record: Record) -> None:
        self.done = record["step"]
        self._tokens += record["tokens"]

    def head(self, record: Record) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        left = seconds / max(1, self.done - self._before) * (self.steps - self.done)
        return f"step {self.done} of {self.steps}, {self._tokens / seconds:.0f} tokens/s, {duration(left)} left"

    def line(self, record: Record) -> str:
        parts = [f"{name} loss {v['loss']:.4f}, norm {v['grad_norm']:.3f}" for name, v in record["personas"].items()]
        return f"{self.head(record)}; {'; '.join(parts)}"
