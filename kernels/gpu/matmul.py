"""A matrix product of fixed tiles: a row's bits don't depend on how many rows there are, nor on its place among them.

Every output is summed over K in steps of ``BLOCK_K`` in ascending order, by one program, on tensor cores in fp32.
The adapters' A product has the same input, so its tiles ride in the same launch, after the base's tiles: a launch of
its own for a few dozen columns would cost more than its arithmetic.

Bytes: (rows in + out rows + out in) times the item size; operations: 2 rows in out. With up to about 240 rows on an
H100 the bytes of the weight are the floor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from warmeng.kernels.gpu.change import ROW_TILE, AdapterRows, Change, Product, own_columns

_GROUP_M = 8  # row tiles that read one weight tile one after the other, so that it comes from the L2 cache


@dataclass(frozen=True)
class Tile:
    """One configuration of the kernel. Only ``block_k`` decides the order of summation."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int


# From few rows to many. 64 rows are what one warp group's instruction takes on Hopper, so a row's numbers come from
# the same instruction in all of them.
TILES = (Tile(64, 64, 64, 4, 4), Tile(128, 64, 64, 4, 4), Tile(128, 128, 64, 8, 3), Tile(128, 256, 64, 8, 3))


def choose(rows: int, outs: int, tiles: tuple[Tile, ...] = TILES, processors: int = 132) -> Tile:
    """Return the largest tile that still fills nine in ten multiprocessors; for few programs the smallest.

    Tiles differ in speed alone where they agree bit for bit, which the engine tries at load.
    """
    fitting = [t for t in tiles if t.block_m <= max(64, triton.next_power_of_2(rows))] or list(tiles[:1])
    for tile in reversed(fitting):
        if -(-rows // tile.block_m) * -(-outs // tile.block_n) >= processors * 9 // 10:
            return tile
    return max(fitting, key=lambda t: (t.block_m, -t.block_n))


@triton.jit(do_not_specialize=["rows"])
def _tile_product(
    x, w, a, y, low, ids, owner, span_table,
    rows, outs, depth, low_outs, rank, y_stride,
    HAS_CHANGE: tl.constexpr, EVEN_K: tl.constexpr, ROW_TILE: tl.constexpr, GROUP_M: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    row_tiles = tl.cdiv(rows, BLOCK_M)
    base_tiles = tl.cdiv(outs, BLOCK_N)
    out_tiles = base_tiles + tl.cdiv(low_outs, BLOCK_N)
    per_group = GROUP_M * out_tiles
    first_row_tile = pid // per_group * GROUP_M
    group = tl.minimum(row_tiles - first_row_tile, GROUP_M)
    row_tile = first_row_tile + pid % per_group % group
    out_tile = pid % per_group // group
    m = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    is_low = out_tile >= base_tiles
    weight, height, tile = w, outs, out_tile
    if HAS_CHANGE:
        if is_low:
            weight, height, tile = a, low_outs, out_tile - base_tiles
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    if HAS_CHANGE:
        if is_low:  # nothing to do where no row of the tile has an adapter with columns in it
            spans_of = row_tile * (BLOCK_M // ROW_TILE) + tl.arange(0, BLOCK_M // ROW_TILE)
            inside = spans_of < tl.cdiv(rows, ROW_TILE)
            stop = tl.max(tl.load(span_table + spans_of * 2 + 1, mask=inside, other=0))
            first = tl.min(tl.load(span_table + spans_of * 2, mask=inside, other=2147483647))
            column = tl.minimum(n, low_outs - 1) % rank
            if tl.sum(((column >= first) & (column < stop)).to(tl.int32)) == 0:
                return
    k = tl.arange(0, BLOCK_K)
    x_at = x + (m % rows)[:, None].to(tl.int64) * depth + k[None, :]  # rows past the end are others, again
    w_at = weight + (n % height)[None, :].to(tl.int64) * depth + k[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, depth, BLOCK_K):
        if EVEN_K:
            x_tile = tl.load(x_at)
            w_tile = tl.load(w_at)
        else:
            x_tile = tl.load(x_at, mask=k[None, :] < depth - start, other=0.0)
            w_tile = tl.load(w_at, mask=k[:, None] < depth - start, other=0.0)
        total = tl.dot(x_tile, w_tile, total, input_precision="ieee")
        x_at += BLOCK_K
        w_at += BLOCK_K
    mask = (m < rows)[:, None] & (n < height)[None, :]
    if HAS_CHANGE:
        if is_low:
            mine = tl.load(ids + m, mask=m < rows, other=-1)
            theirs = tl.load(owner + n % rank)
            total = tl.where(mine[:, None] == theirs[None, :], total, 0.0)
            at = low + m[:, None].to(tl.int64) * low_outs + n[None, :]
            tl.store(at, total.to(low.dtype.element_ty), mask=mask)
            return
    at = y + m[:, None].to(tl.int64) * y_stride + n[None, :]
    tl.store(at, total.to(y.dtype.element_ty), mask=mask)


def project(
    x: Tensor,
    w: Tensor,
    change: Change | None = None,
    rows: AdapterRows | None = None,
    *,
    out_dtype: torch.dtype | None = None,
    tiles: tuple[Tile, ...] = TILES,
    base: bool = True,
) -> Product:
    """Return ``x @ w.T`` and, where adapters are active, the masked ``x @ a.T``.

    x [rows, in]; w [out, in]; both contiguous. ``base=False`` makes the A product alone (``y`` is then empty), for a
    base product made elsewhere. ``tiles`` are the configurations to choose from.
    """
    count, depth = x.shape
    outs = w.shape[0] if base else 0
    y = torch.empty(count, outs, dtype=out_dtype or x.dtype, device=x.device)
    low, low_outs, rank = y, 0, 1
    ids = owner = span_table = a = x
    if change is not None and rows is not None:
        a, low_outs, rank = change.a, change.a.shape[0], change.rank
        low = torch.empty(count, low_outs, dtype=x.dtype, device=x.device)
        ids, owner, span_table = rows.ids, rows.owner, rows.spans
    t = choose(count, outs or low_outs, tiles)
    grid = (-(-count // t.block_m) * (-(-outs // t.block_n) + -(-low_outs // t.block_n)),)
    _tile_product[grid](
        x, w, a, y, low, ids, owner, span_table,
        count, outs, depth, low_outs, rank, outs,
        HAS_CHANGE=low_outs > 0, EVEN_K=depth % t.block_k == 0, ROW_TILE=ROW_TILE, GROUP_M=_GROUP_M,
        BLOCK_M=t.block_m, BLOCK_N=t.block_n, BLOCK_K=t.block_k, num_warps=t.warps, num_stages=t.stages,
    )  # fmt: skip
    return Product(y, low, change, rows) if low_outs else Product(y)


def project_plain(x: Tensor, w: Tensor, change: Change | None = None, rows: AdapterRows | None = None) -> Product:
    """Return what ``project`` does, in float64: the twin."""
    y = x.double() @ w.double().t()
    if change is None or rows is None:
        return Product(y)
    low = (x.double() @ change.a.double().t()).masked_fill(~own_columns(rows, len(change.widths)), 0)
    return Product(y, low, change, rows)
