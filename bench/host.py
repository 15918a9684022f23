"""The host's part of a step, measured: schedule, layout, packing and settling, with the device's work left out.

Seconds are CPU time of the one thread that does it, so that other processes count less. They are given beside a fixed
loop of the same kind of work, timed between the steps: ratios compare across machines and busy hours, seconds don't.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from warmeng.bench.lengths import read_lengths
from warmeng.bench.workload import PERSONAS, prompts
from warmeng.engine.config import ModelConfig
from warmeng.engine.constraints import ConstraintCompiler
from warmeng.engine.engine import Engine
from warmeng.engine.gpu.batch import HostBatch, LogitsInputs, StepInputs, pack, unpack
from warmeng.engine.gpu.graphs import DecodeGraphs
from warmeng.engine.gpu.ops import DeviceWeight
from warmeng.engine.gpu.runner import GpuRunner, GpuStepHandle
from warmeng.engine.gpu.sizes import GRAPH_SIZES
from warmeng.engine.prediction.card import HostCost
from warmeng.engine.random import random_adapter, random_weights
from warmeng.engine.request import GenerateRequest, SamplingParams
from warmeng.engine.scheduler import Work
from warmeng.engine.settings import EngineLimits, EngineSettings
from warmeng.engine.shapes import shape_config
from warmeng.engine.testing import unread_model

# ``min_admit``, as on a card.
_ADMIT = 32
# Cache slots for each sequence: more than any of the workload takes, so that none waits for blocks.
_SLOTS = 768
# Steps between two timings of the yardstick.
_BETWEEN = 8


@dataclass(frozen=True)
class HostResult:
    """What the host's part takes with this many sequences. Medians of CPU seconds."""

    sequences: int
    adapters: int
    temperature: float
    # A step in which all sequences decode, with 32 free places at most.
    decode: float
    # A step that computes prompts too, up to the budget of tokens.
    mixed: float
    mixed_rows: int
    yardstick: float
    cost: HostCost

    @property
    def ratio(self) -> float:
        """Yardsticks that a decoding step takes."""
        return self.decode / self.yardstick


class _Inputs:
    """In place of the captured graphs: fills their inputs and replays nothing."""

    def __init__(self, hidden_size: int) -> None:
        self._hidden_size = hidden_size
        self._buffers: dict[int, Tensor] = {}

    def clear(self) -> None:
        """Nothing is captured."""

    def rows_for(self, count: int) -> int | None:
        """Return the rows of the graph that a card would replay."""
        return next((size for size in GRAPH_SIZES if size >= count), None)

    def run(
        self, host: HostBatch, forward: object, ready: Callable[[StepInputs[Tensor]], None], blank: object
    ) -> tuple[Tensor, Tensor]:
        """Do what the host does for a replay."""
        flat = pack(host.inputs)
        buffer = self._buffers.setdefault(len(flat), torch.empty(len(flat), dtype=torch.int32))
        buffer.copy_(torch.from_numpy(flat))
        inputs = unpack(buffer, host.inputs)
        ready(inputs)
        rows = inputs.token_ids.numel()
        return torch.zeros(rows, self._hidden_size), torch.zeros(rows, 0)


class _Idle(GpuRunner):
    """The runner of a card, on the CPU, without the device's work: every token is 1."""

    def __init__(self, config: ModelConfig, settings: EngineSettings, limits: EngineLimits) -> None:
        weights = random_weights(config, 0, torch.float32, torch.device("cpu"), DeviceWeight)
        super().__init__(config, weights, settings, limits, config.vocab_size)
        self._graphs = cast(DecodeGraphs, _Inputs(config.hidden_size))
        # Sequences and rows of the last step.
        self.size = 0, 0

    def start(self, work: list[Work], compiler: ConstraintCompiler | None) -> GpuStepHandle:
        """Prepare a step and note its size."""
        self.size = len(work), sum(item.num_scheduled_tokens for item in work)
        return super().start(work, compiler)

    def _forward(self, inputs: StepInputs[Tensor], num_chunks: int) -> tuple[Tensor, Tensor]:
        rows = inputs.token_ids.numel()
        return torch.zeros(rows, self.config.hidden_size), torch.zeros(rows, 0)

    def _read_out(self, hidden: Tensor, projections: Tensor, inputs: LogitsInputs[Tensor], top_count: int) -> Tensor:
        samples = len(inputs.sampling_ints)
        targets = len(inputs.target_rows) + 2 * len(inputs.top_rows) * top_count
        self._previous = torch.ones(max(samples, 1), dtype=torch.int32)
        values = torch.zeros(samples + targets, dtype=torch.int32)
        return torch.cat([self._previous[:samples], values])


def yardstick() -> float:
    """Return the CPU seconds of a fixed loop: small NumPy calls, and lists of Python numbers."""
    began = time.thread_time()
    numbers = np.arange(4096, dtype=np.int64)
    found: list[int] = []
    for _ in range(200):
        found.extend((numbers // 16 * 16 + numbers % 16)[:256].tolist())
    return time.thread_time() - began


def measure_host(
    sequences: int,
    *,
    adapters: int = 2,
    temperature: float = 0.8,
    requests: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> HostResult:
    """Run the workload's lengths through an engine whose device does nothing, with up to ``sequences`` at once.

    ``requests``: 0 takes twice as many as there are sequences.
    """
    say(f"{sequences} sequences")
    small = {
        "num_layers": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 4, "num_kv_heads": 1, "head_dim": 16,
        "vocab_size": 1024,
    }  # fmt: skip
    config = replace(shape_config("llama-3.1-8b"), **small)  # type: ignore[arg-type]
    slot = 2 * config.head_dim * 4
    limits = EngineLimits(sequences, max(4096, 2 * sequences), sequences * _SLOTS * slot, 8192, _ADMIT)
    settings = EngineSettings()
    runner = _Idle(config, settings, limits)
    engine = Engine(unread_model(config, "idle"), runner, settings, limits)
    names: list[str | None] = [None, *PERSONAS[:adapters]]
    for number, name in enumerate(PERSONAS[:adapters]):
        engine.add_adapter(name, random_adapter(config, 8, number))
    lengths = read_lengths(requests or 2 * sequences)
    for i, (text, x) in enumerate(zip(prompts(lengths, config.vocab_size), lengths, strict=True)):
        params = SamplingParams(max_new_tokens=x.answer, ignore_eos=True, temperature=temperature)
        engine.add(GenerateRequest(str(i), text, params, names[i % len(names)], (str(i), 0)))
    gc.collect()
    steps: list[tuple[int, int, float]] = []
    yardsticks: list[float] = []
    while engine.busy:
        # The last step launches nothing.
        runner.size = 0, 0
        began = time.thread_time()
        engine.step()
        steps.append((*runner.size, time.thread_time() - began))
        if len(steps) % _BETWEEN == 0:
            yardsticks.append(yardstick())
    decode = [s for count, rows, s in steps if rows == count >= sequences - _ADMIT]
    mixed = [(rows, s) for count, rows, s in steps if rows > 1.5 * sequences]
    table = np.array([(1.0, count, rows) for count, rows, _ in steps])
    fitted, *_ = np.linalg.lstsq(table, np.array([s for *_, s in steps]), rcond=None)
    return HostResult(
        sequences, adapters, temperature, statistics.median(decode), statistics.median(s for _, s in mixed),
        round(statistics.median(rows for rows, _ in mixed)), statistics.median(yardsticks),
        HostCost(*(max(0.0, float(value)) for value in fitted)),
    )  # fmt: skip
