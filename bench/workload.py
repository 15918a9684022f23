"""This project's workload on random weights of a shape: three personas in one batch, beside other software.

Every answer has its committed length and end tokens are passed over, so that all do the same work. All prompts differ:
no prefix is shared.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from warmeng.bench.cost_model import Floor, generation_floor
from warmeng.bench.failure import reason
from warmeng.bench.hf import compare
from warmeng.bench.lengths import Lengths, mean_context, read_lengths
from warmeng.bench.record import Options, Run, WorkloadResult
from warmeng.bench.roofline import measure_roofline
from warmeng.engine.adapters import Adapter
from warmeng.engine.config import ModelConfig
from warmeng.engine.engine import EngineStats
from warmeng.engine.prediction.card import Roofline
from warmeng.engine.prediction.decoder import Decoder, decoder
from warmeng.engine.random import random_adapter
from warmeng.engine.request import GenerateRequest, GenerateResult, SamplingParams
from warmeng.engine.settings import EngineLimits, EngineSettings, resolve_limits
from warmeng.engine.shapes import shape_config
from warmeng.engine.testing import random_engine

_WARM_STEPS = 64
# Answers of the warm-up that end one by one: the smallest graphs have few rows.
_WARM_LAST = 16
PERSONAS = ("warm", "cold", "formal", "blunt", "playful", "terse", "gentle")


class Runs(Protocol):
    """What the bench needs of an engine."""

    stats: EngineStats

    def add_adapter(self, name: str, source: Adapter) -> object:
        """Add an adapter."""

    def generate(self, requests: Sequence[GenerateRequest]) -> list[GenerateResult]:
        """Answer all requests."""

    def reset_prefix_cache(self) -> None:
        """Forget cached prefixes."""

    def describe(self) -> dict[str, Any]:
        """Say what determines the numbers."""


Make = Callable[[ModelConfig, str, EngineSettings], Runs]


def make_engine(config: ModelConfig, device: str, settings: EngineSettings) -> Runs:
    """Return an engine with random weights."""
    return random_engine(config, device=device, settings=settings)


def prompts(lengths: Sequence[Lengths], vocab: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Return random prompts of these lengths."""
    draw = random.Random(seed)
    return [tuple(draw.randrange(vocab) for _ in range(x.prompt)) for x in lengths]


def warming(lengths: Sequence[Lengths], limits: EngineLimits, device: str) -> list[Lengths]:
    """Return what to warm up with: these prompts, with answers so short that it takes few steps.

    On a card the batch must be there as a whole and then pass through all sizes, because each has its kernels and its
    graph: so the first answer lasts until the last prompt is in, the others end a few a step, and the last ones
    one after the other.
    """
    if device != "cuda":
        return [Lengths(x.prompt, min(x.answer, 2 + 2 * i // len(lengths))) for i, x in enumerate(lengths)]
    # Prompt tokens of a step beside the sequences that decode.
    room = max(1, limits.max_batched_tokens - len(lengths))
    admit = sum(x.prompt for x in lengths) // room + 2
    spread = _WARM_STEPS
    few = len(lengths) - _WARM_LAST
    return [
        Lengths(x.prompt, min(x.answer, admit + i * spread // len(lengths) + max(0, i - few)))
        for i, x in enumerate(lengths)
    ]


def make_requests(
    texts: Sequence[tuple[int, ...]], lengths: Sequence[Lengths], adapters: Sequence[str | None]
) -> list[GenerateRequest]:
    """Return greedy requests that carry the adapters in turn."""
    return [
        GenerateRequest(
            str(i), text, SamplingParams(max_new_tokens=x.answer, ignore_eos=True), adapters[i % len(adapters)]
        )
        for i, (text, x) in enumerate(zip(texts, lengths, strict=True))
    ]


def timed(engine: Runs, asked: Sequence[GenerateRequest]) -> tuple[float, int]:
    """Return the seconds and steps that all requests take, with nothing cached."""
    engine.reset_prefix_cache()
    steps, began = engine.stats.steps, time.perf_counter()
    results = engine.generate(asked)
    seconds = time.perf_counter() - began
    for request, result in zip(asked, results, strict=True):
        assert len(result.token_ids) == request.sampling.max_new_tokens, (
            f"request {request.id} has {len(result.token_ids)} tokens (status {result.status} {result.detail}), "
            f"expected {request.sampling.max_new_tokens}"
        )
    return seconds, engine.stats.steps - steps


@dataclass(frozen=True)
class _Measurement:
    """What all runs of one call share."""

    options: Options
    make: Make
    config: ModelConfig
    model: Decoder
    texts: Sequence[tuple[int, ...]]
    lengths: Sequence[Lengths]
    result: WorkloadResult
    say: Callable[[str], None]
    left: Callable[[], float]
    keep: Callable[[WorkloadResult], None]

    def mode(self, mode: str) -> None:
        """Make an engine and measure the mixed batch, the base alone, and the base at each size of the curve."""
        options, lengths, texts, result = self.options, self.lengths, self.texts, self.result
        self.say(f"making an engine with random weights, {mode}")
        engine = self.make(self.config, options.device, _with_mode(options.settings, mode))
        names = self._names()
        for number, name in enumerate(names[1:]):
            assert name is not None
            engine.add_adapter(name, random_adapter(self.config, options.rank, number + 1))
        result.engine[mode] = engine.describe()
        limits = resolve_limits(options.settings, options.device, self.config.max_seq_len)
        batch = _batch(engine, limits, lengths)
        self.say(f"warming up, {batch} sequences at most")
        short = warming(lengths[:batch], limits, options.device)
        timed(engine, make_requests(texts[:batch], short, names))
        timed(engine, make_requests(texts[:batch], short, [None]))
        for mix in ("personas", "base"):
            if self.left() > 0:
                self._run(engine, mode, mix, len(lengths), batch, options.repeats, result.runs)
            else:
                result.left_out.append(f"{mode}, {mix}: no time left")
        for count in options.curve:
            if count > len(lengths):
                result.left_out.append(f"{mode}, {count} at once: only {len(lengths)} requests")
            elif self.left() <= 0:
                result.left_out.append(f"{mode}, {count} at once: no time left")
            else:
                self._run(engine, mode, "base", count, min(count, batch), 1, result.curve)

    def _names(self) -> list[str | None]:
        return [None, *PERSONAS[: self.options.personas - 1]]

    def _run(
        self, engine: Runs, mode: str, mix: str, count: int, batch: int, repeats: int, into: list[Run]
    ) -> None:  # fmt: skip
        lengths = self.lengths[:count]
        asked = make_requests(self.texts[:count], lengths, self._names() if mix == "personas" else [None])
        tokens = sum(x.answer for x in lengths)
        least: Floor = generation_floor(self.model, lengths, batch, self.result.roofline)
        oom_steps = engine.stats.oom_steps
        times: list[float] = []
        steps = 0
        for _ in range(repeats):
            if times and self.left() <= 0:
                break
            seconds, steps = timed(engine, asked)
            times.append(seconds)
            self.say(f"{mode}, {mix}, {count} requests: {tokens / seconds:,.1f} tokens/s, {steps} steps")
        share = least.seconds / statistics.median(times)
        rates = [tokens / t for t in times]
        oom_steps = engine.stats.oom_steps - oom_steps
        into.append(Run(mode, mix, batch, count, tokens, rates, steps, least.seconds, share, oom_steps))
        self.keep(self.result)


def measure_workload(
    options: Options,
    *,
    make: Make = make_engine,
    roofline: Roofline | None = None,
    lengths: Sequence[Lengths] | None = None,
    say: Callable[[str], None] = lambda line: None,
    left: Callable[[], float] = lambda: math.inf,
    keep: Callable[[WorkloadResult], None] = lambda result: None,
) -> WorkloadResult:
    """Measure the mixed batch and the base alone in each mode, then ``transformers``, in one process.

    ``lengths``: None takes the committed ones. ``left`` gives the seconds that are left: measurements that would begin
    later are left out, and the result says so. So it does of a mode that an error ends; the others are measured all
    the same. ``keep`` is called with what there is after each measurement.
    """
    config = shape_config(options.shape)
    device = torch.device("cuda" if options.device == "cuda" else "cpu")
    roofline = roofline or measure_roofline(device, say=say)
    lengths = lengths or read_lengths(options.requests)
    model = decoder(config, 2 if device.type == "cuda" else 4)
    texts = prompts(lengths, config.vocab_size)
    most = resolve_limits(options.settings, options.device, config.max_seq_len).max_num_seqs
    floor = generation_floor(model, lengths, most, roofline)
    output = sum(x.answer for x in lengths)
    result = WorkloadResult(
        options.shape, asdict(config), options.personas, options.rank, len(lengths), sum(x.prompt for x in lengths),
        output, mean_context(lengths), model.weight_bytes, model.token_operations, model.kv_bytes, roofline,
        output / floor.seconds,
    )  # fmt: skip
    say(f"predicted from the ceilings: {result.predicted_rate:,.0f} output tokens/s")
    measurement = _Measurement(options, make, config, model, texts, lengths, result, say, left, keep)
    for mode in options.modes:
        if left() <= 0:
            result.left_out.append(f"engine, {mode}: no time left")
            continue
        try:
            measurement.mode(mode)
        except Exception as problem:
            # One mode's failure must not cost the others.
            result.failed.append(mode)
            result.left_out.append(f"engine, {mode}: {reason(problem)}")
            say(result.left_out[-1])
        # Outside the except block: the error's traceback holds the engine.
        _free(device, say)
    if options.baseline:
        keep(result)
        try:
            compare(options, device, texts, lengths, result, say=say, left=left, keep=keep)
        except Exception as problem:
            result.left_out.append(f"transformers: {reason(problem)}")
            say(result.left_out[-1])
        _free(device, say)
    return result


def _batch(engine: Runs, limits: EngineLimits, lengths: Sequence[Lengths]) -> int:
    """Return how many sequences run at once: what is allowed, and what the cache holds on average."""
    most = limits.max_num_seqs
    slots = engine.describe().get("cache_slots")
    if isinstance(slots, int):
        most = min(most, max(1, int(slots / mean_context(lengths))))
    return min(most, len(lengths))


def _with_mode(settings: EngineSettings, mode: str) -> EngineSettings:
    return EngineSettings(**{**asdict(settings), "fast": mode == "fast"})


def _free(device: torch.device, say: Callable[[str], None]) -> None:
    """Give memory back. After an error of the device this may fail too; what was measured is worth returning."""
    gc.collect()
    if device.type == "cuda":
        try:
            torch.cuda.empty_cache()
        except Exception as problem:
            say(f"memory can't be given back: {reason(problem)}")
