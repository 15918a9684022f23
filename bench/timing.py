"""How long a call takes on a device: medians of many, on inputs that the cache can't hold."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

# Bytes of rotated inputs: several times the largest L2 cache (50 MB on an H100).
CACHE_BYTES = 400_000_000
# Cycles, about a millisecond, that the device sleeps so that the host gets ahead of it.
_HOST_AHEAD = 2_000_000
_REPEATS = (7, 200)  # fewest and most timed repetitions


@dataclass(frozen=True)
class Timing:
    """One call's time in seconds."""

    seconds: float  # the median
    low: float  # of 10 % and 90 % of the repetitions
    high: float
    # "graph" (a CUDA graph replayed), "events" (launched by the host) or "clock" (a CPU).
    way: str


def seconds_left(seconds: float) -> Callable[[], float]:
    """Return a clock that counts down from now."""
    end = time.monotonic() + seconds
    return lambda: end - time.monotonic()


def copies(bytes_of_call: float) -> int:
    """Return how many sets of inputs to rotate, so that no call finds its own in the cache."""
    return max(1, min(48, math.ceil(CACHE_BYTES / max(bytes_of_call, 1.0))))


def measure(
    calls: Sequence[Callable[[], object]], device: torch.device, budget: float = 0.25, *, captured: bool = True
) -> Timing:
    """Time one call: ``calls`` do the same on different inputs, one after the other, for about ``budget`` seconds.

    On a card all of them are captured into one CUDA graph, so that launches don't count; where that can't be done
    (something in the call asks the host) they are launched by the host. With ``captured=False`` that is not even
    tried: after a capture that failed, PyTorch 2.11's allocator fails too, at its next ``empty_cache``.
    """
    if device.type != "cuda":
        return _clock(calls, budget)
    for call in calls:
        call()
    torch.cuda.synchronize(device)
    graph = None
    if captured:
        try:
            graph = _capture(calls)
        except RuntimeError:
            graph = None
    torch.cuda.synchronize(device)
    if graph is None:
        return _events(lambda: [call() for call in calls], len(calls), budget, "events")
    return _events(graph.replay, len(calls), budget, "graph")


def _capture(calls: Sequence[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    return graph


def _events(run: Callable[[], object], count: int, budget: float, way: str) -> Timing:
    def once() -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda._sleep(_HOST_AHEAD)  # type: ignore[no-untyped-call]
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / count

    once()
    repeats = _repeats(statistics.median(once() for _ in range(3)) * count, budget)
    return _summary([once() for _ in range(repeats)], way)


def _clock(calls: Sequence[Callable[[], object]], budget: float) -> Timing:
    def once(call: Callable[[], object]) -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    first = max(once(call) for call in calls[:2])
    repeats = _repeats(first, budget)
    return _summary([once(calls[i % len(calls)]) for i in range(repeats)], "clock")


def _repeats(seconds: float, budget: float) -> int:
    return max(_REPEATS[0], min(_REPEATS[1], int(budget / max(seconds, 1e-9))))


def _summary(seconds: list[float], way: str) -> Timing:
    ordered = sorted(seconds)
    tenth = len(ordered) // 10
    return Timing(statistics.median(ordered), ordered[tenth], ordered[-1 - tenth], way)
