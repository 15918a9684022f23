"""Cuts requests into shards: neighbours that share a prefix stay together, and the longest are dealt first."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from warmeng.engine.request import Request
from warmeng.engine.work import work

# Positions of the engine's prefix cache that are shared whole.
BLOCK = 16
# Requests of a shard; those whose prompts mostly agree may be so many times more.
MOST, TOGETHER = 32, 4
# Shards that each worker gets about, of all that waits, and requests that are cut at once.
PARTS, AT_ONCE = 8, 16384


@dataclass(frozen=True)
class Shard:
    """Requests for one worker. ``longest``: predicted seconds of the longest one."""

    requests: tuple[Request, ...]
    longest: float


def shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the tokens of the whole blocks with which both prompts begin, the last token of the second left out."""
    whole = min(len(first), len(second) - 1) // BLOCK
    for k in range(whole):
        if first[k * BLOCK : (k + 1) * BLOCK] != second[k * BLOCK : (k + 1) * BLOCK]:
            return k * BLOCK
    return whole * BLOCK


def cut(requests: Iterable[Request], workers: int) -> list[Shard]:
    """Return shards of about equal work, at least ``PARTS`` for each worker where there are so many requests.

    Requests of one adapter lie side by side by their prompts; a shard is not cut where two prompts agree in more than
    half of their tokens, unless it is ``TOGETHER`` times too large.
    """
    ordered = sorted(requests, key=lambda r: (r.adapter or "", r.prompt))
    costs: list[tuple[float, int]] = []
    before: Request | None = None
    for request in ordered:
        same = before is not None and before.adapter == request.adapter
        cached = shared(before.prompt, request.prompt) if before is not None and same else 0
        costs.append((work(request, cached), cached))
        before = request
    most = sum(cost for cost, _ in costs) / (PARTS * max(1, workers))
    found: list[Shard] = []
    mine: list[Request] = []
    total = longest = 0.0
    for request, (cost, cached) in zip(ordered, costs, strict=True):
        size = max(total / most if most else 0.0, len(mine) / MOST)
        if mine and (size >= TOGETHER or (size >= 1 and 2 * cached < len(request.prompt))):
            found.append(Shard(tuple(mine), longest))
            mine, total, longest = [], 0.0, 0.0
        mine.append(request)
        total, longest = total + cost, max(longest, cost)
    if mine:
        found.append(Shard(tuple(mine), longest))
    return found


class Queue:
    """Requests that wait: urgent ones first, then shards by their longest request."""

    def __init__(self) -> None:
        self._urgent: list[Request] = []
        self._new: list[Request] = []
        self._shards: list[tuple[float, int, Shard]] = []
        self._count = itertools.count()
        self._waiting = 0

    def __len__(self) -> int:
        """Requests that wait."""
        return self._waiting

    def add(self, request: Request, urgent: bool = False) -> None:
        """Let a request wait."""
        (self._urgent if urgent else self._new).append(request)
        self._waiting += 1

    def take(self, workers: int) -> Iterator[tuple[Request, bool]]:
        """Yield the next shard's requests, and whether each is urgent; nothing where none waits."""
        if self._urgent:
            taken = [(request, True) for request in self._urgent[:MOST]]
            del self._urgent[:MOST]
        else:
            # What came one by one is cut together, so that neighbours meet.
            if self._new and (not self._shards or len(self._new) >= len(self._shards) * MOST):
                for shard in cut(self._new[:AT_ONCE], workers):
                    heapq.heappush(self._shards, (-shard.longest, next(self._count), shard))
                del self._new[:AT_ONCE]
            if not self._shards:
                return
            taken = [(request, False) for request in heapq.heappop(self._shards)[2].requests]
        self._waiting -= len(taken)
        yield from taken

    def clear(self) -> None:
        """Forget all of them."""
        self._urgent.clear()
        self._new.clear()
        self._shards.clear()
        self._waiting = 0
