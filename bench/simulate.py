"""A run by prediction: the engine's loop and scheduler on the committed lengths, on a card that only keeps time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmeng.bench.card import read_timings
from warmeng.bench.host import measure_host
from warmeng.bench.lengths import Lengths, read_lengths
from warmeng.bench.workload import PERSONAS, make_requests, prompts
from warmeng.engine.config import ModelConfig
from warmeng.engine.mixture import Mixture
from warmeng.engine.prediction.card import CARDS, HostCost, Timings
from warmeng.engine.prediction.clock import Precision, cache_slots, timed_engine
from warmeng.engine.settings import EngineSettings
from warmeng.engine.shapes import shape_config


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
    slots = slots or cache_slots(config, timings.memory, Precision())
    adapters = PERSONAS[: personas - 1]
    engine, device = timed_engine(
        config, timings, host, Precision(), {name: Mixture(((name, 1.0),)) for name in adapters},
        adapters=len(adapters), rank=rank, slots=slots, settings=EngineSettings(max_num_seqs=max_num_seqs),
    )  # fmt: skip
    results = engine.generate(make_requests(prompts(lengths, config.vocab_size), lengths, [None, *adapters]))
    return Simulated(
        shape, len(adapters), device.max_num_seqs, slots, len(lengths), sum(len(r.token_ids) for r in results),
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
