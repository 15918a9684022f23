"""Runs steps on the CPU: forward pass, log-probabilities that were asked for, and the choice of the next tokens."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warmeng.engine.adapters import Adapter
from warmeng.engine.backend import NOT_FINITE, StepOutput
from warmeng.engine.checkpoint import Weights
from warmeng.engine.config import ModelConfig
from warmeng.engine.constraints import ConstraintCompiler, unpack
from warmeng.engine.cpu.batch import Batch, build_batch
from warmeng.engine.cpu.lora import LaidOutAdapters
from warmeng.engine.cpu.ops import CpuOps, LayerCache
from warmeng.engine.cpu.pace import Pace
from warmeng.engine.layout import Layout, LogitsPlan, LogprobTarget, TopTarget, build_layout, sampling_records
from warmeng.engine.mixture import Mixture
from warmeng.engine.model import forward, rotation
from warmeng.engine.request import GenerateRequest, SamplingParams, TopLogprobs
from warmeng.engine.scheduler import Work
from warmeng.engine.sequence import Sequence
from warmeng.engine.vectors import Vector
from warmeng.kernels.along import along
from warmeng.kernels.arrangement import Arrangement
from warmeng.kernels.sampling import Noise, argmax, gumbel_argmax, keep_top, log_normaliser, top_tokens
from warmeng.kernels.threads import compile_all

# Rows whose logits are made at once, which bounds their memory.
_LOGIT_ROWS = 96


@dataclass(frozen=True)
class CpuStepHandle:
    """A step that ran when it was launched."""

    sampled: list[Sequence]
    output: StepOutput

    def wait(self) -> StepOutput:
        """Return what the step gave."""
        return self.output


class CpuRunner:
    """The decoder with its cache on the CPU."""

    overlap = 0
    copies = True

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        arrangement: Arrangement,
        num_blocks: int,
        block_size: int,
        max_seq_len: int,
        vocab_size: int,
        kv_fp8: bool = False,
        adapt_threads: bool = False,
    ) -> None:
        """``arrangement``: how the weights are laid out; ``vocab_size``: token ids of the tokenizer, others masked.

        ``adapt_threads``: see ``Pace``.
        """
        self.config = config
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.vocab_size = min(vocab_size, config.vocab_size)
        self.arrangement = arrangement
        self._rotation = rotation(config, max_seq_len)
        shape = (num_blocks, config.num_kv_heads)
        # Takes memory page by page as it is first written.
        kept = arrangement.dtype
        k, v = (*shape, config.head_dim, block_size), (*shape, block_size, config.head_dim)
        cache = [LayerCache(torch.empty(k, dtype=kept), torch.empty(v, dtype=kept)) for _ in range(config.num_layers)]
        self.ops = CpuOps(config, weights, cache, kv_fp8)
        compile_all()
        self.threads = torch.get_num_threads()
        self._pace = Pace() if adapt_threads else None
        self._adapters = LaidOutAdapters()
        # By key.
        self.mixtures: dict[str, Mixture] = {}
        self._projected: list[Vector] = []

    @torch.inference_mode()
    def start(self, work: list[Work], compiler: ConstraintCompiler | None) -> CpuStepHandle:
        """Run one step."""
        with self._pace.step() if self._pace is not None else nullcontext():
            return self._run(work, compiler)

    def _run(self, work: list[Work], compiler: ConstraintCompiler | None) -> CpuStepHandle:
        # Rows that carry one adapter follow each other, so that few tiles of a product have several.
        layout = build_layout(sorted(work, key=lambda one: one.sequence.adapter_key), self.block_size)
        plan = layout.logits_plan
        rows = torch.tensor(plan.sample_rows, dtype=torch.int64)
        projections = torch.empty(len(rows), len(self._projected))

        def watch(layer: int, hidden: Tensor) -> None:
            for column, vector in enumerate(self._projected):
                if vector.layer == layer:
                    projections[:, column] = along(hidden.index_select(0, rows), vector.unit)

        batch = self._batch(layout)
        with self._pace.measured() if self._pace is not None else nullcontext():
            hidden = forward(self.ops.weights, self.ops, batch, watch if self._projected else None)
        tokens, logprobs = self._sample(hidden, plan, compiler)
        targets, tops = self._read_targets(hidden, plan)
        return CpuStepHandle(plan.sampled, StepOutput(tokens, logprobs, targets, projections.tolist(), tops))

    @torch.inference_mode()
    def last_logits(self, work: Work) -> Tensor:
        """Return the logits after one sequence's last scheduled token, [vocab]: for probes."""
        batch = self._batch(build_layout([work], self.block_size))
        hidden = forward(self.ops.weights, self.ops, batch)
        return self._logits(hidden, [len(hidden) - 1])[0]

    @torch.inference_mode()
    def sum_hidden(self, work: list[Work], weights: Tensor) -> Tensor:
        """Return weighted sums of the hidden states of sequences' scheduled tokens."""
        batch = self._batch(build_layout(work, self.block_size))
        sums: list[Tensor] = []
        forward(self.ops.weights, self.ops, batch, lambda _, hidden: sums.append(weights @ hidden))
        return torch.stack(sums, 1)

    def add_adapter(self, adapter: Adapter) -> None:
        """Lay an adapter out, unless one of its content is there."""
        self._adapters.add(adapter, self.config)

    def add_vector(self, vector: Vector) -> None:
        """Keep a steering vector."""
        self.ops.vectors[vector.hash] = vector

    def project_onto(self, vectors: list[Vector]) -> None:
        """Give steps' projections onto the vectors' directions; [] none."""
        self._projected = vectors

    def add_mixture(self, mixture: Mixture) -> None:
        """Let sequences carry a mixture of adapters and vectors that are there."""
        self.mixtures[mixture.key] = mixture

    def describe(self) -> dict[str, Any]:
        """Return what determines the numbers on this device."""
        return {
            "device": "cpu",
            "dtype": str(self.arrangement.dtype).removeprefix("torch."),
            "threads": self.threads,
            "products": self.arrangement.name,
        }

    def release_memory(self) -> None:
        """Nothing is held for later."""

    def _batch(self, layout: Layout) -> Batch:
        return build_batch(layout, self.block_size, self._rotation, self.mixtures, self._adapters)

    def _logits(self, hidden: Tensor, rows: Seq[int]) -> Tensor:
        logits = self.ops.logits(hidden.index_select(0, torch.tensor(rows)))
        logits[:, self.vocab_size :] = -torch.inf
        return logits

    def _read_targets(
        self, hidden: Tensor, plan: LogitsPlan
    ) -> tuple[list[tuple[LogprobTarget, float]], list[tuple[TopTarget, TopLogprobs]]]:
        """Return each target with its log-probability, and each place with those of its likeliest tokens."""
        rows = plan.target_rows
        read: list[tuple[LogprobTarget, float]] = []
        tops: list[tuple[TopTarget, TopLogprobs]] = []
        by_row: dict[int, list[LogprobTarget]] = {}
        for target in plan.targets:
            by_row.setdefault(target.row, []).append(target)
        top_of = {top.row: top for top in plan.tops}
        for start in range(0, len(rows), _LOGIT_ROWS):
            chunk = rows[start : start + _LOGIT_ROWS]
            logits = self._logits(hidden, chunk)
            normaliser = log_normaliser(logits)
            flat = [(i, target) for i, row in enumerate(chunk) for target in by_row.get(row, ())]
            index = torch.tensor([i for i, _ in flat], dtype=torch.int64)
            ids = torch.tensor([t.token for _, t in flat], dtype=torch.int64)
            values = logits[index, ids] - normaliser[index]
            read.extend(zip([t for _, t in flat], values.tolist(), strict=True))
            asked = [(i, top_of[row]) for i, row in enumerate(chunk) if row in top_of]
            if asked:
                index = torch.tensor([i for i, _ in asked])
                likeliest, values = top_tokens(logits[index], min(plan.top_count, self.vocab_size))
                pairs = zip(likeliest.tolist(), (values - normaliser[index][:, None]).tolist(), strict=True)
                found = (tuple(zip(*pair, strict=True)) for pair in pairs)
                tops.extend(zip([top for _, top in asked], found, strict=True))
        return read, tops

    def _sample(
        self, hidden: Tensor, plan: LogitsPlan, compiler: ConstraintCompiler | None
    ) -> tuple[list[int], list[float]]:
        """Return the sampled tokens and their log-probabilities, NaN where not asked for."""
        tokens: list[int] = []
        logprobs: list[float] = []
        for start in range(0, len(plan.sampled), _LOGIT_ROWS):
            sequences = plan.sampled[start : start + _LOGIT_ROWS]
            logits = self._logits(hidden, plan.sample_rows[start : start + _LOGIT_ROWS])
            chosen = self._choose_tokens(logits, sequences, compiler)
            tokens += chosen.tolist()
            logprobs += _chosen_logprobs(logits, chosen, sequences)
        return tokens, logprobs

    def _choose_tokens(self, logits: Tensor, sequences: list[Sequence], compiler: ConstraintCompiler | None) -> Tensor:
        """Return the next token of each row, or ``NOT_FINITE``. logits [rows, vocab] are left as they are."""
        constrained = [i for i, s in enumerate(sequences) if s.matcher is not None]
        if constrained:
            assert compiler is not None
            bits = compiler.masks([m for s in sequences if (m := s.matcher) is not None])
            logits = logits.clone()
            allowed = unpack(bits)[:, : self.config.vocab_size]
            logits[constrained] = logits[constrained].masked_fill(~allowed, -torch.inf)
        records, places = sampling_records(sequences)
        drawn = np.flatnonzero(records["temperature"] > 0)
        if not len(drawn):
            return _largest(logits)
        tokens = torch.empty(len(sequences), dtype=torch.int64)
        greedy = np.flatnonzero(records["temperature"] == 0)
        if len(greedy):
            tokens[greedy] = _largest(logits[greedy])
        some, rows = records[drawn], logits[drawn]
        finite = rows.amax(-1).isfinite()
        if not bool(finite.all()):
            rows = rows.masked_fill(~finite[:, None], 0.0)
        scaled = rows / torch.from_numpy(some["temperature"].copy())[:, None]
        top_k = torch.from_numpy(some["top_k"].astype(np.int64))
        scaled = keep_top(scaled, top_k, torch.from_numpy(some["top_p"].copy()))
        noise = Noise(some["seed"], some["item"], some["sample"], places[drawn])
        tokens[drawn] = gumbel_argmax(scaled, noise).where(finite, NOT_FINITE)
        return tokens


def _largest(logits: Tensor) -> Tensor:
    """The largest token of each row; ``NOT_FINITE`` where that is NaN, which is larger than any number, or infinite."""
    tokens = argmax(logits)
    return tokens.where(logits.gather(1, tokens[:, None])[:, 0].isfinite(), NOT_FINITE)


def _params(sequence: Sequence) -> SamplingParams:
    assert isinstance(sequence.request, GenerateRequest)
    return sequence.request.sampling


def _chosen_logprobs(logits: Tensor, tokens: Tensor, sequences: list[Sequence]) -> list[float]:
    asked = [i for i, s in enumerate(sequences) if _params(s).logprobs]
    values = [float("nan")] * len(sequences)
    if asked:
        rows = torch.tensor(asked)
        some = logits if len(asked) == len(sequences) else logits[rows]
        found = some.gather(1, tokens[rows].clamp(min=0)[:, None])[:, 0] - log_normaliser(some)
        for i, value in zip(asked, found.tolist(), strict=True):
            values[i] = value
    return values
