"""CUDA graphs of decoding steps: one for each number of rows on a ladder, with and without adapters.

A graph replays the launches of a whole forward pass with the addresses they were captured with, so its inputs are one
buffer that is filled anew each step. All sizes of a kind are captured when the first of them is needed, the largest
first, so that no later step waits for one; they share one memory pool. They end at the hidden states, because each
would keep its output, and logits are large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from warmeng.engine.gpu.batch import HostBatch, StepInputs, pack, unpack
from warmeng.engine.gpu.sizes import GRAPH_SIZES
from warmeng.engine.layout import Ints


@dataclass(frozen=True)
class Captured:
    """A graph, the buffer of its inputs, the inputs as views of it, and the outputs of all its rows."""

    graph: torch.cuda.CUDAGraph
    buffer: Tensor
    inputs: StepInputs[Tensor]
    outputs: tuple[Tensor, Tensor]


class DecodeGraphs:
    """The graphs of one runner."""

    def __init__(self, device: torch.device, max_num_seqs: int) -> None:
        self.device = device
        largest = next((i for i, size in enumerate(GRAPH_SIZES) if size >= max_num_seqs), len(GRAPH_SIZES) - 1)
        self.sizes = GRAPH_SIZES[: largest + 1]
        self._pool = torch.cuda.graph_pool_handle()
        # One stream for warming up and capturing: what libraries keep for a stream is then made outside the graphs.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graphs: dict[tuple[int, int, int, bool], Captured] = {}

    def clear(self) -> None:
        """Forget all graphs: the adapters' matrices lie elsewhere now."""
        self._graphs.clear()
        # A pool whose last graph is gone can't be used again.
        self._pool = torch.cuda.graph_pool_handle()

    def rows_for(self, count: int) -> int | None:
        """Return the rows of the smallest graph that holds ``count``, None where none does."""
        return next((size for size in self.sizes if size >= count), None)

    def run(
        self,
        host: HostBatch,
        forward: Callable[[StepInputs[Tensor], int], tuple[Tensor, Tensor]],
        ready: Callable[[StepInputs[Tensor]], None],
        blank: Callable[[int], HostBatch],
    ) -> tuple[Tensor, Tensor]:
        """Fill the inputs and replay; returns what ``forward`` returns, which the next replay overwrites.

        ``forward(inputs, num_chunks)`` gives hidden states and projections and is what is captured. ``ready`` completes
        the inputs before each replay. ``blank(rows)`` gives a step of that size that is otherwise like this one.
        """
        captured = self._graphs.get(_key(host))
        if captured is None:
            for size in reversed(self.sizes):
                like = blank(size)
                if _key(like) not in self._graphs:
                    self._graphs[_key(like)] = self._capture(like, forward)
            captured = self._graphs[_key(host)]
        captured.buffer.copy_(_pinned(pack(host.inputs)), non_blocking=True)
        ready(captured.inputs)
        captured.graph.replay()
        return captured.outputs

    def _capture(
        self, host: HostBatch, forward: Callable[[StepInputs[Tensor], int], tuple[Tensor, Tensor]]
    ) -> Captured:
        buffer = torch.from_numpy(pack(host.inputs)).to(self.device)
        inputs = unpack(buffer, host.inputs)
        # Slots of the null block: what is computed to warm up must not reach the cache.
        inputs.slot_mapping.zero_()
        self._stream.wait_stream(torch.cuda.current_stream())
        # Kernels are compiled and libraries set up before capturing.
        with torch.cuda.stream(self._stream):
            forward(inputs, host.num_chunks)
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                outputs = forward(inputs, host.num_chunks)
        except RuntimeError as error:
            # PyTorch 2.11's allocator is broken after this. So the message has none of the words by which the engine
            # knows lack of memory, which it would answer with smaller steps.
            raise RuntimeError(
                f"a decoding step of {inputs.token_ids.numel()} rows could not be captured as a CUDA graph "
                f"({type(error).__name__}), and the allocator can't be trusted after that: start again, with smaller "
                "kv_bytes or max_num_seqs if memory was short"
            ) from error
        return Captured(graph, buffer, inputs, outputs)


def _key(host: HostBatch) -> tuple[int, int, int, bool]:
    inputs = host.inputs
    return inputs.token_ids.size, inputs.block_tables.shape[1], host.num_chunks, inputs.mixtures is not None


def _pinned(flat: Ints) -> Tensor:
    """Return a copy in page-locked memory, which the device reads without waiting for the host."""
    staged = torch.empty(len(flat), dtype=torch.int32, pin_memory=True)
    staged.copy_(torch.from_numpy(flat))
    return staged
