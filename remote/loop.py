"""Asynchronous work in the thread of whoever waits for it, which an interrupt ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

# Seconds between looks for an interrupt, and signs of life, while nothing arrives.
TICK = 0.5
T = TypeVar("T")


def run_until(
    loop: asyncio.AbstractEventLoop,
    work: Coroutine[Any, Any, T],
    interrupted: Sequence[int],
    pulse: Callable[[], None] = lambda: None,
) -> T | None:
    """Return what a coroutine gives, ``None`` where ``interrupted`` is filled first: then it is given up.

    ``pulse`` is called after each look. Raises what the coroutine does.
    """
    task = loop.create_task(work)
    try:
        while not task.done() and not interrupted:
            loop.run_until_complete(asyncio.wait({task}, timeout=TICK))
            pulse()
    finally:
        if not task.done():
            task.cancel()
            loop.run_until_complete(asyncio.wait({task}))
    return None if task.cancelled() else task.result()
