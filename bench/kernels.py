"""Every kernel against its twin, against its roofline, and against what one would call instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from warmeng.bench.cases import attention, pointwise, products, quantized, sampling
from warmeng.bench.cases.case import Case, Sizes, Tensors, workload
from warmeng.bench.failure import reason
from warmeng.bench.roofline import measure_roofline
from warmeng.bench.timing import copies, measure
from warmeng.engine.prediction.card import Roofline


@dataclass(frozen=True)
class Beside:
    """Something that stands beside a kernel: another configuration of ours, or what one would call instead."""

    seconds: float | None = None
    # Error against the twin; None where results can't be compared.
    error: float | None = None
    failed: str | None = None  # why it can't run


@dataclass
class Found:
    """What was measured of one case; seconds of one call."""

    kernel: str
    shape: str
    bytes: float
    operations: float
    tolerance: float
    # Error against the twin in float64: relative norm, or share of other tokens.
    error: float = math.nan
    failed: str | None = None  # why the kernel could not run
    floor_seconds: float | None = None  # at this run's two ceilings
    bound: str | None = None  # which of them
    seconds: float | None = None
    spread: tuple[float, float] | None = None  # of 10 % and 90 % of the repetitions
    way: str | None = None
    share: float | None = None  # floor over measured
    variants: dict[str, Beside] = field(default_factory=dict)
    others: dict[str, Beside] = field(default_factory=dict)

    @property
    def correct(self) -> bool:
        """The kernel ran, and it and its variants agree with the twin."""
        errors = [self.error, *(v.error for v in self.variants.values() if v.error is not None)]
        return self.failed is None and all(error <= self.tolerance for error in errors)


@contextmanager
def poisoned() -> Iterator[None]:
    """Within, new tensors are filled with NaN (integers with their largest value), so that gaps are seen."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def all_cases(sizes: Sizes, only: Sequence[str] = ()) -> list[Case]:
    """Return the cases whose kernel or shape contains one of the words ``only``; all without."""
    found = [case for module in (attention, products, pointwise, sampling, quantized) for case in module.cases(sizes)]
    return [c for c in found if not only or any(word.lower() in f"{c.kernel} {c.shape}".lower() for word in only)]


@torch.inference_mode()
def check(case: Case) -> Found:
    """Compare a kernel and its variants with the twin; times nothing."""
    result = Found(case.kernel, case.shape, case.bytes + case.after_bytes, case.operations, case.tolerance)
    work = case.make(0)
    wanted = work.twin()
    with poisoned():
        found = (work.checked or work.ours)()
    result.error = work.error(found, wanted)
    for name in work.variants:
        if name.startswith("without"):  # another function on purpose
            result.variants[name] = Beside()
            continue
        result.variants[name] = _attempt(lambda name=name: Beside(error=_error(case, name, ours=True)))  # type: ignore[misc]
    return result


@torch.inference_mode()
def run(case: Case, sizes: Sizes, roofline: Roofline, budget: float = 0.25) -> Found:
    """Check a kernel, then time it and everything beside it, each for about ``budget`` seconds."""
    result = check(case)
    result.floor_seconds = roofline.seconds(case.bytes, case.operations) + roofline.seconds(case.after_bytes)
    result.bound = roofline.bound(case.bytes, case.operations)
    sets = [case.make(100 + 10 * i) for i in range(copies(case.bytes))]
    if result.error <= result.tolerance:  # a wrong result's speed means nothing
        timing = measure([work.ours for work in sets], sizes.device, budget)
        result.seconds, result.spread, result.way = timing.seconds, (timing.low, timing.high), timing.way
        result.share = result.floor_seconds / timing.seconds

    def beside(name: str, error: float | None, ours: bool) -> Beside:
        calls = [(work.variants if ours else work.others)[name] for work in sets]
        captured = ours or name not in case.uncaptured
        return Beside(measure(calls, sizes.device, budget / 2 if ours else budget, captured=captured).seconds, error)

    for name, variant in result.variants.items():
        if variant.failed is None:
            result.variants[name] = _attempt(lambda n=name, v=variant: beside(n, v.error, True))  # type: ignore[misc]
    for name in sets[0].others:
        result.others[name] = _attempt(lambda n=name: beside(n, _error(case, n, ours=False), False))  # type: ignore[misc]
    return result


def _attempt(call: Callable[[], Beside]) -> Beside:
    """Return what ``call`` finds, or why it fails: a device or a shape may be more than it can take."""
    try:
        return call()
    except Exception as problem:
        return Beside(failed=reason(problem))


def _error(case: Case, name: str, ours: bool) -> float | None:
    """Return the error of what stands beside a kernel, on fresh inputs; None where it can't be compared.

    Only our kernels get poisoned outputs: others would be compiled once more for that.
    """
    fresh = case.make(0)
    wanted = fresh.twin()
    with poisoned() if ours else nullcontext():
        found = (fresh.variants if ours else fresh.others)[name]()
    return None if found is None else fresh.error(found, wanted[: len(found)])


def run_all(
    sizes: Sizes,
    roofline: Roofline | None,
    *,
    only: Sequence[str] = (),
    budget: float = 0.25,
    say: Callable[[str], None] = lambda line: None,
    left: Callable[[], float] = lambda: math.inf,
    keep: Callable[[list[Found]], None] = lambda found: None,
) -> tuple[list[Found], list[str]]:
    """Measure all cases, or only check them where there is no roofline; returns them and the names of those left out.

    ``left`` gives the seconds that are left: cases that would begin later are left out. ``keep`` is called with what
    there is after each case.
    """
    found: list[Found] = []
    cases = all_cases(sizes, only)
    for at, case in enumerate(cases):
        if left() <= 0:
            return found, [f"{c.kernel}, {c.shape}: no time left" for c in cases[at:]]
        try:
            result = run(case, sizes, roofline, budget) if roofline else check(case)
        except Exception as problem:
            # The others are worth measuring all the same.
            result = Found(case.kernel, case.shape, case.bytes + case.after_bytes, case.operations, case.tolerance)
            result.failed = reason(problem)
        found.append(result)
        keep(found)
        speed = f", {result.seconds * 1e6:,.1f} us, {result.share:.0%}" if result.seconds and result.share else ""
        verdict = "" if result.correct else f"  WRONG {result.failed or ''}"
        say(f"{at + 1} of {len(cases)}: {case.kernel}, {case.shape}: error {result.error:.1e}{speed}{verdict}")
        if sizes.device.type == "cuda":
            try:
                torch.cuda.empty_cache()
            except Exception as problem:
                # The device or its allocator is broken, and no later number would count.
                why = f"after {case.kernel}, {case.shape}, memory can't be given back: {reason(problem)}"
                return found, [f"{c.kernel}, {c.shape}: {why}" for c in cases[at + 1 :]] or [why]
    return found, []


def measure_kernels(
    shape: str,
    device: torch.device,
    *,
    only: Sequence[str],
    budget: float,
    say: Callable[[str], None],
    left: Callable[[], float],
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Measure the peaks of a device and all kernels at a shape; returns the fields of the record.

    ``keep`` is called with the fields that there are after each kernel.
    """
    peaks = measure_roofline(device, say=say)
    fields: dict[str, Any] = {"shape": shape, "roofline": peaks}
    results, left_out = run_all(
        workload(shape, device), peaks, only=only, budget=budget, say=say, left=left,
        keep=lambda some: keep({**fields, "results": some}),
    )  # fmt: skip
    return {**fields, "results": results, "left_out": left_out}


__all__ = ["Found", "Tensors", "all_cases", "check", "measure_kernels", "poisoned", "run", "run_all"]
