"""Matrix products on the CPU whose rows have the same bits in any batch.

A weight is packed once into panels of some outputs each, whose inputs follow one another as ``micro_kernel`` takes
them. Threads take panels, and multiply each with all rows. Weights are given as checkpoints store them: ``[out, in]``.
Rows may carry adapters, whose changes (``lora``) are added in the same launch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from warmeng.kernels.lora import FINISHED, TERM_BYTES, UNCHANGED, Changes, change_words, fetch_panel, list_terms, shrink
from warmeng.kernels.micro_kernel import (
    FETCHED,
    GROUP_BYTES,
    HEIGHT,
    PANEL,
    UNROLLED,
    VECTOR_BYTES,
    VECTORS,
    can_multiply,
    multiply_rows,
)
from warmeng.kernels.simd import fence, words
from warmeng.kernels.threads import Kernel, finish_unit, next_unit, own_number, wait_for_units

# Groups of inputs whose products are added one after the other; sums of as many are then added to each other. It bounds
# the error of long sums, and keeps a tile's rows in the first level of the cache or near it.
_SUMMED = 1024
# Units of work for each thread, where rows can be cut into so many.
_UNITS = 4
# Outputs past so many bytes do not stay in a cache until they are read.
_CACHED_BYTES = 2**23
_PANEL_GROUP_BYTES = VECTORS * VECTOR_BYTES
# Where a kernel's arguments count the units of ``shrink`` that are finished.
_SHRUNK = 8 * (15 + FINISHED)
# Tiles of rows that fetch all lines of a panel.
_TILES = UNROLLED * VECTORS // FETCHED


class Projection(Protocol):
    """A weight that multiplies rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""

    def multiply(self, x: Tensor) -> Tensor:
        """Return ``x @ w.T``. x [rows, in], contiguous; the result [rows, out] is contiguous."""


class AdaptedProjection(Projection, Protocol):
    """A weight whose products take adapters' changes."""

    def multiply(self, x: Tensor, changes: Changes | None = None) -> Tensor:
        """Return ``x @ w.T`` with the changes."""


def pack(w: Tensor) -> Tensor:
    """Return a weight [out, in] as panels [panels, groups, PANEL, inputs of a group], zeros where it has none."""
    out, width = w.shape
    each = GROUP_BYTES // w.itemsize
    padded = _pad(w, -width % each, -out % PANEL).contiguous()
    # As numbers of a group's bytes, which are moved together.
    groups = padded.view(torch.int32).view(-1, PANEL, padded.shape[1] // each)
    packed = groups.transpose(1, 2).contiguous()
    return packed.view(w.dtype).view(*packed.shape, each)


def _pad(x: Tensor, columns: int, rows: int = 0) -> Tensor:
    """Return x with zeros after its columns and rows; itself where there are none."""
    return torch.nn.functional.pad(x, (0, columns, 0, rows)) if columns or rows else x


@dataclass(frozen=True)
class Scales:
    """What makes sums of int8 numbers of float32."""

    # int32, float32 [panels * PANEL]: what a sum starts with, and what it is multiplied with.
    starts: Tensor
    outputs: Tensor
    # float32 [rows], which is multiplied with first.
    rows: Tensor


def multiply_packed(
    kernel: Kernel,
    x: Tensor,
    packed: Tensor,
    out: int,
    scales: Scales | None = None,
    changes: tuple[int, ...] = UNCHANGED,
) -> Tensor:
    """Return the products of rows with a packed weight of ``out`` outputs, float32 [rows, out].

    ``x``: contiguous rows of whole groups, of the weight's type; ``scales``: of int8; ``changes``: ``Changes.words``.
    """
    groups = packed.shape[1]
    if x.dtype != packed.dtype or not x.is_contiguous() or x.shape[1] * x.itemsize != groups * GROUP_BYTES:
        raise ValueError(f"a product takes contiguous rows of {groups * GROUP_BYTES} bytes, of the weight's type")
    y = torch.empty(len(x), out, dtype=torch.float32)
    if scales is None:
        _launch(kernel, y, x.data_ptr(), packed.data_ptr(), groups, min(groups, _SUMMED), (0, 0, 0), changes)
    else:
        of = scales.starts.data_ptr(), scales.rows.data_ptr(), scales.outputs.data_ptr()
        # Sums of whole numbers have no rounding to bound.
        _launch(kernel, y, x.data_ptr(), packed.data_ptr(), groups, groups, of, changes)
    return y


def _launch(
    kernel: Kernel, y: Tensor, x: int, packed: int, groups: int, summed: int, scales: tuple[int, int, int],
    changes: tuple[int, ...],
) -> None:  # fmt: skip
    """Multiply where there are groups; otherwise add changes to what is there."""
    (rows, out), threads = y.shape, torch.get_num_threads()
    panels, tiles = -(-out // PANEL), -(-rows // HEIGHT)
    cuts = max(1, min(-(-_UNITS * threads // panels), tiles))
    tall = -(-tiles // cuts) * HEIGHT
    streamed = out % PANEL == 0 and 0 < groups <= summed and rows * out * y.itemsize > _CACHED_BYTES
    kernel(
        rows, groups, max(summed, 1), out, tall, threads, int(streamed), x, packed, y.data_ptr(), *scales, *changes
    )  # fmt: skip


def product_kernel(kind: str) -> Kernel:
    """Return the product of one of ``micro_kernel.PRODUCTS``; compiled when it is first called."""

    def multiply(data: int) -> None:
        (_, _, rows, groups, summed, out, tall, threads, streamed, x, w, y, starts, row_scales, scales, changes, loras,
         carried, shrinks, _, starting, numbers, shrunk, pitch, terms, inputs, width) = words(data, 27)  # fmt: skip
        panels, cuts, stride = (out + PANEL - 1) // PANEL, (rows + tall - 1) // tall, groups * GROUP_BYTES
        size = groups * _PANEL_GROUP_BYTES
        unit = next_unit(data)
        if changes > 0:
            terms += changes * TERM_BYTES * own_number(data)
            while unit < shrinks:
                shrink(unit, changes, loras, carried, shrunk, pitch, inputs, width)
                finish_unit(data + _SHRUNK)
                unit = next_unit(data)
            wait_for_units(data + _SHRUNK, shrinks)
        while unit < shrinks + panels * cuts:
            panel, top = (unit - shrinks) // cuts, (unit - shrinks) % cuts * tall
            # The one that this thread takes next, probably.
            later = w + min(panel + threads, panels - 1) * size
            columns = min(out - panel * PANEL, PANEL)
            fetch_panel(panel, changes, loras)
            # Once, where there is nothing to multiply.
            for start in range(0, max(groups, 1), summed):
                count = min(groups - start, summed)
                part = start * _PANEL_GROUP_BYTES
                for row in range(top, min(top + tall, rows), HEIGHT):
                    tile, vectors = (row - top) // HEIGHT, w + panel * size + part
                    ahead = vectors
                    if tile < _TILES:
                        ahead = later + part + tile * count // _TILES * _PANEL_GROUP_BYTES
                    added = 0
                    if changes > 0 and start + count == groups:
                        added = list_terms(panel, row // HEIGHT, loras, starting, numbers, shrunk, pitch, terms)
                    multiply_rows(
                        kind, x + row * stride + start * GROUP_BYTES, stride, min(top + tall - row, rows - row, HEIGHT),
                        vectors, count, y + (row * out + panel * PANEL) * 4, out * 4, columns,
                        starts + panel * PANEL * 4, row_scales + row * 4, scales + panel * PANEL * 4,
                        int(start > 0 or groups == 0), streamed, ahead, terms, added,
                    )  # fmt: skip
            unit = next_unit(data)
        fence()

    return Kernel(multiply)


_multiply_float32 = product_kernel("float32")


def add_lora(y: Tensor, x: Tensor, changes: Changes | None) -> Tensor:
    """Add adapters' changes to the rows of ``y`` that carry them, in place, and return it.

    For what other products gave: ``Projection.multiply`` adds them itself. x [rows, in]; y [rows, out]; fp32.
    """
    if not y.is_contiguous() or y.dtype != torch.float32:
        raise ValueError("add_lora takes contiguous rows of float32")
    if changes is not None:
        _launch(_multiply_float32, y, 0, 0, 0, 0, (0, 0, 0), change_words(changes, x, y.shape[1]))
    return y


class Float32Projection:
    """A weight of float32. The weight itself is not kept."""

    def __init__(self, w: Tensor) -> None:
        self.shape = (w.shape[0], w.shape[1])
        self._packed = pack(w.float())

    def multiply(self, x: Tensor, changes: Changes | None = None) -> Tensor:
        """Return ``x @ w.T`` with adapters' changes."""
        out = self.shape[0]
        return multiply_packed(_multiply_float32, x, self._packed, out, changes=change_words(changes, x, out))


_multiply_bfloat16 = product_kernel("bfloat16") if can_multiply("bfloat16") else None


class Bfloat16Projection:
    """A weight in bfloat16, which rows are rounded to; products are summed in float32, two inputs at a time.

    A weight of a bfloat16 checkpoint loses nothing. Only where the processor can (``can_multiply``).
    """

    def __init__(self, w: Tensor) -> None:
        self.shape = (w.shape[0], w.shape[1])
        self._packed = pack(w.to(torch.bfloat16))

    def multiply(self, x: Tensor, changes: Changes | None = None) -> Tensor:
        """Return ``x @ w.T`` in float32, with adapters' changes, which take x as it is."""
        assert _multiply_bfloat16 is not None
        out, rows = self.shape[0], _pad(x, x.shape[1] % 2).to(torch.bfloat16)
        return multiply_packed(_multiply_bfloat16, rows, self._packed, out, changes=change_words(changes, x, out))


class PlainProjection:
    """A weight as it is, multiplied by PyTorch: a row's bits depend on the batch."""

    def __init__(self, w: Tensor) -> None:
        self.w = w
        self.shape = (w.shape[0], w.shape[1])

    def multiply(self, x: Tensor) -> Tensor:
        """Return ``x @ w.T``."""
        return torch.mm(x, self.w.t())
