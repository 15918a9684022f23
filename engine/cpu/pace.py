"""One thread instead of all where other processes have the cores.

PyTorch's threads wait for one another in a busy loop. Where another process computes too, one of them is often not
running while the others wait for it, and a step takes ten times as long and more. A single thread waits for nobody. So
while the threads get clearly less than their share of the cores, steps run on one of them. Bits do not change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# Seconds of computing after which shares are looked at.
_WINDOW = 0.4
# Of the threads' time, what they must have had: waiting in a loop counts as having it.
_SHARE = 0.75
# Of the other threads' cores, what must have been idle before all threads are tried again.
_IDLE = 0.7
# Seconds on one thread before that, doubled each time that it fails.
_LEAST_WAIT, _MOST_WAIT = 4.0, 64.0


def idle_seconds() -> float | None:
    """Return the seconds that all cores together were idle since the machine started; None where it isn't told."""
    try:
        numbers = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        # Idle, and waiting for a device. Counted in hundredths of a second.
        return (int(numbers[3]) + int(numbers[4])) / 100
    except (OSError, ValueError, IndexError):
        return None


class Pace:
    """Chooses each step's number of threads: PyTorch's own, or one."""

    def __init__(
        self,
        wall: Callable[[], float] = time.perf_counter,
        processor: Callable[[], float] = time.process_time,
        idle: Callable[[], float | None] = idle_seconds,
    ) -> None:
        """``wall``, ``processor``: seconds that passed, and that this process's threads had; ``idle``: see there."""
        self.alone = False
        self._wall, self._processor, self._idle = wall, processor, idle
        self._passed = self._had = 0.0
        self._wait, self._until = _LEAST_WAIT, 0.0
        self._since: tuple[float, float | None] = (0.0, None)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Run a step on the threads that are chosen now."""
        threads = torch.get_num_threads()
        if threads == 1:
            yield
            return
        if self.alone and self._wall() >= self._until and self._others_are_idle(threads):
            self.alone = False
        if not self.alone:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure the part of a step that all threads compute."""
        threads = torch.get_num_threads()
        wall, processor = self._wall(), self._processor()
        yield
        if threads == 1:
            return
        self._passed += self._wall() - wall
        self._had += self._processor() - processor
        if self._passed < _WINDOW:
            return
        share = self._had / (self._passed * threads)
        self._passed = self._had = 0.0
        if share >= _SHARE:
            self._wait = _LEAST_WAIT
            return
        now = self._wall()
        self.alone, self._until, self._since = True, now + self._wait, (now, self._idle())
        self._wait = min(2 * self._wait, _MOST_WAIT)

    def _others_are_idle(self, threads: int) -> bool:
        """Tell whether the other threads' cores were idle since steps run on one."""
        began, idle_then = self._since
        idle_now = self._idle()
        if idle_then is None or idle_now is None:
            return True
        now = self._wall()
        free = (idle_now - idle_then) / max(now - began, 1e-9)
        self._since, self._until = (now, idle_now), now + self._wait
        return free >= _IDLE * (threads - 1)
