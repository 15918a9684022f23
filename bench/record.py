"""What the workload's bench is asked for and what it writes down."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from warmeng.engine.prediction.card import Roofline
from warmeng.engine.settings import EngineSettings


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


@dataclass(frozen=True)
class Run:
    """One mix of personas in one mode."""

    mode: str  # "deterministic" or "fast"
    mix: str  # "personas" or "base"
    batch: int  # sequences at once, at most
    requests: int
    tokens: int
    # Output tokens a second, one for each repetition.
    rates: list[float]
    steps: int  # of the last repetition
    floor_seconds: float
    share: float  # floor over the median time
    # Steps of all repetitions that ran out of memory. With any, the rates are those of smaller steps.
    oom_steps: int = 0

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
    # Output tokens a second at the two ceilings.
    predicted_rate: float
    runs: list[Run] = field(default_factory=list)
    # Runs of the base, by the number of requests given at once.
    curve: list[Run] = field(default_factory=list)
    engine: dict[str, Any] = field(default_factory=dict)
    hf_by_batch: dict[int, float | str] = field(default_factory=dict)
    hf_batch: int | None = None  # the best
    hf_continuous: float | str | None = None
    hf_continuous_name: str | None = None
    # Personas over the best of HF's; None where HF was not tried at its usual best.
    ratio: float | None = None
    left_out: list[str] = field(default_factory=list)  # each with its reason
    # Modes that an error ended; ``left_out`` has their reasons.
    failed: list[str] = field(default_factory=list)
