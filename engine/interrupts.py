"""Interrupts that let long work end in order: the first is noted, a second one stops at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Yield a list that the first SIGINT or SIGTERM fills: what is finished is kept. A second one stops at once."""
    seen: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    try:
        old: dict[int, Callable[[int, FrameType | None], Any] | int | signal.Handlers | None] = {
            number: signal.signal(number, handler) for number in SIGNALS
        }
    except ValueError:  # not the main thread: nobody can interrupt us there
        yield seen
        return
    try:
        yield seen
    finally:
        for number, former in old.items():
            signal.signal(number, former)
