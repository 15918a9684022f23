"""Runs steps on a CUDA device: the host prepares a step while the device works on the one before.

Nothing in ``start`` waits for the device. Tokens that the previous step is still choosing are taken from its output
where they lie; ``Step.wait`` is the only place where the host waits, once a step, for one copy of all outcomes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warmeng.engine.adapters import Adapter
from warmeng.engine.backend import Outcome
from warmeng.engine.cache import NULL_BLOCK
from warmeng.engine.checkpoint import Weights, projection_shapes
from warmeng.engine.config import ModelConfig
from warmeng.engine.constraints import ConstraintCompiler
from warmeng.engine.gpu.batch import (
    HostBatch,
    device_batch,
    host_batch,
    pack,
    sampling_arrays,
    sampling_rows,
    unpack,
)  # fmt: skip
from warmeng.engine.gpu.graphs import DecodeGraphs
from warmeng.engine.gpu.lora import AdapterBank
from warmeng.engine.gpu.memory import Budget, plan_cache
from warmeng.engine.gpu.ops import GpuOps
from warmeng.engine.layout import Ints, Layout, Target, Wanted, lay_out
from warmeng.engine.model import forward
from warmeng.engine.scheduler import Work
from warmeng.engine.sequence import Sequence
from warmeng.engine.settings import EngineSettings, Limits
from warmeng.kernels.gpu.attention import tiling
from warmeng.kernels.gpu.invariance import agreeing_tiles, agreeing_tiling, check_norm, fitting_tiles
from warmeng.kernels.gpu.matmul import TILES, Tile, tiles_for
from warmeng.kernels.gpu.sampling import SamplingRows, choose, log_normaliser

_LOGIT_ROWS = 1024  # at once: bounds the logits in memory, 0.5 GB at a vocabulary of 128,000


@dataclass(frozen=True)
class Step:
    """A step on its way through the device."""

    outcome: Tensor  # int32, on the host once ``done``: tokens, then their log-probabilities, then targets' (as bits)
    done: torch.cuda.Event | None
    wanted: Wanted

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that it chooses a token for."""
        return self.wanted.sampled

    def wait(self) -> Outcome:
        """Return what the step found, when the device has."""
        if self.done is not None:
            self.done.synchronize()
        found = self.outcome.numpy()
        count = len(self.wanted.sampled)
        tokens, values = found[:count].tolist(), found[count:].view(np.float32).tolist()
        return Outcome(tokens, values[:count], list(zip(self.wanted.targets, values[count:], strict=True)))


class GpuRunner:
    """The decoder with its cache on one device. On a CPU device the kernels are interpreted, without graphs."""

    overlap = 1

    def __init__(
        self, config: ModelConfig, weights: Weights, settings: EngineSettings, within: Limits, vocab_size: int
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
        major, minor = torch.cuda.get_device_capability(self.device) if self._cuda else (9, 0)
        tiles: tuple[Tile, ...] = TILES
        if self._cuda:
            tiles = fitting_tiles(self.dtype, self.device, tiles_for(10 * major + minor))
        cuts = tiling(config.head_dim, self.fast, 10 * major + minor)
        if self._cuda and not self.fast:
            tiles = agreeing_tiles(list(projection_shapes(config).values()), self.dtype, self.device, tiles)
            sizes = (config.num_heads, config.num_kv_heads, config.head_dim, self.block_size)
            cuts = agreeing_tiling(cuts, *sizes, self.dtype, self.device)
            check_norm(config.hidden_size, self.dtype, self.device)
        self.bank = AdapterBank(config, self.dtype, self.device)
        self.ops = GpuOps(config, weights, self.bank, [], tiles, cuts, within.max_seq_len, self.fast)
        self._graphs: DecodeGraphs | None = None
        self._previous = torch.zeros(1, dtype=torch.int32, device=self.device)  # tokens that the last step chose
        self.memory: Budget = plan_cache(self.ops, within, self.block_size, self._rehearse)
        self.num_blocks = self.memory.num_blocks
        self.ops.cache = self._empty_cache(self.num_blocks)
        if self._cuda:
            self._graphs = DecodeGraphs(self.device, within.max_num_seqs)

    @torch.inference_mode()
    def start(self, work: list[Work], compiler: ConstraintCompiler | None) -> Step:
        """Start a step."""
        layout = lay_out(sorted(work, key=lambda item: item.sequence.adapter_hash), self.block_size)
        wanted = layout.wanted
        sampled = wanted.sampled
        constrained = [i for i, sequence in enumerate(sampled) if sequence.matcher is not None]
        extra = sampling_arrays(sampled, {place: row for row, place in enumerate(constrained)})
        if constrained:
            assert compiler is not None
            masks = compiler.masks([m for s in sampled if (m := s.matcher) is not None])
            extra["masks"] = masks.numpy()
        target_rows = sorted({target.row for target in wanted.targets})
        extra["logit_rows"] = np.array(wanted.sample_rows + target_rows, dtype=np.int32)
        extra |= _target_arrays(wanted.targets, target_rows)
        hidden, views = self._hidden(layout, extra)
        outcome = self._choose(hidden, views, len(sampled), len(wanted.targets))
        return self._send(outcome, wanted)

    @torch.inference_mode()
    def last_logits(self, work: Work) -> Tensor:
        """Return the logits after one sequence's last scheduled token, [vocab], on the host: for probes."""
        layout = lay_out([work], self.block_size)
        rows = np.asarray([len(layout.token_ids) - 1], dtype=np.int32)
        hidden, _ = self._hidden(layout, {"logit_rows": rows})
        return self.ops.logits(hidden)[0].cpu()

    def add_adapter(self, adapter: Adapter) -> None:
        """Stack an adapter beside the others, unless one of its content is there."""
        if adapter.hash not in self.bank.numbers:
            self.bank.add(adapter)
            if self._graphs is not None:
                self._graphs.clear()

    def describe(self) -> dict[str, Any]:
        """Return what determines the numbers on this device."""
        about: dict[str, Any] = {
            "device": "cuda" if self._cuda else "interpret",
            "dtype": str(self.dtype).removeprefix("torch."),
            "products": "library" if self.fast else "fixed tiles",
            "tiles": [t.label for t in self.ops.tiles],
            "attention": asdict(self.ops.tiling),
            "memory": self.memory.as_dict() | {"adapters": self.bank.num_bytes},
        }
        if self._cuda:
            about["machine"] = torch.cuda.get_device_name(self.device)
            about["cuda"] = torch.version.cuda
        return about

    def release_memory(self) -> None:
        """Give cached memory and graphs back to the device."""
        if self._graphs is not None:
            self._graphs.clear()
            torch.cuda.empty_cache()

    def _empty_cache(self, num_blocks: int) -> list[tuple[Tensor, Tensor]]:
        c = self.config
        shape = (num_blocks, c.num_kv_heads, self.block_size, c.head_dim)
        zeros = partial(torch.zeros, shape, dtype=self.dtype, device=self.device)
        return [(zeros(), zeros()) for _ in range(c.num_layers)]

    @torch.inference_mode()
    def _rehearse(self, layout: Layout, logit_rows: int) -> None:
        """Run the largest step with a cache of one block, to see what memory it takes."""
        self.ops.cache = self._empty_cache(1)
        rows = np.zeros(logit_rows, dtype=np.int32)
        hidden, _ = self._hidden(layout, {"logit_rows": rows})
        log_normaliser(self.ops.logits(hidden[:_LOGIT_ROWS]), self.vocab_size)

    def _hidden(self, layout: Layout, extra: dict[str, Ints]) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the forward pass; returns the hidden states whose logits are asked for, and the arrays on the device."""
        count = len(layout.token_ids)
        rows = None if self._graphs is None else self._graphs.rows_for(count)
        # One token of each sequence, all of them read, in the order of the rows.
        decodes = len(layout.query_lens) == count and np.array_equal(extra["logit_rows"], np.arange(count))
        if self._graphs is not None and rows is not None and decodes:
            width = max(1, self.ops.tiling.chunk // self.block_size)
            longest = layout.block_tables.shape[1]
            host = self._host(layout, rows=rows, table_width=-(-longest // width) * width)
            views = self._upload(extra)
            blank = partial(self._blank, host)
            hidden = self._graphs.run(host, self._forward, lambda v: self._fill_in(v, host), blank)
            return hidden[:count], views
        host = self._host(layout)
        views = self._upload(dict(host.arrays) | extra)
        self._fill_in(views, host)
        return self._forward(views, host).index_select(0, views["logit_rows"]), views

    def _host(self, layout: Layout, rows: int | None = None, table_width: int | None = None) -> HostBatch:
        return host_batch(
            layout, self.bank, self._group, self.ops.tiling, self.block_size, rows=rows, table_width=table_width
        )

    def _blank(self, like: HostBatch, rows: int) -> HostBatch:
        """Return a step of padding rows with the table's width, chunks and adapters of another."""
        width = like.arrays["tables"].shape[1]
        name = next(iter(self.bank.numbers)) if like.has_adapters else ""
        row, table = np.ones(1, dtype=np.int32), np.full((1, 1), NULL_BLOCK, dtype=np.int32)
        blank = Layout(row * 0, row, row, np.zeros((1, 2), dtype=np.int32), table, [name], Wanted([], [], []))
        return replace(self._host(blank, rows=rows, table_width=width), chunks=like.chunks)

    def _forward(self, views: dict[str, Tensor], host: HostBatch) -> Tensor:
        return forward(self.weights, self.ops, device_batch(views, host, self.bank))

    def _fill_in(self, views: dict[str, Tensor], host: HostBatch) -> None:
        """Put the previous step's tokens where the host did not know them."""
        if host.has_pending:
            ids = views["token_ids"]
            chosen = self._previous.index_select(0, (-1 - ids).clamp_(min=0))
            ids.copy_(torch.where(ids < 0, chosen, ids))

    def _choose(self, hidden: Tensor, views: dict[str, Tensor], samples: int, targets: int) -> Tensor:
        """Choose tokens and read targets; returns the outcome as ``Step`` has it, on the device.

        The first ``samples`` rows are sampled, the others are the targets'. Logits are made for some rows at a time.
        """
        tokens: list[Tensor] = []
        logprobs: list[Tensor] = []
        values = torch.zeros(targets, dtype=torch.float32, device=self.device)
        for at in range(0, len(hidden), _LOGIT_ROWS):
            logits = self.ops.logits(hidden[at : at + _LOGIT_ROWS])
            count = len(logits)
            drawn = max(0, min(samples - at, count))
            if drawn:
                rows = sampling_rows(views)
                some = SamplingRows(rows.ints[at : at + drawn], rows.floats[at : at + drawn], rows.masks)
                found = choose(logits[:drawn], some, self.vocab_size)
                tokens.append(found[0])
                logprobs.append(found[1])
            if drawn < count:
                row = views["target_rows"] + (samples - at)
                here = row.clamp(0, count - 1)
                read = logits[here, views["target_tokens"]] - log_normaliser(logits, self.vocab_size)[here]
                values = torch.where(row == here, read, values)
            del logits  # else two sets of them are alive while the next ones are made
        if tokens:
            self._previous = torch.cat(tokens)
        parts = [*tokens, *(part.view(torch.int32) for part in logprobs), values.view(torch.int32)]
        return torch.cat(parts)

    def _upload(self, arrays: dict[str, Ints]) -> dict[str, Tensor]:
        flat, places = pack(arrays)
        host = torch.from_numpy(flat)
        if self._cuda:
            host = host.pin_memory()
        return unpack(host.to(self.device, non_blocking=True), places)

    def _send(self, outcome: Tensor, wanted: Wanted) -> Step:
        if not self._cuda:
            return Step(outcome, None, wanted)
        host = torch.empty(outcome.shape, dtype=torch.int32, pin_memory=True)
        host.copy_(outcome, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        return Step(host, done, wanted)


def _target_arrays(targets: list[Target], rows: list[int]) -> dict[str, Ints]:
    place = {row: i for i, row in enumerate(rows)}
    return {
        "target_rows": np.asarray([place[t.row] for t in targets], dtype=np.int32),
        "target_tokens": np.asarray([t.token for t in targets], dtype=np.int32),
    }
