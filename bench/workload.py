"""This project's workload on random weights of a shape: three personas in one batch, beside other software.

Every answer has its committed length and end tokens are passed over, so that all do the same work. Each request has a
prompt of its own: no prefix is shared.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch

from warmeng.bench.floor import Floor, decoder, generation_floor
from warmeng.bench.hf import BATCHES, HfRate, RandomHf
from warmeng.bench.lengths import Lengths, mean_context, read_lengths
from warmeng.bench.roofline import Roofline, measure_roofline
from warmeng.engine.config import ModelConfig
from warmeng.engine.engine import Engine, EngineStats
from warmeng.engine.request import GenerateRequest, GenerateResult, SamplingParams
from warmeng.engine.settings import EngineSettings, limits
from warmeng.engine.shapes import shape_config

_WARM_STEPS = 64
_PATIENCE = 180.0  # seconds for continuous batching
PERSONAS = ("warm", "cold", "formal", "blunt", "playful", "terse", "gentle")


class Runs(Protocol):
    """What the bench needs of an engine."""

    stats: EngineStats

    def add_random_adapter(self, name: str, rank: int, seed: int) -> object:
        """Add an adapter of random numbers."""

    def generate(self, requests: Sequence[GenerateRequest]) -> list[GenerateResult]:
        """Answer all requests."""

    def reset_prefix_cache(self) -> None:
        """Forget cached prefixes."""

    def describe(self) -> dict[str, Any]:
        """Say what determines the numbers."""


Make = Callable[[ModelConfig, str, EngineSettings], Runs]


def make_engine(config: ModelConfig, device: str, settings: EngineSettings) -> Runs:
    """Return an engine with random weights."""
    return Engine.random(config, device=device, settings=settings)


@dataclass(frozen=True)
class Run:
    """One mix of personas in one mode."""

    mode: str  # "deterministic" or "fast"
    mix: str  # "personas" or "base"
    batch: int  # sequences at once, at most
    requests: int
    tokens: int
    rates: list[float]  # output tokens a second, one a repetition
    steps: int  # of the last repetition
    floor_seconds: float
    share: float  # floor over the median time

    @property
    def rate(self) -> float:
        """The median."""
        return statistics.median(self.rates)


@dataclass
class WorkloadResult:
    """What ``measure_workload`` found."""

    shape: str
    config: dict[str, Any]
    personas: int
    rank: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    mean_context: float
    weight_bytes: int
    token_operations: int
    kv_bytes: int
    roofline: Roofline
    predicted_rate: float  # output tokens a second at the two ceilings
    runs: list[Run] = field(default_factory=list)
    curve: list[Run] = field(default_factory=list)  # of the base, by the number of requests given at once
    engine: dict[str, Any] = field(default_factory=dict)
    hf_by_batch: dict[int, float | str] = field(default_factory=dict)
    hf_batch: int | None = None  # the best
    hf_continuous: float | str | None = None
    ratio: float | None = None  # personas over the best of HF's
    left_out: list[str] = field(default_factory=list)  # each with its reason


@dataclass(frozen=True)
class Options:
    """What to measure."""

    shape: str
    device: str  # "cpu" or "cuda"
    personas: int = 3  # the base and adapters
    rank: int = 8
    requests: int = 2048
    repeats: int = 2
    modes: tuple[str, ...] = ("deterministic",)
    curve: tuple[int, ...] = ()
    baseline: bool = True
    hf_rounds: int = 2
    settings: EngineSettings = field(default_factory=EngineSettings)


def prompts(lengths: Sequence[Lengths], vocab: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Return random prompts of these lengths."""
    draw = random.Random(seed)
    return [tuple(draw.randrange(vocab) for _ in range(x.prompt)) for x in lengths]


def requests(
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


def measure_workload(
    options: Options,
    *,
    make: Make = make_engine,
    roofline: Roofline | None = None,
    lengths: Sequence[Lengths] | None = None,
    say: Callable[[str], None] = lambda line: None,
    left: Callable[[], float] = lambda: math.inf,
) -> WorkloadResult:
    """Measure the mixed batch and the base alone in each mode, then ``transformers``, in one process.

    ``lengths``: None takes the committed ones. ``left`` gives the seconds that are left: measurements that would begin
    later are left out, and the result says so.
    """
    config = shape_config(options.shape)
    device = torch.device("cuda" if options.device == "cuda" else "cpu")
    roofline = roofline or measure_roofline(device, say=say)
    lengths = lengths or read_lengths(options.requests)
    model = decoder(config, 2 if device.type == "cuda" else 4)
    texts = prompts(lengths, config.vocab_size)
    most = limits(options.settings, options.device, config.max_seq_len).max_num_seqs
    floor = generation_floor(model, lengths, most, roofline)
    output = sum(x.answer for x in lengths)
    result = WorkloadResult(
        options.shape, asdict(config), options.personas, options.rank, len(lengths), sum(x.prompt for x in lengths),
        output, mean_context(lengths), model.weight_bytes, model.token_operations, model.kv_bytes, roofline,
        output / floor.seconds,
    )  # fmt: skip
    say(f"predicted from the ceilings: {result.predicted_rate:,.0f} output tokens/s")
    names = [None, *PERSONAS[: options.personas - 1]]

    def run(engine: Runs, mode: str, mix: str, count: int, batch: int, repeats: int, into: list[Run]) -> None:
        asked = requests(texts[:count], lengths[:count], names if mix == "personas" else [None])
        tokens = sum(x.answer for x in lengths[:count])
        least: Floor = generation_floor(model, lengths[:count], batch, roofline)
        times: list[float] = []
        steps = 0
        for _ in range(repeats):
            if times and left() <= 0:
                break
            seconds, steps = timed(engine, asked)
            times.append(seconds)
            say(f"{mode}, {mix}, {count} requests: {tokens / seconds:,.1f} tokens/s, {steps} steps")
        share = least.seconds / statistics.median(times)
        into.append(Run(mode, mix, batch, count, tokens, [tokens / t for t in times], steps, least.seconds, share))

    for mode in options.modes:
        if left() <= 0:
            result.left_out.append(f"engine, {mode}: no time left")
            continue
        say(f"making an engine with random weights, {mode}")
        engine = make(config, options.device, _with_mode(options.settings, mode))
        for number, name in enumerate(names[1:]):
            assert name is not None
            engine.add_random_adapter(name, options.rank, number + 1)
        result.engine[mode] = engine.describe()
        batch = _batch(engine, options, config, lengths)
        say(f"warming up, {batch} sequences at most")
        # Answers of many lengths: the batch passes through all sizes, and each has its kernels and its graph.
        spread = _WARM_STEPS if device.type == "cuda" else 2
        short = [Lengths(x.prompt, min(x.answer, 2 + i * spread // batch)) for i, x in enumerate(lengths[:batch])]
        timed(engine, requests(texts[:batch], short, names))
        timed(engine, requests(texts[:batch], short, [None]))
        for mix in ("personas", "base"):
            if left() > 0:
                run(engine, mode, mix, len(lengths), batch, options.repeats, result.runs)
            else:
                result.left_out.append(f"{mode}, {mix}: no time left")
        for count in options.curve:
            if reason := _why_not(count, len(lengths), left):
                result.left_out.append(f"{mode}, {count} at once: {reason}")
            else:
                run(engine, mode, "base", count, min(count, batch), 1, result.curve)
        del engine
        _free(device)
    if options.baseline:
        _compare(options, device, texts, lengths, result, say, left)
    return result


def _why_not(count: int, requests: int, left: Callable[[], float]) -> str:
    """Say why ``count`` requests at once are not measured, or return an empty text."""
    if count > requests:
        return f"only {requests} requests"
    return "" if left() > 0 else "no time left"


def _batch(engine: Runs, options: Options, config: ModelConfig, lengths: Sequence[Lengths]) -> int:
    """Return how many sequences run at once: what is allowed, and what the cache holds on average."""
    most = limits(options.settings, options.device, config.max_seq_len).max_num_seqs
    slots = engine.describe().get("cache_slots")
    if isinstance(slots, int):
        most = min(most, max(1, int(slots / mean_context(lengths))))
    return min(most, len(lengths))


def _with_mode(settings: EngineSettings, mode: str) -> EngineSettings:
    return EngineSettings(**{**asdict(settings), "fast": mode == "fast"})


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _compare(
    options: Options,
    device: torch.device,
    texts: Sequence[tuple[int, ...]],
    lengths: Sequence[Lengths],
    result: WorkloadResult,
    say: Callable[[str], None],
    left: Callable[[], float],
) -> None:
    if left() <= 0:
        result.left_out.append("transformers: no time left")
        return
    say("making the same model for transformers")
    hf = RandomHf(options.shape, device)
    hf.static(texts[:4], [Lengths(x.prompt, 4) for x in lengths[:4]], 4, 1)
    for batch in BATCHES:
        if reason := _why_not(batch, len(lengths), left):
            result.left_out.append(f"transformers, batch {batch}: {reason}")
            continue
        found = hf.static(texts, lengths, batch, options.hf_rounds)
        result.hf_by_batch[batch] = "out of memory" if found is None else found.rate
        speed = "out of memory" if found is None else f"{found.rate:,.1f} tokens/s"
        say(f"transformers generate, batch {batch}: {speed}")
        if found is None:
            break
    rates = {b: r for b, r in result.hf_by_batch.items() if isinstance(r, float)}
    result.hf_batch = max(rates, key=lambda b: rates[b]) if rates else None
    if left() > 0:
        say("transformers, continuous batching")
        count = min(len(lengths), 512)
        reached = hf.continuous(texts[:count], lengths[:count], min(_PATIENCE, left()))
        result.hf_continuous = reached.rate if isinstance(reached, HfRate) else reached
        said = f"{reached.rate:,.1f} tokens/s" if isinstance(reached, HfRate) else reached
        say(f"transformers, continuous batching: {said}")
    else:
        result.left_out.append("transformers, continuous batching: no time left")
    best = [*rates.values(), *([result.hf_continuous] if isinstance(result.hf_continuous, float) else [])]
    ours = [run.rate for run in result.runs if run.mix == "personas"]
    result.ratio = max(ours) / max(best) if ours and best else None
    del hf
    _free(device)
