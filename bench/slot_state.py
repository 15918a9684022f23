"""What the stages of one call on a card share: the time left, one set of random weights, engines and requests."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from warmeng.bench.lengths import Lengths, read_lengths
from warmeng.bench.workload import PERSONAS, make_requests, prompts
from warmeng.engine.checkpoint import Weights
from warmeng.engine.config import ModelConfig
from warmeng.engine.engine import Engine
from warmeng.engine.gpu.ops import DeviceWeight
from warmeng.engine.prediction.card import NOMINAL_H100, Roofline
from warmeng.engine.random import random_adapter, random_weights
from warmeng.engine.request import GenerateRequest, SamplingParams
from warmeng.engine.settings import AUTO, EngineSettings
from warmeng.engine.testing import random_engine


@dataclass
class Slot:
    """What all stages share."""

    folder: Path
    device: str
    shape: str
    tiny: bool
    deadline: float
    config: ModelConfig
    roofline: Roofline = NOMINAL_H100
    weights: Weights | None = None
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def where(self) -> torch.device:
        """The device tensors are made on."""
        return torch.device("cuda" if self.device == "cuda" else "cpu")

    def say(self, line: str) -> None:
        """Print a line with the seconds that are left."""
        print(f"[{self.deadline - time.monotonic():6.1f} s left] {line}", flush=True)

    def wait(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def count(self, many: int) -> int:
        """Return how many requests stand for ``many``."""
        return min(many, 3) if self.tiny else many

    def lengths(self, many: int) -> list[Lengths]:
        """Return committed lengths; short ones in a rehearsal."""
        found = read_lengths(self.count(many))
        return [Lengths(min(x.prompt, 12), min(x.answer, 2)) for x in found] if self.tiny else found

    def engine(
        self, fast: bool = False, most: int | None = None, adapters: int = 2, block: int = 16, weights: str = AUTO,
        kv_dtype: str = AUTO,
    ) -> Engine:  # fmt: skip
        """Make an engine on the shared weights, with random adapters and cache blocks of ``block`` slots.

        ``weights``: rounded ones of another kind, which it has for itself.
        """
        small: dict[str, Any] = {"kv_bytes": 4 * 2**20, "max_batched_tokens": 64} if self.tiny else {}
        settings = EngineSettings(
            fast=fast, max_num_seqs=most, block_size=block, weights=weights, kv_dtype=kv_dtype, **small
        )
        base = self.base() if weights == AUTO else None
        engine = random_engine(self.config, device=self.device, settings=settings, weights=base)
        for i, name in enumerate(PERSONAS[:adapters]):
            engine.add_adapter(name, random_adapter(self.config, 8, i + 1))
        return engine

    def base(self) -> Weights:
        """Return the random weights that all engines share."""
        if self.weights is None:
            dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
            self.weights = random_weights(self.config, 0, dtype, self.where, DeviceWeight)
        return self.weights

    def free(self) -> None:
        """Give memory back to the device."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def asked(self, many: int, personas: int, temperature: float, first: int = 0) -> list[GenerateRequest]:
        """Return requests of the workload that carry the personas in turn."""
        lengths = self.lengths(first + many)[first:]
        names = [None, *PERSONAS[: personas - 1]]
        found = make_requests(prompts(lengths, self.config.vocab_size, first), lengths, names)
        if not temperature:
            return found
        drawn = [
            SamplingParams(max_new_tokens=r.sampling.max_new_tokens, temperature=temperature, ignore_eos=True)
            for r in found
        ]
        return [GenerateRequest(r.id, r.prompt, p, r.adapter) for r, p in zip(found, drawn, strict=True)]
