"""What the products' kernels share: the sum over the depth, and a tile of the adapters' A product."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dot_over_k(
    x, w, row, column, rows, height, depth,
    TMA: tl.constexpr, EVEN_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SUM: tl.constexpr, IMPRECISE: tl.constexpr,
):  # fmt: skip
    """Return ``x[row:] @ w[column:].T``, [BLOCK_M, BLOCK_N] of type ``SUM``; rows and columns past the ends are
    undefined. ``IMPRECISE``: products of fp8 that tensor cores may add up in fewer bits before they go to the sum.
    """
    acc = tl.zeros((BLOCK_M, BLOCK_N), SUM)
    if TMA:
        for start in range(0, depth, BLOCK_K):
            acc = tl.dot(
                x.load([row, start]), w.load([column, start]).T, acc,
                input_precision="ieee", max_num_imprecise_acc=IMPRECISE, out_dtype=SUM,
            )  # fmt: skip
    else:
        k = tl.arange(0, BLOCK_K)
        # Rows past the end wrap around; they are masked when the result is stored.
        m = (row + tl.arange(0, BLOCK_M)) % rows
        n = (column + tl.arange(0, BLOCK_N)) % height
        x_at = x + m[:, None].to(tl.int64) * depth + k[None, :]
        w_at = w + n[None, :].to(tl.int64) * depth + k[:, None]
        for start in range(0, depth, BLOCK_K):
            if EVEN_K:
                x_tile = tl.load(x_at)
                w_tile = tl.load(w_at)
            else:
                x_tile = tl.load(x_at, mask=k[None, :] < depth - start, other=0.0)
                w_tile = tl.load(w_at, mask=k[:, None] < depth - start, other=0.0)
            acc = tl.dot(
                x_tile, w_tile, acc, input_precision="ieee", max_num_imprecise_acc=IMPRECISE, out_dtype=SUM
            )  # fmt: skip
            x_at += BLOCK_K
            w_at += BLOCK_K
    return acc


@triton.jit
def store_lora_a_tile(
    x, a, lora_a_out, mixtures, weights, range_table, row, column, rows, depth, lora_outs, rank,
    TMA: tl.constexpr, EVEN_K: tl.constexpr, ROW_TILE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Store a tile of ``x @ a.T`` times the rows' column weights; nothing where no row has an adapter with columns in
    it.
    """
    m = row + tl.arange(0, BLOCK_M)
    n = column + tl.arange(0, BLOCK_N)
    ranges_of = row // ROW_TILE + tl.arange(0, BLOCK_M // ROW_TILE)
    inside = ranges_of < tl.cdiv(rows, ROW_TILE)
    range_stop = tl.max(tl.load(range_table + ranges_of * 2 + 1, mask=inside, other=0))
    range_first = tl.min(tl.load(range_table + ranges_of * 2, mask=inside, other=2147483647))
    rank_index = tl.minimum(n, lora_outs - 1) % rank
    if tl.sum(((rank_index >= range_first) & (rank_index < range_stop)).to(tl.int32)) > 0:
        acc = dot_over_k(
            x, a, row, column, rows, lora_outs, depth, TMA, EVEN_K, BLOCK_M, BLOCK_N, BLOCK_K, tl.float32, 0
        )
        mixture = tl.load(mixtures + m, mask=m < rows, other=0)
        weight = tl.load(weights + mixture[:, None] * rank + (n % rank)[None, :])
        # Zero also where another adapter's product is not finite.
        acc = tl.where(weight != 0.0, acc * weight, 0.0)
        at = lora_a_out + m[:, None].to(tl.int64) * lora_outs + n[None, :]
        tl.store(at, acc.to(lora_a_out.dtype.element_ty), mask=(m < rows)[:, None] & (n < lora_outs)[None, :])
