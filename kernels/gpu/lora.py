"""LoRA on many adapters at once: which rows need which columns, and the tile of ``lora_a_out @ b.T`` that kernels add.

All adapters' A matrices are stacked, each padded to a multiple of ``RANK_TILE`` rows. So one product (shrink) gives
every row's ``lora_a_out = x @ a.T``, in which the columns of other adapters than the row's own are zero. The product
with B (expand) is summed over the columns tile by tile in ascending order. So a row's bits don't depend on which other
adapters are loaded: their columns add exact zeros or are passed over.

A row carries a mixture of adapters. Its coefficients multiply the columns of ``lora_a_out`` where shrink stores them:
rows that carry one adapter in different doses share its matrices and its products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl
from torch import Tensor

from warmeng.kernels.sizes import RANK_TILE

# Rows that share one column range, and that most programs expand. 64 at once read B a quarter as often as 16 would:
# at 4,096 rows 59 MB of a layer's gate and up instead of 235 MB, all from the L2 cache.
ROW_TILE = 64
# Rows of a program where nothing is expanded.
ROWS_WITHOUT_LORA = 16
# The span of a mixture that has no columns: it widens no tile's range.
NO_COLUMNS = (np.iinfo(np.int32).max, 0)


@dataclass(frozen=True)
class LoraWeights:
    """All loaded adapters' matrices for one fused product (q, k, v fused: three parts).

    An output belongs to one part, and uses that part's columns of ``lora_a_out``.
    """

    # [parts * R, in]: part by part, within a part adapter by adapter.
    a: Tensor
    # [out, R], with the adapter's scale.
    b: Tensor
    # Outputs of each part.
    widths: tuple[int, ...]

    @property
    def rank(self) -> int:
        """R: columns of a part, over all adapters."""
        return self.b.shape[1]


@dataclass(frozen=True)
class AdapterRows:
    """Which mixture of adapters each row of a step carries."""

    # int32 [rows]: the row's mixture, a row of ``weights``; 0 is the base.
    mixtures: Tensor
    # fp32 [mixtures, R]: what each mixture multiplies the columns with: its adapters' coefficients, elsewhere 0.
    weights: Tensor
    # int32 [ceil(rows / ROW_TILE), 2]: columns (first, stop) that the tile's rows need; equal where they need none.
    column_ranges: Tensor

    @cached_property
    def column_weights(self) -> Tensor:
        """What each row's columns of a part are multiplied with, fp32 [rows, R]."""
        return self.weights.index_select(0, self.mixtures)


@dataclass(frozen=True)
class Product:
    """Rows times a weight. With adapters, ``lora_a_out @ b.T`` is still to be added, by the kernel that reads ``y``."""

    # [rows, out]
    y: Tensor
    # [rows, parts * R]; only columns within the column ranges are written.
    lora_a_out: Tensor | None = None
    lora: LoraWeights | None = None
    rows: AdapterRows | None = None

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, int, int]:
        """Return what kernels take: lora_a_out, b, column ranges, columns of lora_a_out, R. Stand-ins without LoRA."""
        if self.lora_a_out is None or self.lora is None or self.rows is None:
            return self.y, self.y, self.y, 0, RANK_TILE
        return self.lora_a_out, self.lora.b, self.rows.column_ranges, self.lora_a_out.shape[1], self.lora.rank


@dataclass(frozen=True)
class Shrink:
    """What a product's kernel takes for its A product: stand-ins, and no columns, where no adapter is active."""

    a: Tensor
    lora_a_out: Tensor
    mixtures: Tensor
    weights: Tensor
    range_table: Tensor
    # Columns of ``lora_a_out``, and of a part.
    outs: int
    rank: int

    @classmethod
    def of(cls, x: Tensor, y: Tensor, lora: LoraWeights | None, rows: AdapterRows | None) -> Shrink:
        """Make room for ``x @ a.T``; ``y``, the base's product, stands in for what is not written."""
        if lora is None or rows is None:
            return cls(x, y, x, x, x, 0, 1)
        outs = lora.a.shape[0]
        lora_a_out = torch.empty(len(x), outs, dtype=x.dtype, device=x.device)
        return cls(lora.a, lora_a_out, rows.mixtures, rows.weights, rows.column_ranges, outs, lora.rank)


def column_ranges(mixtures: npt.NDArray[np.int32], spans: Sequence[tuple[int, int]]) -> npt.NDArray[np.int32]:
    """Return the columns that each tile of rows needs, int32 [tiles, 2].

    mixtures [rows]: mixture of each row; spans: the first column and the one after the last of each mixture, the first
    of them ``NO_COLUMNS``, the base's. Rows sorted by mixture make the ranges short: with many adapters most tiles then
    need the columns of one adapter only.
    """
    tiles = -(-len(mixtures) // ROW_TILE)
    padded = np.zeros(tiles * ROW_TILE, dtype=np.int32)
    padded[: len(mixtures)] = mixtures
    found = np.asarray(spans)[padded].reshape(tiles, ROW_TILE, 2)
    out = np.stack([found[:, :, 0].min(1), found[:, :, 1].max(1)], axis=1)
    out[out[:, 1] == 0] = 0
    return out.astype(np.int32)


def column_weights(rows: AdapterRows, parts: int) -> Tensor:
    """Return what the columns of ``lora_a_out`` are multiplied with, fp32 [rows, parts * R]."""
    return rows.column_weights.repeat(1, parts)


def lora_expand_plain(product: Product, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return what the adapters add to ``y``, [rows, out]: the twin of ``lora_expand_tile``."""
    lora_a_out, lora, rows = product.lora_a_out, product.lora, product.rows
    if lora_a_out is None or lora is None or rows is None:
        return torch.zeros_like(product.y, dtype=dtype)
    own = column_weights(rows, len(lora.widths)) != 0
    kept = torch.where(own, lora_a_out.to(dtype), torch.zeros((), dtype=dtype, device=lora_a_out.device))
    sides = zip(kept.split(lora.rank, 1), lora.b.to(dtype).split(lora.widths), strict=True)
    return torch.cat([part @ b.t() for part, b in sides], 1)


@triton.jit
def lora_expand_tile(
    lora_a_out, b, rows, outs, row_mask, out_mask, range_first, range_stop, column0, lora_stride, rank,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, RANK_TILE: tl.constexpr,
):  # fmt: skip
    """Return ``lora_a_out[rows, column0:] @ b[outs].T`` over the range's columns, fp32 [BLOCK_M, BLOCK_N]."""
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(range_first, range_stop, RANK_TILE):
        column = first + tl.arange(0, RANK_TILE)
        x_at = lora_a_out + rows[:, None] * lora_stride + (column0 + column)[None, :]
        x = tl.load(x_at, mask=row_mask[:, None], other=0.0)
        w = tl.load(b + outs[None, :] * rank + column[:, None], mask=out_mask[None, :], other=0.0)
        acc = tl.dot(x, w, acc, input_precision="ieee")
    return acc
