"""Runs steps on a CUDA device: the host prepares a step while the device works on the one before.

Nothing in ``start`` waits for the device. Tokens that the previous step is still sampling are taken from its output on
the device. The host waits in ``GpuStepHandle.wait`` only, once a step, for one copy of the whole output.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warmeng.engine.adapters import Adapter
from warmeng.engine.backend import NOT_FINITE, StepOutput
from warmeng.engine.cache import NULL_BLOCK
from warmeng.engine.checkpoint import Weights
from warmeng.engine.config import ModelConfig
from warmeng.engine.constraints import ConstraintCompiler
from warmeng.engine.gpu.batch import (
    HostBatch,
    LogitsInputs,
    StepInputs,
    device_batch,
    host_batch,
    logits_inputs,
    pack,
    packed_size,
    sampling_rows,
    unpack,
)
from warmeng.engine.gpu.graphs import DecodeGraphs
from warmeng.engine.gpu.lora import AdapterBank
from warmeng.engine.gpu.memory import Budget, plan_cache
from warmeng.engine.gpu.ops import GpuOps
from warmeng.engine.gpu.tiles import select_tiles
from warmeng.engine.layout import Ints, Layout, LogitsPlan, build_layout
from warmeng.engine.mixture import Mixture
from warmeng.engine.model import forward
from warmeng.engine.scheduler import Work
from warmeng.engine.sequence import Sequence
from warmeng.engine.settings import EngineLimits, EngineSettings
from warmeng.engine.vectors import Vector
from warmeng.kernels.gpu.along import along
from warmeng.kernels.gpu.sampling import log_normaliser, sample
from warmeng.kernels.sampling import top_tokens

# Rows whose logits are made at once: 0.5 GB at a vocabulary of 128,000.
_LOGIT_ROWS = 1024
# Rows whose likeliest tokens are looked for at once: as keys of 64 bits, 0.07 GB at that vocabulary.
_TOP_ROWS = 64


@dataclass(frozen=True)
class GpuStepHandle:
    """A step on its way through the device."""

    # int32, on the host once ``done``: tokens, then their log-probabilities, those of targets, and tokens' projections;
    # then the likeliest tokens of each place that asks for them, then their log-probabilities. Floats as bits.
    output: Tensor
    done: torch.cuda.Event | None
    logits_plan: LogitsPlan
    num_projected: int

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that it samples a token for."""
        return self.logits_plan.sampled

    def wait(self) -> StepOutput:
        """Wait for the device, and return what the step gives."""
        if self.done is not None:
            self.done.synchronize()
        output = self.output.numpy()
        plan, count = self.logits_plan, len(self.sampled)
        ends = np.cumsum([count, count, len(plan.targets), count * self.num_projected])
        tokens, *floats, tops = np.split(output, ends)
        logprobs, values, projections = (part.view(np.float32) for part in floats)
        # The sum over a row's logits is finite where all of them are; the device goes on with a token that exists.
        tokens = np.where(np.isfinite(logprobs), tokens, NOT_FINITE)
        targets = list(zip(plan.targets, values.tolist(), strict=True))
        by_token = projections.reshape(count, self.num_projected).tolist()
        ids, likeliest = tops.reshape(2, len(plan.tops), len(tops) // max(1, 2 * len(plan.tops)))
        pairs = zip(ids.tolist(), likeliest.view(np.float32).tolist(), strict=True)
        found = list(zip(plan.tops, (tuple(zip(*pair, strict=True)) for pair in pairs), strict=True))
        return StepOutput(tokens.tolist(), logprobs.tolist(), targets, by_token, found)


class GpuRunner:
    """The decoder with its cache on one device. On a CPU device the kernels are interpreted, without graphs."""

    overlap = 1
    copies = False

    def __init__(
        self, config: ModelConfig, weights: Weights, settings: EngineSettings, limits: EngineLimits, vocab_size: int
    ) -> None:
        """``vocab_size``: token ids of the tokenizer, others are never chosen."""
        self.config = config
        self.weights = weights
        self.block_size = settings.block_size
        self.vocab_size = min(vocab_size, config.vocab_size)
        self.device = weights.embed.device
        self.dtype = weights.embed.dtype
        self.fast = settings.fast
        self._group = config.num_heads // config.num_kv_heads
        self._cuda = self.device.type == "cuda"
        # Of keys and values.
        self._kept = torch.float8_e4m3fn if settings.kv_dtype == "fp8" else self.dtype
        tiles, attention_tiles = select_tiles(config, weights, self._kept, self.block_size, self.fast)
        self.bank = AdapterBank(config, self.dtype, self.device)
        self.ops = GpuOps(config, weights, self.bank, [], tiles, attention_tiles, limits.max_seq_len, self.fast)
        self._graphs: DecodeGraphs | None = None
        self._projected: list[Vector] = []
        # Tokens that the last step sampled.
        self._previous = torch.zeros(1, dtype=torch.int32, device=self.device)
        self.memory: Budget = plan_cache(self.ops, limits, self.block_size, self._kept.itemsize, self._rehearse)
        self.num_blocks = self.memory.num_blocks
        self.ops.cache = self._empty_cache(self.num_blocks)
        if self._cuda:
            self._graphs = DecodeGraphs(self.device, limits.max_num_seqs)

    @torch.inference_mode()
    def start(self, work: list[Work], compiler: ConstraintCompiler | None) -> GpuStepHandle:
        """Launch a step."""
        layout = build_layout(sorted(work, key=lambda item: item.sequence.adapter_key), self.block_size)
        plan = layout.logits_plan
        masks = None
        matchers = [matcher for sequence in plan.sampled if (matcher := sequence.matcher) is not None]
        if matchers:
            assert compiler is not None
            masks = compiler.masks(matchers)
        hidden, projections, inputs = self._hidden(layout, logits_inputs(plan, masks))
        top_count = min(plan.top_count, self.vocab_size)
        return self._send(self._read_out(hidden, projections, inputs, top_count), plan)

    @torch.inference_mode()
    def last_logits(self, work: Work) -> Tensor:
        """Return the logits after one sequence's last scheduled token, [vocab], on the host: for probes."""
        layout = build_layout([work], self.block_size)
        last_row = LogitsPlan(sample_rows=[len(layout.token_ids) - 1])
        hidden, _, _ = self._hidden(layout, logits_inputs(last_row))
        return self.ops.logits(hidden)[0].cpu()

    @torch.inference_mode()
    def sum_hidden(self, work: list[Work], weights: Tensor) -> Tensor:
        """Return weighted sums of the hidden states of sequences' scheduled tokens, on the host."""
        host = self._host_batch(build_layout(work, self.block_size))
        inputs = unpack(self._upload(pack(host.inputs)), host.inputs)
        there, count = weights.to(self.device), weights.shape[1]
        sums: list[Tensor] = []
        batch = device_batch(inputs, host.num_chunks, self.bank)
        forward(self.weights, self.ops, batch, lambda _, hidden: sums.append(there @ hidden[:count].float()))
        return torch.stack(sums, 1).cpu()

    def add_adapter(self, adapter: Adapter) -> None:
        """Stack an adapter beside the others, unless one of its content is there."""
        if adapter.hash not in self.bank.columns:
            self.bank.add(adapter)
            self._forget_graphs()

    def add_vector(self, vector: Vector) -> None:
        """Keep a steering vector on the device, unless one of its content is there."""
        if vector.hash not in self.bank.vectors:
            self.bank.add_vector(vector)
            self._forget_graphs()

    def project_onto(self, vectors: list[Vector]) -> None:
        """Give steps' projections onto the vectors' directions; [] none."""
        self._projected = [vector.to(self.device) for vector in vectors]
        self._forget_graphs()

    def add_mixture(self, mixture: Mixture) -> None:
        """Let sequences carry a mixture of adapters and vectors that are there."""
        if mixture.key not in self.bank.mixtures:
            self.bank.add_mixture(mixture)
            self._forget_graphs()

    def describe(self) -> dict[str, Any]:
        """Return what determines the numbers on this device."""
        about: dict[str, Any] = {
            "device": "cuda" if self._cuda else "interpret",
            "dtype": str(self.dtype).removeprefix("torch."),
            "products": "library" if self.fast else "fixed tiles",
            "tiles": {kind: [t.label for t in tiles] for kind, tiles in self.ops.tiles.items()},
            "attention": asdict(self.ops.tiling),
            "memory": self.memory.as_dict() | {"adapters": self.bank.num_bytes},
        }
        if self._cuda:
            about["machine"] = torch.cuda.get_device_name(self.device)
            about["cuda"] = torch.version.cuda
        return about

    def release_memory(self) -> None:
        """Give cached memory and graphs back to the device."""
        self._forget_graphs()
        if self._cuda:
            torch.cuda.empty_cache()

    def _forget_graphs(self) -> None:
        """Drop captured steps: they read tensors that are not the bank's any more."""
        if self._graphs is not None:
            self._graphs.clear()

    def _empty_cache(self, num_blocks: int) -> list[tuple[Tensor, Tensor]]:
        c = self.config
        shape = (num_blocks, c.num_kv_heads, self.block_size, c.head_dim)
        zeros = partial(torch.zeros, shape, dtype=self._kept, device=self.device)
        return [(zeros(), zeros()) for _ in range(c.num_layers)]

    @torch.inference_mode()
    def _rehearse(self, layout: Layout, logit_rows: int) -> None:
        """Run the largest step with a cache of one block, to see what memory it takes."""
        self.ops.cache = self._empty_cache(1)
        hidden, _, _ = self._hidden(layout, logits_inputs(LogitsPlan(sample_rows=[0] * logit_rows)))
        log_normaliser(self.ops.logits(hidden[:_LOGIT_ROWS]), self.vocab_size)

    def _hidden(self, layout: Layout, read: LogitsInputs[Ints]) -> tuple[Tensor, Tensor, LogitsInputs[Tensor]]:
        """Run the forward pass; returns the hidden states and projections of ``read.logit_rows``, and ``read`` on the
        device.
        """
        count = len(layout.token_ids)
        rows = None if self._graphs is None else self._graphs.rows_for(count)
        # A decoding step has one token of each sequence, and the logits of all are read in the order of the rows.
        decodes = len(layout.query_lens) == count and np.array_equal(read.logit_rows, np.arange(count))
        if self._graphs is not None and rows is not None and decodes:
            width = max(1, self.ops.tiling.chunk // self.block_size)
            longest = layout.block_tables.shape[1]
            host = self._host_batch(layout, rows=rows, table_width=-(-longest // width) * width)
            read_tensors = unpack(self._upload(pack(read)), read)
            ready = partial(self._fill_pending, host.has_pending)
            hidden, projections = self._graphs.run(host, self._forward, ready, partial(self._blank, host))
            return hidden[:count], projections[:count], read_tensors
        host = self._host_batch(layout)
        flat = self._upload(pack(host.inputs, read))
        inputs, read_tensors = unpack(flat, host.inputs), unpack(flat[packed_size(host.inputs) :], read)
        self._fill_pending(host.has_pending, inputs)
        hidden, projections = self._forward(inputs, host.num_chunks)
        kept = read_tensors.logit_rows
        return hidden.index_select(0, kept), projections.index_select(0, kept), read_tensors

    def _host_batch(self, layout: Layout, rows: int | None = None, table_width: int | None = None) -> HostBatch:
        return host_batch(
            layout, self.bank, self._group, self.ops.tiling, self.block_size, rows=rows, table_width=table_width
        )

    def _blank(self, like: HostBatch, rows: int) -> HostBatch:
        """Return a step of padding rows with the table's width, chunks and adapters of another."""
        width = like.inputs.block_tables.shape[1]
        key = "" if like.inputs.mixtures is None else next(key for key in self.bank.mixtures if key)
        one, table = np.ones(1, dtype=np.int32), np.full((1, 1), NULL_BLOCK, dtype=np.int32)
        blank = Layout(one * 0, one, one, np.zeros((1, 2), dtype=np.int32), table, [key], LogitsPlan())
        return replace(self._host_batch(blank, rows=rows, table_width=width), num_chunks=like.num_chunks)

    def _forward(self, inputs: StepInputs[Tensor], num_chunks: int) -> tuple[Tensor, Tensor]:
        """Return the hidden states, [rows, hidden], and the projections that are asked for, fp32 [rows, vectors]."""
        rows = inputs.token_ids.numel()
        projections = torch.empty(rows, len(self._projected), dtype=torch.float32, device=self.device)

        def watch(layer: int, hidden: Tensor) -> None:
            for column, vector in enumerate(self._projected):
                if vector.layer == layer:
                    projections[:, column] = along(hidden, vector.unit)

        batch = device_batch(inputs, num_chunks, self.bank)
        return forward(self.weights, self.ops, batch, watch if self._projected else None), projections

    def _fill_pending(self, has_pending: bool, inputs: StepInputs[Tensor]) -> None:
        """Put the previous step's samples where the host did not know the token."""
        if has_pending:
            sampled = self._previous.index_select(0, inputs.pending.clamp(min=0))
            inputs.token_ids.copy_(torch.where(inputs.pending < 0, inputs.token_ids, sampled))

    def _read_out(self, hidden: Tensor, projections: Tensor, inputs: LogitsInputs[Tensor], top_count: int) -> Tensor:
        """Sample tokens and read targets; returns the output as ``GpuStepHandle`` has it, on the device.

        The logits are made for some rows at a time.
        """
        tops = torch.zeros((2, len(inputs.top_rows), top_count), dtype=torch.int32, device=self.device)
        tokens: list[Tensor] = []
        logprobs: list[Tensor] = []
        num_sampled = len(inputs.sampling_ints)
        values = torch.zeros(len(inputs.target_rows), dtype=torch.float32, device=self.device)
        for first in range(0, len(hidden), _LOGIT_ROWS):
            logits = self.ops.logits(hidden[first : first + _LOGIT_ROWS])
            count = max(0, min(num_sampled - first, len(logits)))
            if count:
                drawn = sampling_rows(inputs, slice(first, first + count))
                some_tokens, some_logprobs = sample(logits[:count], drawn, self.vocab_size)
                tokens.append(some_tokens)
                logprobs.append(some_logprobs)
            if count < len(logits):
                values = self._read_targets(logits, inputs.target_rows + (num_sampled - first), inputs, values)
                for some in range(0, len(inputs.top_rows), _TOP_ROWS):
                    part = slice(some, some + _TOP_ROWS)
                    rows = inputs.top_rows[part] + (num_sampled - first)
                    tops[:, part] = self._read_tops(logits, rows, tops[:, part])
            # Else two sets of logits are alive while the next ones are made.
            del logits
        if tokens:
            self._previous = torch.cat(tokens)
        floats = [*logprobs, values, projections[:num_sampled].reshape(-1)]
        return torch.cat([*tokens, *(part.view(torch.int32) for part in floats), tops.flatten()])

    def _read_targets(self, logits: Tensor, rows: Tensor, inputs: LogitsInputs[Tensor], values: Tensor) -> Tensor:
        """Return ``values`` with the log-probabilities of those targets whose ``rows`` are among these logits."""
        here = rows.clamp(0, len(logits) - 1)
        read = logits[here, inputs.target_tokens] - log_normaliser(logits, self.vocab_size)[here]
        return torch.where(rows == here, read, values)

    def _read_tops(self, logits: Tensor, rows: Tensor, tops: Tensor) -> Tensor:
        """Return ``tops`` with the likeliest tokens and their log-probabilities of those ``rows`` that are here."""
        here = rows.clamp(0, len(logits) - 1)
        likeliest, read = top_tokens(logits[here][:, : self.vocab_size].float(), tops.shape[2])
        read -= log_normaliser(logits, self.vocab_size)[here][:, None]
        found = torch.stack([likeliest.to(torch.int32), read.view(torch.int32)])
        return torch.where((rows == here)[None, :, None], found, tops)

    def _upload(self, flat: Ints) -> Tensor:
        host = torch.from_numpy(flat)
        if self._cuda:
            host = host.pin_memory()
        return host.to(self.device, non_blocking=True)

    def _send(self, output: Tensor, plan: LogitsPlan) -> GpuStepHandle:
        """Start the copy of the output to the host."""
        if not self._cuda:
            return GpuStepHandle(output, None, plan, len(self._projected))
        host = torch.empty(output.shape, dtype=torch.int32, pin_memory=True)
        host.copy_(output, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        return GpuStepHandle(host, done, plan, len(self._projected))
