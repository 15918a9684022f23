"""Measurements of kernels and of random weights as lines for the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Kernels need triton, which isn't everywhere.
    from warmeng.bench.finetune import TrainComparison
    from warmeng.bench.fleet import FleetResult
    from warmeng.bench.generate import Comparison
    from warmeng.bench.grade import GradeResult
    from warmeng.bench.host import HostResult
    from warmeng.bench.kernels import Found
    from warmeng.bench.record import WorkloadResult
    from warmeng.bench.simulate import Simulated
    from warmeng.engine.prediction.card import Roofline


def roofline_lines(found: Roofline) -> list[str]:
    """Return the two ceilings."""
    return [
        f"copy       {found.bytes_per_second / 1e9:10,.1f} GB/s, bytes read plus written",
        f"product    {found.operations_per_second / 1e12:10,.2f} TFLOP/s, {found.dtype}",
        f"ridge      {found.operations_per_second / found.bytes_per_second:10,.0f} operations a byte",
    ]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as aligned lines: the first two columns to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def kernel_lines(found: Sequence[Found]) -> list[str]:
    """Return each kernel with what stands beside it; times in microseconds."""
    timed = any(f.floor_seconds is not None for f in found)
    head = ["kernel", "shape", "error"]
    rows = [head + (["bound", "floor", "measured", "share"] if timed else [])]
    for f in found:
        error = f"{f.error:.1e}" + ("" if f.correct else " WRONG")
        row = [f.kernel, f.shape, error]
        if timed:
            share = f"{f.share:.0%}" if f.share is not None else "-"
            row += [f.bound or "-", _us(f.floor_seconds), _us(f.seconds), share]
        rows.append(row)
        for name, beside in [*((f"ours, {n}", b) for n, b in f.variants.items()), *f.others.items()]:
            if beside.seconds is not None:
                share = f"{f.floor_seconds / beside.seconds:.0%}" if f.floor_seconds else "-"
                error = "" if beside.error is None else f"{beside.error:.1e}"
                rows.append(["", f"  {name}", error, "", "", _us(beside.seconds), share])
    lines = _columns([row + [""] * (len(rows[0]) - len(row)) for row in rows])
    for f in found:
        failed = [(n, b.failed) for n, b in [*f.variants.items(), *f.others.items()]]
        lines += [f"not run: {n} ({f.kernel}, {f.shape}): {why}" for n, why in [("ours", f.failed), *failed] if why]
    return lines


def _us(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:,.1f} us"


def workload_lines(found: WorkloadResult) -> list[str]:
    """Return output tokens a second of every way of running."""
    rows = [["", "", "output tokens/s", "share of floor"]]
    for run in [*found.runs, *found.curve]:
        mix = f"{found.personas} personas" if run.mix == "personas" else "base alone"
        rows.append([f"warmeng, {run.mode}", f"{mix}, {run.requests} requests", f"{run.rate:,.1f}", f"{run.share:.0%}"])
    for batch, rate in sorted(found.hf_by_batch.items()):
        said = f"{rate:,.1f}" if isinstance(rate, float) else rate
        rows.append(["transformers generate", f"batch {batch}", said, ""])
    reached = found.hf_continuous
    if isinstance(reached, float):
        rows.append(["transformers", found.hf_continuous_name or "continuous batching", f"{reached:,.1f}", ""])
    lines = _columns(rows)
    lines.append(
        f"{found.shape}, random weights: {found.weight_bytes / 1e9:.1f} GB a step, "
        f"{found.token_operations / 1e9:.1f} GFLOP a token, {found.kv_bytes:,} B of keys and values a token, "
        f"mean context {found.mean_context:.0f}"
    )
    lines.append(f"predicted from the two ceilings: {found.predicted_rate:,.0f} output tokens/s")
    if found.ratio is not None:
        lines.append(f"{found.personas} personas over the best of transformers: {found.ratio:.2f}")
    if isinstance(reached, str):
        lines.append(f"not run: transformers, {found.hf_continuous_name or 'continuous batching'}: {reached}")
    for run in [*found.runs, *found.curve]:
        if run.oom_steps:
            lines.append(f"{run.mode}, {run.mix}, {run.requests} requests: {run.oom_steps} steps found no memory")
    return lines + left_out_lines(found.left_out)


def grade_lines(found: GradeResult) -> list[str]:
    """Return grades a second."""
    middle = sorted(found.rates)[len(found.rates) // 2]
    return [
        f"{found.shape}, {found.mode}: {middle:,.1f} grades a second "
        f"({min(found.rates):,.1f} to {max(found.rates):,.1f}), {found.share:.0%} of the floor",
        f"{found.prefix} tokens of prefix ({found.cached_share:.0%} from the cache), {found.new} new, "
        f"{found.labels} labels of two tokens",
    ]


def host_lines(found: Sequence[HostResult]) -> list[str]:
    """Return the host's part of a step at each number of sequences, in CPU milliseconds and beside the yardstick."""
    rows = [["sequences", "adapters, temperature", "decoding step, ms", "mixed step, ms", "rows", "decoding / loop"]]
    rows += [
        [
            str(f.sequences), f"{f.adapters}, {f.temperature:g}", f"{f.decode * 1e3:.2f}", f"{f.mixed * 1e3:.2f}",
            str(f.mixed_rows), f"{f.ratio:.2f}",
        ]
        for f in found
    ]  # fmt: skip
    yardsticks = statistics.median(f.yardstick for f in found)
    return [*_columns(rows), f"the loop beside it: {yardsticks * 1e3:.2f} ms"]


def fleet_lines(found: Sequence[FleetResult]) -> list[str]:
    """Return how near fleets came to the ideal, and what the driver took."""
    rows = [
        ["workers", "seconds", "ideal", "share", "records/s", "driver's CPU, s", "its most records/s", "memory, MiB"]
    ]
    rows += [
        [
            str(f.workers), f"{f.seconds:.1f}", f"{f.ideal:.1f}", f"{f.share:.1%}", f"{f.records_rate:,.0f}",
            f"{f.driver_cpu:.1f}", f"{f.most_records:,.0f}", f"{f.driver_memory / 2**20:,.0f}",
        ]
        for f in found
    ]  # fmt: skip
    first = found[0]
    return [*_columns(rows), f"{first.requests:,} answers, {first.rate:,.0f} output tokens/s of each worker"]


def simulated_lines(found: Sequence[Simulated], card: str) -> list[str]:
    """Return what was predicted for each shape, and where the time goes, as shares of the run."""
    kinds = list(found[0].kernels)
    rows = [["", "sequences (mean)", "output tokens/s", *kinds, "device idle", "host", "bound by"]]
    for f in found:
        shares = [f"{part / f.seconds:.0%}" for part in (*f.kernels.values(), f.idle, f.host)]
        at_once = f"{f.max_num_seqs} ({f.mean_sequences:.0f})"
        rows.append([f.shape, at_once, f"{f.rate:,.0f}", *shares, f.bound])
    lines = _columns(rows)
    for f in found:
        lines.append(
            f"{f.shape}: {f.requests} requests, {f.steps} steps, {f.mixed_steps} of them mixed, {f.rows:,} tokens "
            f"computed, {f.preemptions} preemptions, {f.cache_slots:,} slots of cache"
        )
    cost = found[0].host_cost
    lines.append(
        f"predicted for {card}, not measured; the host: {cost.step * 1e3:.2f} ms a step, "
        f"{cost.sequence * 1e6:.2f} us a sequence, {cost.row * 1e6:.2f} us a row"
    )
    return lines


def left_out_lines(names: Sequence[str]) -> list[str]:
    """Return what was not measured, and why."""
    return [f"left out: {name}" for name in names]


def comparison_lines(found: Comparison) -> list[str]:
    """Return every engine's rate, its ratio to warmeng's, its equal texts and memory, and warmeng's roofline share."""
    head = ["engine", "version", "tokens/s", "times warmeng's", "same texts", "peak MiB", "load s", "batch"]
    rows = [head]
    for one in found.engines:
        ratio = "-" if one.ratio is None else f"{one.ratio:.2f} ({min(one.ratios):.2f} to {max(one.ratios):.2f})"
        rows.append([
            one.title, next((v for v in one.versions.values() if v), "-"), _middle(one.rates), ratio,
            "-" if one.identical is None else f"{one.identical} of {found.prompts}",
            "-" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:,.0f}", f"{one.load_seconds:.1f}",
            str(one.batch or "-"),
        ])  # fmt: skip
    rows += [[f"{label}, mixed", "-", "no", *["-"] * (len(head) - 3)] for label in found.cannot_mix]
    ours = next((one for one in found.engines if one.mix == "base"), None)
    lines = [
        f"{found.model}: {found.prompts} prompts of {found.prompt_tokens} tokens, at most {found.max_new_tokens} new "
        f"ones each; threads: {found.threads}; rounds: {found.rounds}; median (least to most)",
        *_columns(rows),
    ]
    for mix, label in found.references.items():
        lines.append(f"same texts{', mixed' if mix == 'mixed' else ''}: as those of {label}")
    if not found.references:
        lines.append("same texts: neither hf:f32 nor warmeng:f32 is among the engines")
    if found.adapters:
        lines.append(f"mixed: the base, {', '.join(found.adapters)} in turn; no: it can't mix adapters in one batch")
    for one in found.engines:
        if one.of_base:
            shares = [f"{share:.0%}" for share in (statistics.median(one.of_base), min(one.of_base), max(one.of_base))]
            lines.append(f"{one.title}: {shares[0]} of its rate on the base alone ({shares[1]} to {shares[2]})")
    if ours is not None and found.floor_seconds is not None and found.roofline_share is not None:
        lines.append(
            f"matrix products of {ours.title} alone, at the fastest arrangement measured now: "
            f"{found.floor_seconds:.1f} s; share of the roofline: {found.roofline_share:.0%}"
        )
    for product in found.ceilings:
        shape = f"{product['rows']} x {product['in_features']} x {product['out_features']}"
        lines.append(f"  {product['name']:8s} {shape}: {product['gflops']:.0f} GFLOP/s ({product['orientation']})")
    return lines + [f"failed: {what}: {why}" for what, why in found.failed.items()]


def training_lines(found: TrainComparison) -> list[str]:
    """Return the trainers' rates and the ratios of each step's pairs."""
    beside = (
        ("PEFT, plain loop", found.peft, found.peft_micro_batch, found.ratio_peft),
        ("TRL", found.trl, found.trl_micro_batch, found.ratio_trl),
    )
    lines = [_rates("warmeng", found.ours)]
    for name, rates, micro, ratio in beside:
        if rates and ratio is not None:
            lines.append(f"{_rates(name, rates)}, {micro} conversations at once; ours is {ratio:.2f} times that")
    return lines


def _rates(name: str, rates: Sequence[float]) -> str:
    middle = statistics.median(rates)
    return f"{name:18s} {middle:8.1f} tokens/s ({min(rates):.1f} to {max(rates):.1f})"


def _middle(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):,.1f} ({min(rates):,.1f} to {max(rates):,.1f})"
