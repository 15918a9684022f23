"""From the fused product of q, k and v to rotated queries and written cache slots, in one pass.

LoRA expand, biases, the norm of queries and keys (Qwen3), rotary embedding and the write to the cache: a program does
one head of 16 rows. The expand is first added in place and read back. So with LoRA and without, the numbers that
follow have the same layout, which decides the order in which the norm adds.

Bytes of a row: ``2 * (heads + 2 * kv_heads) * head_dim * itemsize``, the product read once and as much written.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from warmeng.kernels.gpu.lora import ROW_TILE, Product, lora_expand_plain, lora_expand_tile
from warmeng.kernels.quantized import FP8_MAX
from warmeng.kernels.sizes import RANK_TILE

# Rows of a program, with LoRA and without.
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


@triton.jit
def _kept(x, LARGEST: tl.constexpr):
    """Return numbers as the cache holds them: with a ``LARGEST`` as fp8, those past it as it."""
    # The compiler takes only one of two types from a branch that it knows.
    if LARGEST > 0:
        kept = tl.minimum(tl.maximum(x.to(tl.float32), -LARGEST), LARGEST).to(tl.float8e4nv)
    else:
        kept = x
    return kept


@triton.jit(do_not_specialize=["rows"])
def _rotate_and_write(
    qkv, lora_a_out, b, range_table, bias, q_norm, k_norm, cos, sin, positions, slots, q, k_cache, v_cache,
    rows, eps, lora_stride, rank,
    Q_HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    HAS_LORA: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_NORM: tl.constexpr,
    BLOCK_M: tl.constexpr, ROW_TILE: tl.constexpr, RANK_TILE: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, HALF)
    m_in, d_in = m < rows, d < HEAD_DIM // 2
    mask = m_in[:, None] & d_in[None, :]
    at = qkv + m[:, None].to(tl.int64) * ((Q_HEADS + 2 * KV_HEADS) * HEAD_DIM) + head * HEAD_DIM + d[None, :]
    if HAS_LORA:
        part = (head >= Q_HEADS).to(tl.int32) + (head >= Q_HEADS + KV_HEADS).to(tl.int32)
        column_range = range_table + tile * BLOCK_M // ROW_TILE * 2
        first, stop = tl.load(column_range), tl.load(column_range + 1)
        for half in tl.static_range(2):
            n = head * HEAD_DIM + half * (HEAD_DIM // 2) + d
            delta = lora_expand_tile(
                lora_a_out, b, m, n, m_in, d_in, first, stop, part * rank, lora_stride, rank, BLOCK_M, HALF, RANK_TILE
            )  # fmt: skip
            here = at + half * (HEAD_DIM // 2)
            product = tl.load(here, mask=mask, other=0.0)
            tl.store(here, (product.to(tl.float32) + delta).to(product.dtype), mask=mask)
        # What other threads of this program wrote is read below.
        tl.debug_barrier()
    x = tl.load(at, mask=mask, other=0.0)
    y = tl.load(at + HEAD_DIM // 2, mask=mask, other=0.0)
    if HAS_BIAS:
        bias_at = bias + head * HEAD_DIM + d
        x_bias = tl.load(bias_at, mask=d_in, other=0.0).to(tl.float32)
        y_bias = tl.load(bias_at + HEAD_DIM // 2, mask=d_in, other=0.0).to(tl.float32)
        x = (x.to(tl.float32) + x_bias[None, :]).to(x.dtype)
        y = (y.to(tl.float32) + y_bias[None, :]).to(y.dtype)
    slot = tl.load(slots + m, mask=m_in, other=0).to(tl.int64)
    cache_row = slot // BLOCK_SIZE * KV_HEADS * BLOCK_SIZE + slot % BLOCK_SIZE
    if head >= Q_HEADS + KV_HEADS:
        to = v_cache + (cache_row + (head - Q_HEADS - KV_HEADS) * BLOCK_SIZE)[:, None] * HEAD_DIM + d[None, :]
        tl.store(to, _kept(x, LARGEST), mask=mask)
        tl.store(to + HEAD_DIM // 2, _kept(y, LARGEST), mask=mask)
        return
    x, y = x.to(tl.float32), y.to(tl.float32)
    if HAS_NORM:
        norm = q_norm
        if head >= Q_HEADS:
            norm = k_norm
        scale = 1.0 / tl.sqrt((tl.sum(x * x, 1) + tl.sum(y * y, 1)) / HEAD_DIM + eps)
        x = x * scale[:, None] * tl.load(norm + d, mask=d_in, other=0.0).to(tl.float32)[None, :]
        y = y * scale[:, None] * tl.load(norm + HEAD_DIM // 2 + d, mask=d_in, other=0.0).to(tl.float32)[None, :]
        x = x.to(q.dtype.element_ty).to(tl.float32)
        y = y.to(q.dtype.element_ty).to(tl.float32)
    position = tl.load(positions + m, mask=m_in, other=0)
    angle = position[:, None] * (HEAD_DIM // 2) + d[None, :]
    c = tl.load(cos + angle, mask=mask, other=0.0)
    s = tl.load(sin + angle, mask=mask, other=0.0)
    first_half = (x * c - y * s).to(q.dtype.element_ty)
    second_half = (y * c + x * s).to(q.dtype.element_ty)
    if head < Q_HEADS:
        to = q + m[:, None].to(tl.int64) * (Q_HEADS * HEAD_DIM) + head * HEAD_DIM + d[None, :]
        tl.store(to, first_half, mask=mask)
        tl.store(to + HEAD_DIM // 2, second_half, mask=mask)
    else:
        at_k = k_cache + (cache_row + (head - Q_HEADS) * BLOCK_SIZE)[:, None] * HEAD_DIM + d[None, :]
        tl.store(at_k, _kept(first_half, LARGEST), mask=mask)
        tl.store(at_k + HEAD_DIM // 2, _kept(second_half, LARGEST), mask=mask)


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
    a slot being block * block_size + offset; k_cache, v_cache [blocks, keys, block_size, size], of the product's type
    or float8_e4m3fn. Padding rows may share a slot.
    """
    rows, dtype = product.y.shape[0], product.y.dtype
    q = torch.empty(rows, heads.queries, heads.size, dtype=dtype, device=product.y.device)
    lora_a_out, b, range_table, lora_stride, rank = product.arguments()
    q_norm, k_norm = norms or (product.y, product.y)
    half = max(16, triton.next_power_of_2(heads.size // 2))
    # Steps with adapters and without must round alike, so the compiler may not choose what to fuse.
    _rotate_and_write[(-(-rows // _ROWS), heads.total)](
        product.y, lora_a_out, b, range_table, product.y if bias is None else bias, q_norm, k_norm, *rotation,
        positions, slots, q, k_cache, v_cache, rows, eps, lora_stride, rank,
        Q_HEADS=heads.queries, KV_HEADS=heads.keys, HEAD_DIM=heads.size, HALF=half,
        BLOCK_SIZE=k_cache.shape[2], HAS_LORA=product.lora_a_out is not None, HAS_BIAS=bias is not None,
        HAS_NORM=norms is not None, BLOCK_M=_ROWS, ROW_TILE=ROW_TILE, RANK_TILE=RANK_TILE,
        LARGEST=FP8_MAX if k_cache.dtype == torch.float8_e4m3fn else 0.0, num_warps=4,
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
    y = product.y.double() + lora_expand_plain(product)
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
