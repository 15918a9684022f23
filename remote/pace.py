"""How many requests are under way, and how long is waited: additive increase, multiplicative decrease, hints first."""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

START = 4.0  # requests under way at first
DECREASE = 0.5
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Patience:
    """How often one request is tried, and how long is waited, in seconds.

    ``timeout``: an attempt, its answer's last byte included. ``first``: the wait after the first failure without a
    hint, which doubles up to ``longest``. ``most``: a server that asks to wait longer ends the work.
    """

    attempts: int = 8
    timeout: float = 120.0
    first: float = 0.5
    longest: float = 60.0
    most: float = 600.0

    def wait(self, failures: int) -> float:
        """Return the wait after so many failures: between half and all of it, so that requests don't come at once."""
        whole = min(self.longest, self.first * 2.0 ** min(failures - 1, 60))
        return whole * random.uniform(0.5, 1.0)


def hint(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return the seconds that a server asks to wait, ``None`` where it does not say.

    ``retry-after-ms``, then ``retry-after`` in seconds or as a date; else the longest ``x-ratelimit-reset-*`` whose
    ``x-ratelimit-remaining-*`` is none. ``now``: the time of day, for dates.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if (seconds := _number(headers.get(name, ""))) is not None:
            return seconds * unit
    if text := headers.get("retry-after"):
        date = email.utils.parsedate_tz(text)
        if date is not None:
            return max(0.0, email.utils.mktime_tz(date) - (time.time() if now is None else now))
    waits = []
    for what in ("requests", "tokens"):
        wait = _duration(headers.get(f"x-ratelimit-reset-{what}", ""))
        # Without a count, it is not known which of the two was reached.
        left = _number(headers.get(f"x-ratelimit-remaining-{what}", ""))
        if wait is not None and (left is None or left < 1):
            waits.append(wait)
    return max(waits, default=None)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _duration(text: str) -> float | None:
    """Return the seconds of ``6m0s``, ``120ms`` or ``1.5``."""
    if (plain := _number(text)) is not None:
        return plain
    parts = _PART.findall(text)
    if not parts or "".join(value + unit for value, unit in parts) != text:
        return None
    return sum(float(value) * _UNITS[unit] for value, unit in parts)


class Limiter:
    """Lets a number of requests under way at once, which follows what the server takes.

    Each answer while a request waits for a place raises the limit by 1 / limit, so by 1 a round; one that is overloaded
    halves it, once for all requests that were under way then. A hint holds everything back until it is over.
    """

    def __init__(self, most: int) -> None:
        """``most``: requests at once, whatever the server takes."""
        self.most = most
        self.limit = min(START, float(most))
        self.active = 0
        self._waiting = 0
        self._until = 0.0
        # Requests that began before this have told what the last decrease answered.
        self._decreased = -math.inf
        self._changed = asyncio.Event()

    async def enter(self) -> float:
        """Wait for a place, and return when the request begins, for ``busy``."""
        while True:
            if self.active >= max(1, int(self.limit)):
                self._waiting += 1
                self._changed.clear()
                try:
                    await self._changed.wait()
                finally:
                    self._waiting -= 1
            elif (left := self._until - time.monotonic()) > 0:
                await asyncio.sleep(left)
            else:
                self.active += 1
                return time.monotonic()

    def leave(self) -> None:
        """Give a place back."""
        self.active -= 1
        self._changed.set()

    def answered(self) -> None:
        """An answer came: the server takes what is under way, and more if more waits."""
        if self._waiting:
            self.limit = min(float(self.most), self.limit + 1.0 / self.limit)

    def busy(self, began: float, wait: float | None) -> None:
        """The server takes no more for now: a request that ``began`` then was turned away."""
        if began > self._decreased:
            self.limit = max(1.0, self.limit * DECREASE)
            self._decreased = time.monotonic()
        if wait is not None:
            self._until = max(self._until, time.monotonic() + wait)
