"""Where the time of single steps goes on a card: seconds by kernel, and what lies between kernels."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from warmeng.engine.engine import Engine


@dataclass(frozen=True)
class KernelTime:
    """All launches of one kernel within the profiled steps."""

    name: str
    calls: int
    seconds: float
    # Of the time from the first kernel's start to the last one's end.
    share: float


@dataclass(frozen=True)
class Profile:
    """Some steps of one kind."""

    what: str
    steps: int
    # Tokens computed, all steps together.
    rows: int
    # From the first kernel's start to the last one's end.
    seconds: float
    # Within which no kernel ran.
    idle: float
    # From the host's call to its return, waiting for the step before included.
    host: float
    kernels: list[KernelTime]


def profile_steps(what: str, engine: Engine, steps: int, synchronize: Callable[[], None]) -> Profile:
    """Run ``steps`` steps of an engine that has work, and return the time of each kernel on the device."""
    rows, began = 0, time.perf_counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recorded:
        for _ in range(steps):
            rows += engine.step()
        synchronize()
    host = time.perf_counter() - began
    spans = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in recorded.events()
        if event.device_type.name == "CUDA"
    )
    return summarise(what, steps, rows, host, spans)


def summarise(what: str, steps: int, rows: int, host: float, spans: Sequence[tuple[float, float, str]]) -> Profile:
    """Add up (start, end, kernel), microseconds, ordered by start. Kernels may overlap; idle is where none runs."""
    calls: dict[str, int] = defaultdict(int)
    times: dict[str, float] = defaultdict(float)
    busy, reached = 0.0, spans[0][0] if spans else 0.0
    for start, end, name in spans:
        short = name.split("(")[0].removeprefix("void ")[:80]
        calls[short] += 1
        times[short] += (end - start) / 1e6
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    whole = (reached - spans[0][0]) / 1e6 if spans else 0.0
    kernels = [
        KernelTime(name, calls[name], seconds, seconds / whole if whole else 0.0)
        for name, seconds in sorted(times.items(), key=lambda item: -item[1])
    ]
    return Profile(what, steps, rows, whole, whole - busy / 1e6, host, kernels)


def decode_until(engine: Engine, count: int, most_steps: int) -> None:
    """Run steps until all of ``count`` queued requests are past their prompts, or ``most_steps`` have run."""
    for _ in range(most_steps):
        if engine.step() == count:
            return


def profile_lines(found: Profile, most: int = 16) -> list[str]:
    """Return a table for the terminal."""
    each = found.seconds / found.steps * 1e3
    lines = [
        f"{found.what}: {found.steps} steps, {found.rows:,} rows, {each:.2f} ms a step on the device, "
        f"{found.idle / max(found.seconds, 1e-12):.1%} idle, {found.host / found.steps * 1e3:.2f} ms a step on the host"
    ]
    for kernel in found.kernels[:most]:
        per_call = kernel.seconds / kernel.calls * 1e6
        lines.append(f"  {kernel.share:6.1%} {kernel.calls:6d} calls {per_call:9.1f} us  {kernel.name}")
    return lines
