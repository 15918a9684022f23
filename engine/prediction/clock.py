"""The real engine loop and scheduler, on a device that only keeps time.

A step's time is the sum over its kernels, each at a share of the peak that bounds it. The host prepares a step while
the device works on the one before, as the engine does, so a run is bound by the slower of the two at each step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from warmeng.common.errors import UsageError
from warmeng.engine.backend import Runner, StepOutput
from warmeng.engine.checkpoint import projection_shapes
from warmeng.engine.config import ModelConfig
from warmeng.engine.constraints import ConstraintCompiler
from warmeng.engine.engine import Engine
from warmeng.engine.gpu.sizes import GRAPH_SIZES, ROW_STEP
from warmeng.engine.mixture import Mixture
from warmeng.engine.plan import PLAIN, cache_bytes, matrix_bytes, token_bytes, weight_bytes
from warmeng.engine.prediction.card import HostCost, Roofline, Timings
from warmeng.engine.prediction.decoder import Decoder, decoder
from warmeng.engine.request import ScoreRequest
from warmeng.engine.scheduler import Work
from warmeng.engine.sequence import Sequence as Running
from warmeng.engine.settings import EngineLimits, EngineSettings, resolve_limits
from warmeng.engine.testing import unread_model
from warmeng.kernels.sizes import RANK_TILE

# Slots of a block.
_FEWEST = 16
# Weights that each product fuses, each with an A matrix.
_PARTS = {"qkv": 3, "o": 1, "gate_up": 2, "down": 1}
# Kernels of a layer: four products, rotation, attention, two norms, activation.
_LAUNCHES = 9


@dataclass(frozen=True)
class Precision:
    """What a base is stored in. ``kind``: of its layers' weights, one of ``plan.KINDS``."""

    kind: str = PLAIN
    # Bytes of a number of a key or a value: 1 for fp8.
    kv_item: int = 2

    @property
    def eight_bits(self) -> bool:
        """Whether products are of numbers of 8 bits; those of 4 bits are of the bfloat16 that they stand for."""
        return self.kind in ("int8", "fp8")


def step_seconds(
    config: ModelConfig,
    timings: Timings,
    precision: Precision,
    work: Sequence[tuple[int, int]],
    sampled: int,
    adapters: int,
    rank: int,
) -> tuple[dict[str, float], int, bool]:
    """Return the device's seconds of a step by kind of kernel, its launches, and whether a graph is replayed.

    ``work``: (first token, the one after the last) of each sequence; ``sampled``: rows whose logits are computed. Rows
    are of bfloat16; the rounding of those that meet weights of 8 bits is left out.
    """
    model, roofline, item = decoder(config), timings.roofline, 2
    faster = timings.eight_bits if precision.eight_bits else 1.0
    count = sum(stop - start for start, stop in work)
    replayed = count == sampled == len(work) and count <= GRAPH_SIZES[-1]
    rows = next(size for size in GRAPH_SIZES if size >= count) if replayed else -(-count // ROW_STEP) * ROW_STEP
    padded = -(-rank // RANK_TILE) * RANK_TILE if adapters else 0
    products = 0.0
    shapes = projection_shapes(config)
    _, hidden = shapes.pop("head")
    for name, (outs, ins) in shapes.items():
        operations = 2 * rows * (ins * outs / faster + padded * (_PARTS[name] * adapters * ins + outs))
        moved = rows * (ins + outs) * item + matrix_bytes(outs, ins, precision.kind, config.quantization)
        products += config.num_layers * roofline.seconds(moved, operations)
    slots = sum(stop for _, stop in work)
    attention = _attention(model, roofline, precision, [w for w in work if w[1] - w[0] == 1])
    attention += _attention(model, roofline, precision, [w for w in work if w[1] - w[0] > 1])
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


def _attention(model: Decoder, roofline: Roofline, precision: Precision, work: Sequence[tuple[int, int]]) -> float:
    slots = sum(stop for _, stop in work)
    pairs = sum((stop * (stop + 1) - start * (start + 1)) // 2 for start, stop in work)
    return roofline.seconds(slots * model.kv_bytes * precision.kv_item / model.item, pairs * model.pair_operations)


@dataclass(frozen=True)
class _Step:
    device: Clock
    done: float
    sampled: list[Running]

    def wait(self) -> StepOutput:
        """Let the host's time pass until the device is done."""
        self.device.now = max(self.device.now, self.done)
        count = len(self.sampled)
        return StepOutput([0] * count, [0.0] * count, [], [[]] * count, [])


def _score(sequence: Running) -> int:
    """Give a score request's labels log-probabilities, as nobody asks which; return the rows that tell them."""
    assert isinstance(sequence.request, ScoreRequest)
    labels = sequence.request.labels
    sequence.label_logprobs.update({(k, i): 0.0 for k, label in enumerate(labels) for i in range(len(label))})
    return 1 + sum(len(label) - 1 for label in labels)


class Clock:
    """A runner that computes nothing: it knows when the host and the device would be done."""

    overlap = 1
    copies = False

    def __init__(
        self, config: ModelConfig, timings: Timings, host: HostCost, precision: Precision, limits: EngineLimits,
        num_blocks: int, adapters: int, rank: int,
    ) -> None:  # fmt: skip
        self.config, self.timings, self.host, self.precision = config, timings, host, precision
        self.num_blocks, self.vocab_size, self.max_num_seqs = num_blocks, config.vocab_size, limits.max_num_seqs
        self.adapters, self.rank = adapters, rank
        # The host's time, and when the device has nothing left.
        self.now = self.free = 0.0
        self.worked = self.idle = 0.0
        self.kernels: dict[str, float] = {}
        self.steps = self.mixed = self.rows = self.sequences = 0

    def start(self, work: list[Work], compiler: ConstraintCompiler | None) -> _Step:
        """Let the host prepare a step and the device take it up when it is free."""
        ended = [item.sequence for item in work if item.stop == len(item.sequence.tokens)]
        sampled = [sequence for sequence in ended if sequence.generates]
        logits = len(sampled) + sum(_score(sequence) for sequence in ended if not sequence.generates)
        spans = [(item.start, item.stop) for item in work]
        rows = sum(stop - start for start, stop in spans)
        times, launches, replayed = step_seconds(
            self.config, self.timings, self.precision, spans, logits, self.adapters, self.rank
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
        return _Step(self, self.free, sampled)


def cache_slots(config: ModelConfig, memory: float, precision: Precision) -> int:
    """Return how many tokens' keys and values fit on a card of so many bytes, as ``plan.plans`` has it.

    Raises UsageError where they are hardly any.
    """
    slot = token_bytes(config) * precision.kv_item // 2
    slots = cache_bytes(config, precision.kind, int(memory)) // slot
    if slots < _FEWEST:
        raise UsageError(
            f"weights of {weight_bytes(config, precision.kind) / 2**30:.1f} GiB leave no cache in "
            f"{memory / 2**30:.1f} GiB: choose a larger card, --weights of fewer bits, or a smaller model"
        )
    return slots


def timed_engine(
    config: ModelConfig, timings: Timings, host: HostCost, precision: Precision, mixtures: Mapping[str, Mixture], *,
    adapters: int, rank: int, slots: int, settings: EngineSettings,
) -> tuple[Engine, Clock]:  # fmt: skip
    """Return an engine whose device only keeps time, and the device. Its tokens are all 0, and it has no texts.

    ``mixtures``: what requests may carry, by name; ``adapters`` of ``rank`` are loaded; ``slots``: of the cache.
    """
    limits = resolve_limits(settings, "cuda", config.max_seq_len)
    blocks = slots // settings.block_size + 1
    clock = Clock(config, timings, host, precision, limits, blocks, adapters, rank)
    model = unread_model(config, "timed")
    model.mixtures.update(mixtures)
    # The device has no logits to probe, so it is not all of a runner.
    return Engine(model, cast(Runner, clock), settings, limits), clock
