"""CUDA graphs of decoding steps: one for each number of rows on a ladder, with and without adapters.

A graph replays the launches of a whole forward pass with the addresses they were captured with, so its inputs are one
buffer that is filled anew each step. All sizes of a kind are captured when the first of them is needed, the largest
first, so that no later step waits for one; they share one memory pool. They end at the hidden states, because each
would keep its output, and logits are large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from warmeng.engine.gpu.batch import HostBatch, pack, unpack
from warmeng.engine.layout import Ints

# Below the ridge of about 240 rows padding costs no time, as the weights' bytes bind; above it costs arithmetic.
SIZES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024)


@dataclass(frozen=True)
class Captured:
    """A graph, its input buffer with its parts, and its output."""

    graph: torch.cuda.CUDAGraph
    flat: Tensor
    views: dict[str, Tensor]
    hidden: Tensor  # [rows, hidden]


class DecodeGraphs:
    """The graphs of one runner."""

    def __init__(self, device: torch.device, most: int) -> None:
        """``most``: sequences that decode at once."""
        self.device = device
        enough = next((i for i, size in enumerate(SIZES) if size >= most), len(SIZES) - 1)
        self.sizes = SIZES[: enough + 1]
        self._pool = torch.cuda.graph_pool_handle()
        # One stream for warming up and capturing: what libraries keep for a stream is then made outside the graphs.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graphs: dict[tuple[int, int, int, bool], Captured] = {}

    def clear(self) -> None:
        """Forget all graphs: the adapters' matrices lie elsewhere now."""
        self._graphs.clear()
        self._pool = torch.cuda.graph_pool_handle()  # a pool whose last graph is gone can't be used again

    def rows_for(self, count: int) -> int | None:
        """Return the rows of the smallest graph that holds ``count``, None where none does."""
        return next((size for size in self.sizes if size >= count), None)

    def run(
        self,
        host: HostBatch,
        forward: Callable[[dict[str, Tensor], HostBatch], Tensor],
        ready: Callable[[dict[str, Tensor]], None],
        blank: Callable[[int], HostBatch],
    ) -> Tensor:
        """Fill the inputs and replay; returns the hidden states, which the next replay overwrites.

        ``forward`` computes them from the input's parts and is what is captured; ``ready`` completes the inputs and
        runs before each replay; ``blank`` gives a step of as many rows that is else like this one.
        """
        flat, _ = pack(host.arrays)
        found = self._graphs.get(_key(host))
        if found is None:
            for size in reversed(self.sizes):
                like = blank(size)
                if _key(like) not in self._graphs:
                    self._graphs[_key(like)] = self._capture(*pack(like.arrays), partial(_with, forward, like))
            found = self._graphs[_key(host)]
        found.flat.copy_(_pinned(flat), non_blocking=True)
        ready(found.views)
        found.graph.replay()
        return found.hidden

    def _capture(
        self,
        flat: Ints,
        places: dict[str, tuple[int, tuple[int, ...]]],
        forward: Callable[[dict[str, Tensor]], Tensor],
    ) -> Captured:
        buffer = torch.from_numpy(flat).to(self.device)
        views = unpack(buffer, places)
        views["token_ids"].clamp_(min=0)
        views["slots"].zero_()  # the null block: what is computed to warm up must not reach the cache
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):  # kernels are compiled and libraries set up before capturing
            forward(views)
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                hidden = forward(views)
        except RuntimeError as error:
            # PyTorch 2.11's allocator is broken after this, so it must not be taken for lack of memory and tried again
            # with smaller steps: the sentence says nothing that the engine knows that by.
            raise RuntimeError(
                f"a decoding step of {views['token_ids'].numel()} rows could not be captured as a CUDA graph "
                f"({type(error).__name__}), and the allocator can't be trusted after that: start again, with smaller "
                "kv_bytes or max_num_seqs if memory was short"
            ) from error
        return Captured(graph, buffer, views, hidden)


def _with(
    forward: Callable[[dict[str, Tensor], HostBatch], Tensor], host: HostBatch, views: dict[str, Tensor]
) -> Tensor:
    return forward(views, host)


def _key(host: HostBatch) -> tuple[int, int, int, bool]:
    return host.arrays["token_ids"].size, host.arrays["tables"].shape[1], host.chunks, host.has_adapters


def _pinned(flat: Ints) -> Tensor:
    """Return a copy in page-locked memory, which the device reads without waiting for the host."""
    staged = torch.empty(len(flat), dtype=torch.int32, pin_memory=True)
    staged.copy_(torch.from_numpy(flat))
    return staged
