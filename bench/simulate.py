"""A run by prediction: the real engine loop and scheduler on the committed lengths, on a device that only keeps time.

A step's time is the sum over its kernels, each at a share of the peak that bounds it. The host prepares a step while
the device works on the one before, as the engine does, so a run is bound by the slower of the two at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from warmeng.bench.card import CARDS, Timings, read_timings
from warmeng.bench.cost_model import Decoder, decoder
from warmeng.bench.host import HostCost, measure_host
from warmeng.bench.lengths import Lengths, read_lengths
from warmeng.bench.roofline import Roofline
from warmeng.bench.workload import PERSONAS, make_requests, prompts
from warmeng.common.errors import UsageError
from warmeng.engine.backend import Runner, StepOutput
from warmeng.engine.checkpoint import projection_shapes
from warmeng.engine.config import ModelConfig
from warmeng.engine.constraints import ConstraintCompiler
from warmeng.engine.engine import Engine
from warmeng.engine.gpu.batch import ROW_STEP
from warmeng.engine.gpu.graphs import SIZES
from warmeng.engine.mixture import Mixture
from warmeng.engine.scheduler import Work
from warmeng.engine.sequence import Sequence as Running
from warmeng.engine.settings import EngineSettings, resolve_limits
from warmeng.engine.shapes import shape_config
from warmeng.engine.testing import unread_model
from warmeng.kernels.gpu.lora import RANK_TILE

# Weights that each product fuses, each with an A matrix.
_PARTS = {"qkv": 3, "o": 1, "gate_up": 2, "down": 1}
# Kernels of a layer: four products, rotation, attention, two norms, activation.
_LAUNCHES = 9
# The part of the memory beside the weights that is used, and what of it the largest step and the adapters take.
_SHARE = 0.94
_RESERVE = 4 * 2**30


@dataclass(frozen=True)
class Simulated:
    """What a run takes, and where its time goes. Seconds."""

    shape: str
    adapters: int
    max_num_seqs: int
    cache_slots: int
    requests: int
    output_tokens: int
    seconds: float
    steps: int
    mixed_steps: int  # not replayed from a graph
    preemptions: int
    rows: int  # tokens computed
    mean_sequences: float
    # The device's work by kind, gaps included.
    kernels: Mapping[str, float]
    host: float  # the host's work, launches included
    # Seconds in which the device does nothing, from the first step to the last.
    idle: float
    host_cost: HostCost

    @property
    def rate(self) -> float:
        """Output tokens a second."""
        return self.output_tokens / self.seconds

    @property
    def bound(self) -> str:
        """Which of the two works all the time: "device" or "host"."""
        return "device" if sum(self.kernels.values()) >= self.host else "host"


def step_seconds(
    config: ModelConfig, timings: Timings, work: Sequence[tuple[int, int]], sampled: int, adapters: int, rank: int
) -> tuple[dict[str, float], int, bool]:
    """Return the device's seconds of a step by kind of kernel, its launches, and whether a graph is replayed.

    ``work``: (first token, the one after the last) of each sequence; ``sampled`` of them draw a token.
    """
    model, roofline, item = decoder(config), timings.roofline, 2
    count = sum(stop - start for start, stop in work)
    replayed = count == sampled == len(work) and count <= SIZES[-1]
    rows = next(size for size in SIZES if size >= count) if replayed else -(-count // ROW_STEP) * ROW_STEP
    padded = -(-rank // RANK_TILE) * RANK_TILE if adapters else 0
    products = 0.0
    shapes = projection_shapes(config)
    _, hidden = shapes.pop("head")
    for name, (outs, ins) in shapes.items():
        operations = 2 * rows * (ins * outs + padded * (_PARTS[name] * adapters * ins + outs))
        products += config.num_layers * roofline.seconds((rows * (ins + outs) + ins * outs) * item, operations)
    slots = sum(stop for _, stop in work)
    attention = _attention(model, roofline, [w for w in work if w[1] - w[0] == 1])
    attention += _attention(model, roofline, [w for w in work if w[1] - w[0] > 1])
    logits = sampled * config.vocab_size
    head = roofline.seconds(
        (sampled * hidden + model.head_weights) * item + 4 * logits, 2 * sampled * model.head_weights
    )
    heads = config.num_heads + 2 * config.num_kv_heads
    numbers = 2 * heads * config.head_dim + 8 * config.hidden_size + 3 * config.intermediate_size
    small = config.num_layers * roofline.seconds(rows * numbers * item)
    least = {
        "products": (products, rows), "attention": (attention, slots / len(work)), "head": (head, sampled),
        "choice": (roofline.seconds(4 * logits), sampled), "small": (small, rows),
    }  # fmt: skip
    launches = config.num_layers * _LAUNCHES + 3
    times = {name: seconds / timings.share(name, size) for name, (seconds, size) in least.items()}
    return times | {"gaps": timings.gap * launches if replayed else 0.0}, launches, replayed


def _attention(model: Decoder, roofline: Roofline, work: Sequence[tuple[int, int]]) -> float:
    slots = sum(stop for _, stop in work)
    pairs = sum((stop * (stop + 1) - start * (start + 1)) // 2 for start, stop in work)
    return roofline.seconds(slots * model.kv_bytes, pairs * model.pair_operations)


@dataclass(frozen=True)
class _SimulatedStep:
    device: _ClockRunner
    done: float
    sampled: list[Running]

    def wait(self) -> StepOutput:
        """Let the host's time pass until the device is done."""
        self.device.now = max(self.device.now, self.done)
        count = len(self.sampled)
        return StepOutput([0] * count, [0.0] * count, [], [[]] * count, [])


class _ClockRunner:
    """A runner that computes nothing: it knows when the host and the device would be done."""

    overlap = 1
    copies = False

    def __init__(
        self, config: ModelConfig, timings: Timings, host: HostCost, num_blocks: int, adapters: int, rank: int
    ) -> None:
        self.config, self.timings, self.host = config, timings, host
        self.num_blocks, self.vocab_size = num_blocks, config.vocab_size
        self.adapters, self.rank = adapters, rank
        # The host's time, and when the device has nothing left.
        self.now = self.free = 0.0
        self.worked = self.idle = 0.0
        self.kernels: dict[str, float] = {}
        self.steps = self.mixed = self.rows = self.sequences = 0

    def start(self, work: list[Work], compiler: ConstraintCompiler | None) -> _SimulatedStep:
        """Let the host prepare a step and the device take it up when it is free."""
        sampled = [item.sequence for item in work if item.stop == len(item.sequence.tokens)]
        spans = [(item.start, item.stop) for item in work]
        rows = sum(stop - start for start, stop in spans)
        times, launches, replayed = step_seconds(
            self.config, self.timings, spans, len(sampled), self.adapters, self.rank
        )
        prepared = self.now + self.host.seconds(len(work), rows)
        launched = prepared + (0.0 if replayed else launches * self.timings.launch)
        began = max(prepared, self.free)
        done = began + sum(times.values())
        # The last kernel can't end before it is launched.
        behind = max(0.0, launched - done)
        self.worked += launched - self.now
        self.idle += behind + (began - self.free if self.steps else 0.0)
        self.now, self.free = launched, done + behind
        for name, seconds in times.items():
            self.kernels[name] = self.kernels.get(name, 0.0) + seconds
        self.steps += 1
        self.mixed += not replayed
        self.rows += rows
        self.sequences += len(work)
        return _SimulatedStep(self, self.free, sampled)


def cache_slots(config: ModelConfig, timings: Timings) -> int:
    """Return how many tokens' keys and values fit beside the weights and what the largest step takes, about."""
    model = decoder(config)
    embedding = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size * 2
    room = _SHARE * (timings.memory - model.weight_bytes - embedding) - _RESERVE
    if room < model.kv_bytes * 1024:
        raise UsageError(
            f"weights of {model.weight_bytes / 2**30:.1f} GiB leave no cache in {timings.memory / 2**30:.1f} GiB: "
            "choose a larger card or a smaller shape"
        )
    return int(room / model.kv_bytes)


def simulate(
    shape: str,
    timings: Timings,
    host: HostCost,
    *,
    personas: int = 3,
    rank: int = 8,
    max_num_seqs: int | None = None,
    slots: int | None = None,
    lengths: Sequence[Lengths] | None = None,
    config: ModelConfig | None = None,
) -> Simulated:
    """Run the workload on a card that keeps time. ``slots``: of the cache; None takes what the card's memory leaves.

    ``lengths``: None takes the committed ones; ``config``: None takes the one of the shape.
    """
    config = config or shape_config(shape)
    lengths = read_lengths(2048) if lengths is None else lengths
    slots = slots or cache_slots(config, timings)
    settings = EngineSettings(max_num_seqs=max_num_seqs)
    limits = resolve_limits(settings, "cuda", config.max_seq_len)
    adapters = personas - 1
    device = _ClockRunner(config, timings, host, slots // settings.block_size + 1, adapters, rank)
    model = unread_model(config, shape)
    names: list[str | None] = [None, *PERSONAS[:adapters]]
    for name in PERSONAS[:adapters]:
        model.mixtures[name] = Mixture(((name, 1.0),))
    # The device has no logits to probe, so it is not all of a runner.
    engine = Engine(model, cast(Runner, device), settings, limits)
    results = engine.generate(make_requests(prompts(lengths, config.vocab_size), lengths, names))
    return Simulated(
        shape, adapters, limits.max_num_seqs, slots, len(lengths), sum(len(r.token_ids) for r in results),
        device.free, device.steps, device.mixed, engine.stats.preemptions, device.rows,
        device.sequences / device.steps, device.kernels, device.worked, device.idle, host,
    )  # fmt: skip


# The shapes that are simulated unless others are asked for.
SHAPES = ("llama-3.1-8b", "mistral-small-22b", "qwen2.5-32b")


def simulate_shapes(
    shapes: Sequence[str],
    card: str,
    timings_file: Path | None,
    *,
    personas: int,
    rank: int,
    requests: int,
    max_num_seqs: int | None,
    slots: int | None,
    say: Callable[[str], None],
) -> tuple[Timings, list[Simulated]]:
    """Simulate each shape on a card, with the timings of a file where one is given; measures the host's cost here."""
    timings = CARDS[card] if timings_file is None else read_timings(timings_file, CARDS[card])
    host = timings.host
    if host is None:
        say("measuring the host's part of a step")
        host = measure_host(max_num_seqs or 1024, adapters=personas - 1).cost
    lengths = read_lengths(requests)
    results = []
    for shape in shapes or SHAPES:
        say(f"simulating {shape}")
        results.append(
            simulate(
                shape, timings, host, personas=personas, rank=rank, max_num_seqs=max_num_seqs, slots=slots,
                lengths=lengths,
            )
        )  # fmt: skip
    return timings, results
