"""The adapters' changes of a product: which rows carry which columns, and the tile of ``low @ b.T`` that kernels add.

All adapters' A matrices are stacked below each other, each padded to a multiple of ``RANK_TILE`` rows, so that one
product gives every row's ``low = x @ a.T``; columns of other adapters than the row's own are zero. The sum over the
columns is made tile by tile in ascending order, so a row's change has the same bits whichever other adapters are
loaded: they add exact zeros or are passed over.
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

RANK_TILE = 16  # columns of one adapter: a multiple; the least that tensor cores take
# Rows that share one span, and that most programs add changes to. 64 at once read the B side a quarter as often as 16
# would: at 4,096 rows 59 MB of a layer's gate and up instead of 235 MB, all from the L2 cache.
ROW_TILE = 64
# Rows of a program where there are no changes to add.
PLAIN_ROWS = 16


@dataclass(frozen=True)
class Change:
    """The changes that all loaded adapters make to one fused product (q, k, v fused: three parts).

    An output belongs to one part, and gains the columns of ``low`` that are its part's.
    """

    a: Tensor  # [parts * R, in]: part by part, within a part adapter by adapter
    b: Tensor  # [out, R], scale included
    widths: tuple[int, ...]  # outputs of each part

    @property
    def rank(self) -> int:
        """R: columns of a part, over all adapters."""
        return self.b.shape[1]


@dataclass(frozen=True)
class AdapterRows:
    """Which adapter each row of a step carries."""

    ids: Tensor  # int32 [rows]; -1 where the row has none
    owner: Tensor  # int32 [R]: the adapter of each column
    spans: Tensor  # int32 [ceil(rows / ROW_TILE), 2]: columns (first, stop) that the tile's rows need; equal: none

    @cached_property
    def own(self) -> Tensor:
        """Which columns of a part are a row's own, bool [rows, R]."""
        return self.owner[None, :] == self.ids[:, None]


@dataclass(frozen=True)
class Product:
    """Rows times a weight; where adapters are active their B side is still to be added."""

    y: Tensor  # [rows, out]
    low: Tensor | None = None  # [rows, parts * R]; only columns within the spans are written
    change: Change | None = None
    rows: AdapterRows | None = None

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, int, int]:
        """Return what kernels take: low, b, spans, columns of low, R; stand-ins where there is no change."""
        if self.low is None or self.change is None or self.rows is None:
            return self.y, self.y, self.y, 0, RANK_TILE
        return self.low, self.change.b, self.rows.spans, self.low.shape[1], self.change.rank


def spans(ids: npt.NDArray[np.int32], columns: Sequence[tuple[int, int]]) -> npt.NDArray[np.int32]:
    """Return the columns that each tile of rows needs, int32 [tiles, 2].

    ids [rows]: adapter of each row or -1; columns: (first, stop) of each adapter. Rows sorted by adapter make the spans
    short: with many adapters most tiles then need one adapter's columns alone.
    """
    tiles = -(-len(ids) // ROW_TILE)
    padded = np.full(tiles * ROW_TILE, -1)
    padded[: len(ids)] = ids
    table = np.asarray([*columns, (np.iinfo(np.int32).max, 0)])  # the last entry is that of -1
    found = table[padded].reshape(tiles, ROW_TILE, 2)
    out = np.stack([found[:, :, 0].min(1), found[:, :, 1].max(1)], axis=1)
    out[out[:, 1] == 0] = 0
    return out.astype(np.int32)


def own_columns(rows: AdapterRows, parts: int) -> Tensor:
    """Return which columns of ``low`` are a row's own, bool [rows, parts * R]."""
    return rows.own.repeat(1, parts)


def change_plain(product: Product, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return what the adapters add to ``y``, [rows, out]: the twin of ``low_rank_tile``."""
    low, change, rows = product.low, product.change, product.rows
    if low is None or change is None or rows is None:
        return torch.zeros_like(product.y, dtype=dtype)
    own = own_columns(rows, len(change.widths))
    kept = torch.where(own, low.to(dtype), torch.zeros((), dtype=dtype, device=low.device))
    sides = zip(kept.split(change.rank, 1), change.b.to(dtype).split(change.widths), strict=True)
    return torch.cat([part @ b.t() for part, b in sides], 1)


@triton.jit
def low_rank_tile(
    low, b, rows, outs, row_mask, out_mask, span_first, span_stop, column0, low_stride, rank,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, RANK_TILE: tl.constexpr,
):  # fmt: skip
    """Return ``low[rows, column0:] @ b[outs].T`` over the span's columns, fp32 [BLOCK_M, BLOCK_N]."""
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(span_first, span_stop, RANK_TILE):
        column = first + tl.arange(0, RANK_TILE)
        x = tl.load(low + rows[:, None] * low_stride + (column0 + column)[None, :], mask=row_mask[:, None], other=0.0)
        w = tl.load(b + outs[None, :] * rank + column[:, None], mask=out_mask[None, :], other=0.0)
        total = tl.dot(x, w, total, input_precision="ieee")
    return total
