"""From the fused product of q, k and v to rotated queries and written cache slots, in one pass.

Adapters' changes, biases, the norm of queries and keys (Qwen3), rotary embedding and the write to the cache: a program
does one head of 16 rows. Changes are first added in place, so that the numbers that follow are read back in one
layout, with or without them: the norm adds them up in the order of the layout. Bytes of a row: the product read once,
as many bytes written.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from warmeng.kernels.gpu.lora import RANK_TILE, ROW_TILE, Product, change_plain, low_rank_tile

# Of a program, with changes and without: see above.
_ROWS = 16


@dataclass(frozen=True)
class Heads:
    """How the fused product divides: ``queries`` heads, then ``keys`` heads of keys, then as many of values."""

    queries: int
    keys: int
    size: int

    @property
    def total(self) -> int:
        """Heads of the fused product."""
        return self.queries + 2 * self.keys


@triton.jit(do_not_specialize=["rows"])
def _rotate_and_write(
    qkv, low, b, span_table, bias, q_norm, k_norm, cos, sin, positions, slots, q, k_cache, v_cache,
    rows, eps, low_stride, rank,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr, HALF: tl.constexpr, CACHE_BLOCK: tl.constexpr,
    HAS_CHANGE: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_NORM: tl.constexpr,
    BLOCK_M: tl.constexpr, ROW_TILE: tl.constexpr, RANK_TILE: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, HALF)
    m_in, d_in = m < rows, d < SIZE // 2
    mask = m_in[:, None] & d_in[None, :]
    at = qkv + m[:, None].to(tl.int64) * ((QUERIES + 2 * KEYS) * SIZE) + head * SIZE + d[None, :]
    if HAS_CHANGE:
        part = (head >= QUERIES).to(tl.int32) + (head >= QUERIES + KEYS).to(tl.int32)
        span = span_table + tile * BLOCK_M // ROW_TILE * 2
        first, stop = tl.load(span), tl.load(span + 1)
        for half in tl.static_range(2):
            n = head * SIZE + half * (SIZE // 2) + d
            more = low_rank_tile(
                low, b, m, n, m_in, d_in, first, stop, part * rank, low_stride, rank, BLOCK_M, HALF, RANK_TILE
            )  # fmt: skip
            here = at + half * (SIZE // 2)
            product = tl.load(here, mask=mask, other=0.0)
            tl.store(here, (product.to(tl.float32) + more).to(product.dtype), mask=mask)
        tl.debug_barrier()  # what other threads of this program wrote is read below
    x = tl.load(at, mask=mask, other=0.0)
    y = tl.load(at + SIZE // 2, mask=mask, other=0.0)
    if HAS_BIAS:
        x = (x.to(tl.float32) + tl.load(bias + head * SIZE + d, mask=d_in, other=0.0).to(tl.float32)[None, :]).to(
            x.dtype
        )
        y = (
            y.to(tl.float32) + tl.load(bias + head * SIZE + SIZE // 2 + d, mask=d_in, other=0.0).to(tl.float32)[None, :]
        ).to(y.dtype)
    slot = tl.load(slots + m, mask=m_in, other=0).to(tl.int64)
    cache_row = slot // CACHE_BLOCK * KEYS * CACHE_BLOCK + slot % CACHE_BLOCK
    if head >= QUERIES + KEYS:
        to = v_cache + (cache_row + (head - QUERIES - KEYS) * CACHE_BLOCK)[:, None] * SIZE + d[None, :]
        tl.store(to, x, mask=mask)
        tl.store(to + SIZE // 2, y, mask=mask)
        return
    x, y = x.to(tl.float32), y.to(tl.float32)
    if HAS_NORM:
        norm = q_norm
        if head >= QUERIES:
            norm = k_norm
        scale = 1.0 / tl.sqrt((tl.sum(x * x, 1) + tl.sum(y * y, 1)) / SIZE + eps)
        x = x * scale[:, None] * tl.load(norm + d, mask=d_in, other=0.0).to(tl.float32)[None, :]
        y = y * scale[:, None] * tl.load(norm + SIZE // 2 + d, mask=d_in, other=0.0).to(tl.float32)[None, :]
        x = x.to(q.dtype.element_ty).to(tl.float32)
        y = y.to(q.dtype.element_ty).to(tl.float32)
    position = tl.load(positions + m, mask=m_in, other=0)
    angle = position[:, None] * (SIZE // 2) + d[None, :]
    c = tl.load(cos + angle, mask=mask, other=0.0)
    s = tl.load(sin + angle, mask=mask, other=0.0)
    first_half = (x * c - y * s).to(q.dtype.element_ty)
    second_half = (y * c + x * s).to(q.dtype.element_ty)
    if head < QUERIES:
        to = q + m[:, None].to(tl.int64) * (QUERIES * SIZE) + head * SIZE + d[None, :]
    else:
        to = k_cache + (cache_row + (head - QUERIES) * CACHE_BLOCK)[:, None] * SIZE + d[None, :]
    tl.store(to, first_half, mask=mask)
    tl.store(to + SIZE // 2, second_half, mask=mask)


def rotate_and_write(
    product: Product,
    heads: Heads,
    bias: Tensor | None,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rotation: tuple[Tensor, Tensor],
    positions: Tensor,
    slots: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
) -> Tensor:
    """Return the rotated queries [rows, queries, size] and write keys and values to their slots.

    product: y [rows, heads.total * size], which may be changed in place; bias [heads.total * size]; norms: weights
    [size] for queries and for keys; rotation: cos, sin, fp32 [max positions, size / 2]; positions, slots: int32 [rows],
    a slot being block * block_size + offset; k_cache, v_cache [blocks, keys, block_size, size]. Padding rows may share
    a slot.
    """
    rows, dtype = product.y.shape[0], product.y.dtype
    q = torch.empty(rows, heads.queries, heads.size, dtype=dtype, device=product.y.device)
    low, b, span_table, low_stride, rank = product.arguments()
    q_norm, k_norm = norms or (product.y, product.y)
    # Steps with adapters and without must round alike, so the compiler may not choose what to fuse.
    _rotate_and_write[(-(-rows // _ROWS), heads.total)](
        product.y, low, b, span_table, product.y if bias is None else bias, q_norm, k_norm, *rotation, positions, slots,
        q, k_cache, v_cache, rows, eps, low_stride, rank,
        QUERIES=heads.queries, KEYS=heads.keys, SIZE=heads.size, HALF=max(16, triton.next_power_of_2(heads.size // 2)),
        CACHE_BLOCK=k_cache.shape[2], HAS_CHANGE=product.low is not None, HAS_BIAS=bias is not None,
        HAS_NORM=norms is not None, BLOCK_M=_ROWS, ROW_TILE=ROW_TILE, RANK_TILE=RANK_TILE, num_warps=4,
        enable_fp_fusion=False,
    )  # fmt: skip
    return q


def rotate_plain(
    product: Product,
    heads: Heads,
    bias: Tensor | None,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rotation: tuple[Tensor, Tensor],
    positions: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated queries, rotated keys and values [rows, heads, size] in float64: the twin."""
    y = product.y.double() + change_plain(product)
    if bias is not None:
        y = y + bias.double()
    q, k, v = y.view(len(y), heads.total, heads.size).split([heads.queries, heads.keys, heads.keys], 1)
    if norms is not None:
        q, k = (
            x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * w.double()
            for x, w in zip((q, k), norms, strict=True)
        )
    cos, sin = (table.double()[positions.long()][:, None] for table in rotation)

    def rotate(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    return rotate(q), rotate(k), v
