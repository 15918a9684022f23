"""Attention over a paged cache: one kernel for decoding and for prefill with a cached prefix.

A tile is ``BLOCK_M`` rows of one sequence and one key-value head. A row is one query token and one query head of that
head's group: so decoding packs the whole group into one tile and reads each key once for it. Keys are taken in tiles of
``BLOCK_N`` from the start of the context, in chunks of ``chunk`` slots. A context longer than one chunk is combined
from its chunks' partial softmaxes (Milakov and Gimelshein 2018) in ascending order. Where the chunks lie depends on the
position alone, so a token's bits depend neither on the batch nor on how its prompt was cut.

In the kernels, as in the literature on online softmax: ``m_i`` is the running maximum of a row's scores, ``l_i`` the
running sum of its exponentials, ``acc`` the running sum of the values they weigh.

Decoding reads ``2 * context * kv_heads * head_dim * itemsize`` bytes a sequence, which bounds its time. Prefill does
``4 * queries * context * heads * head_dim`` operations, half of them where the mask is triangular.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


class SegmentField(IntEnum):
    """The columns of ``PagedPlan.segments``."""

    # The first query row, and the number of query rows.
    FIRST_ROW = 0
    QUERY_LEN = 1
    # The slots that the last query token sees.
    CONTEXT_LEN = 2
    # The first slot of the hole, which no row sees, and the one after its last.
    HOLE_FIRST = 3
    HOLE_STOP = 4
    # The segment's row of ``PagedPlan.block_tables``.
    BLOCK_TABLE = 5


SEGMENT_FIELDS = len(SegmentField)
# Kernels can read global constants of this type only.
_FIRST_ROW = tl.constexpr(int(SegmentField.FIRST_ROW))
_QUERY_LEN = tl.constexpr(int(SegmentField.QUERY_LEN))
_CONTEXT_LEN = tl.constexpr(int(SegmentField.CONTEXT_LEN))
_HOLE_FIRST = tl.constexpr(int(SegmentField.HOLE_FIRST))
_HOLE_STOP = tl.constexpr(int(SegmentField.HOLE_STOP))
_BLOCK_TABLE = tl.constexpr(int(SegmentField.BLOCK_TABLE))


@dataclass(frozen=True)
class AttentionTile:
    """One configuration of the kernel. ``block_n`` and the chunk decide the order of summation."""

    block_m: int
    block_n: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tiling:
    """How a device's attention is cut."""

    decode: AttentionTile
    prefill: AttentionTile
    # Slots; a multiple of both ``block_n``.
    chunk: int
    # The device has a tensor memory accelerator (Hopper and later).
    tma: bool = False


def tiling_for(head_dim: int, fast: bool, capability: int, chunk: int = 2048) -> Tiling:
    """Return the configurations for a head size on a device (``capability``: 80, 90, 100).

    Deterministic tiles have 64 rows or more, whatever they hold: on Hopper fewer rows take another instruction, and a
    token that was decoded would have other bits than the same token prefilled. Widths and warps are those that keep
    everything in registers.
    """
    hopper = capability >= 90
    if head_dim > 128:
        # The accumulator of 64 rows takes the registers of eight warps.
        both = AttentionTile(64, 32, 8, 2)
        return Tiling(AttentionTile(16, 32, 4, 2) if fast else both, both, chunk, hopper)
    if fast:
        block_n = 64 if hopper or head_dim <= 64 else 32
        # Ampere's assembler spills one of these at three stages: it wants seven blocks at once, not the registers.
        decode = AttentionTile(16, block_n, 4, 3 if hopper or head_dim > 64 else 2)
        return Tiling(decode, AttentionTile(128, block_n, 8, 3), chunk, hopper)
    # With 32 keys three programs fit on a multiprocessor, with 64 two: 113 against 126 us for 256 sequences (H200).
    block_n = 64 if not hopper and head_dim <= 64 else 32
    return Tiling(AttentionTile(64, block_n, 4, 2 if hopper else 3), AttentionTile(128, block_n, 8, 3), chunk, hopper)


@dataclass(frozen=True)
class PagedPlan:
    """How a step's tokens attend; built on the host, one for all layers."""

    # int32 [segments, SEGMENT_FIELDS]
    segments: Tensor
    # int32 [tables, longest]: cache blocks.
    block_tables: Tensor
    # int32 [tiles, 2]: the segment, and the tile's first row among the segment's ``query_len * group``.
    decode: Tensor
    # int32 [tiles, 2]
    prefill: Tensor
    # Of the longest context.
    num_chunks: int


def cut_tiles(queries: Sequence[int], group: int, tiles: Tiling) -> tuple[np.ndarray, np.ndarray]:
    """Return the decode and prefill tiles, int32 [tiles, 2], of segments with these numbers of query tokens."""
    decode: list[tuple[int, int]] = []
    prefill: list[tuple[int, int]] = []
    for segment, count in enumerate(queries):
        rows = count * group
        short = rows <= tiles.decode.block_m
        step = tiles.decode.block_m if short else tiles.prefill.block_m
        (decode if short else prefill).extend((segment, first) for first in range(0, rows, step))
    shape = (-1, 2)
    return np.asarray(decode, dtype=np.int32).reshape(shape), np.asarray(prefill, dtype=np.int32).reshape(shape)


@triton.jit
def _attend_slots(
    acc, m_i, l_i, q, table, k_cache, v_cache, start, stop, last, hole_first, hole_stop, context, kv_head,
    scale, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr, MASKED: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Add the slots from ``start`` to ``stop`` to the running softmax of the tile's rows.

    With ``TMA``, k_cache and v_cache are descriptors of [blocks * KV_HEADS * BLOCK_SIZE, HEAD_DIM]; a tile lies in one
    block.

    With a mask and without, a slot must give the same bits. The compiler would fuse the scaling with the subtraction of
    the maximum and round once, but twice where the mask lies between. So the launch forbids it to fuse.
    """
    d = tl.arange(0, PADDED_DIM)
    d_in = d < HEAD_DIM
    for first in range(start, stop, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        there = n < context
        if MASKED:
            there &= (n < hole_first) | (n >= hole_stop)
        if TMA:
            row = (tl.load(table + first // BLOCK_SIZE) * KV_HEADS + kv_head) * BLOCK_SIZE + first % BLOCK_SIZE
            k = k_cache.load([row, 0])
        else:
            block = tl.load(table + n // BLOCK_SIZE, mask=n < context, other=0).to(tl.int64)
            at = ((block * KV_HEADS + kv_head) * BLOCK_SIZE + n % BLOCK_SIZE)[:, None] * HEAD_DIM + d[None, :]
            if MASKED or PADDED_DIM != HEAD_DIM:
                load = there[:, None] & d_in[None, :]
                k = tl.load(k_cache + at, mask=load, other=0.0)
            else:
                k = tl.load(k_cache + at)
        scores = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee") * scale
        if MASKED:
            scores = tl.where(there[None, :] & (n[None, :] <= last[:, None]), scores, -float("inf"))
        m_new = tl.maximum(m_i, tl.max(scores, 1))
        base = tl.where(m_new == -float("inf"), 0.0, m_new)
        p = tl.exp2(scores - base[:, None])
        alpha = tl.exp2(m_i - base)
        l_i = l_i * alpha + tl.sum(p, 1)
        if TMA:
            v = v_cache.load([row, 0])
        elif MASKED or PADDED_DIM != HEAD_DIM:
            load = there[:, None] & d_in[None, :]
            v = tl.load(v_cache + at, mask=load, other=0.0)
        else:
            v = tl.load(v_cache + at)
        acc = tl.dot(p.to(q.dtype), v.to(q.dtype), acc * alpha[:, None], input_precision="ieee")
        m_i = m_new
    return acc, m_i, l_i


@triton.jit(do_not_specialize=["table_stride", "tokens"])
def _paged_attention(
    q, k_cache, v_cache, k_blocks, v_blocks, out, part_acc, part_m_l, segments, block_tables, tiles,
    scale, table_stride, tokens,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, CHUNK: tl.constexpr, CHUNKED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SEGMENT_FIELDS: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    GROUP: tl.constexpr = HEADS // KV_HEADS
    kv_head, tile, chunk = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    segment = tl.load(tiles + tile * 2)
    row = tl.load(tiles + tile * 2 + 1) + tl.arange(0, BLOCK_M)
    fields = segments + segment * SEGMENT_FIELDS
    first_query, queries = tl.load(fields + _FIRST_ROW), tl.load(fields + _QUERY_LEN)
    context = tl.load(fields + _CONTEXT_LEN)
    hole_first, hole_stop = tl.load(fields + _HOLE_FIRST), tl.load(fields + _HOLE_STOP)
    # An empty hole masks nothing.
    hole_first = tl.where(hole_first < hole_stop, hole_first, context)
    table = block_tables + tl.load(fields + _BLOCK_TABLE).to(tl.int64) * table_stride
    token = row // GROUP
    real = token < queries
    # The last slot that the row sees.
    last = context - queries + token
    end = tl.minimum(tl.max(tl.where(real, last, -1)) + 1, (chunk + 1) * CHUNK)
    start = chunk * CHUNK
    if CHUNKED:
        if start >= end:
            return
    head = kv_head * GROUP + row % GROUP
    d = tl.arange(0, PADDED_DIM)
    mask = real[:, None] & (d < HEAD_DIM)[None, :]
    place = (first_query + token).to(tl.int64) * HEADS + head
    rows = tl.load(q + place[:, None] * HEAD_DIM + d[None, :], mask=mask, other=0.0)
    m_i = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    l_i = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, PADDED_DIM), tl.float32)
    # Slots that every row sees need no mask. Rows past the last token see as much as it does.
    seen = tl.minimum(context - queries + tl.min(row) // GROUP + 1, end)
    whole = start + tl.maximum(tl.minimum(seen, hole_first) - start, 0) // BLOCK_N * BLOCK_N
    acc, m_i, l_i = _attend_slots(
        acc, m_i, l_i, rows, table, k_blocks, v_blocks, start, whole, last, hole_first, hole_stop, context,
        kv_head, scale, KV_HEADS, HEAD_DIM, PADDED_DIM, BLOCK_SIZE, BLOCK_N, False, TMA,
    )  # fmt: skip
    acc, m_i, l_i = _attend_slots(
        acc, m_i, l_i, rows, table, k_cache, v_cache, whole, end, last, hole_first, hole_stop, context, kv_head,
        scale, KV_HEADS, HEAD_DIM, PADDED_DIM, BLOCK_SIZE, BLOCK_N, True, False,
    )  # fmt: skip
    if CHUNKED:
        part = chunk.to(tl.int64) * tokens * HEADS + place
        tl.store(part_acc + part[:, None] * PADDED_DIM + d[None, :], acc, mask=mask)
        tl.store(part_m_l + part * 2, m_i, mask=real)
        tl.store(part_m_l + part * 2 + 1, l_i, mask=real)
    else:
        acc = acc / tl.where(l_i == 0.0, 1.0, l_i)[:, None]
        tl.store(out + place[:, None] * HEAD_DIM + d[None, :], acc.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["tokens"])
def _combine_chunks(
    part_acc, part_m_l, out, context_lens, tokens,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * HEADS + tl.program_id(1)
    length = tl.load(context_lens + tl.program_id(0))
    d = tl.arange(0, PADDED_DIM)
    acc = tl.zeros((PADDED_DIM,), tl.float32)
    l_i = 0.0
    m_i = -float("inf")
    part = place
    for _ in range(tl.cdiv(length, CHUNK)):
        m_part, l_part = tl.load(part_m_l + part * 2), tl.load(part_m_l + part * 2 + 1)
        m_new = tl.maximum(m_i, m_part)
        base = tl.where(m_new == -float("inf"), 0.0, m_new)
        alpha, beta = tl.exp2(m_i - base), tl.exp2(m_part - base)
        acc = acc * alpha + tl.load(part_acc + part * PADDED_DIM + d) * beta
        l_i = l_i * alpha + l_part * beta
        m_i = m_new
        part += tokens * HEADS
    acc = acc / tl.where(l_i == 0.0, 1.0, l_i)
    tl.store(out + place * HEAD_DIM + d, acc.to(out.dtype.element_ty), mask=d < HEAD_DIM)


def attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: PagedPlan, context_lens: Tensor, scale: float, tiles: Tiling
) -> Tensor:
    """Return softmax(q k^T scale) v of each query token over the slots that its plan lets it see.

    q [tokens, heads, head_dim]; k_cache, v_cache [blocks, kv_heads, block_size, head_dim], of q's type or
    float8_e4m3fn, which is widened to it; context_lens: int32
    [tokens], the slots from the start of its table to each token, itself included (used where a context has several
    chunks). Returns [tokens, heads * head_dim]; rows of no segment (padding) are left as they are.
    """
    tokens, heads, head_dim = q.shape
    _, kv_heads, block_size, _ = k_cache.shape
    padded_dim = max(16, triton.next_power_of_2(head_dim))
    out = torch.empty(tokens, heads * head_dim, dtype=q.dtype, device=q.device)
    part_acc, part_m_l = out, out
    if plan.num_chunks > 1:
        part_acc = torch.empty(plan.num_chunks, tokens, heads, padded_dim, dtype=torch.float32, device=q.device)
        part_m_l = torch.empty(plan.num_chunks, tokens, heads, 2, dtype=torch.float32, device=q.device)
    for which, tile in ((plan.decode, tiles.decode), (plan.prefill, tiles.prefill)):
        if not len(which):
            continue
        # Whole tiles that lie in one block come through the memory accelerator, others and masked ones by plain loads.
        tma = tiles.tma and block_size % tile.block_n == 0 and padded_dim == head_dim
        blocks = (_described(c, tile.block_n) for c in (k_cache, v_cache)) if tma else (k_cache, v_cache)
        _paged_attention[(kv_heads, len(which), plan.num_chunks)](
            q, k_cache, v_cache, *blocks, out, part_acc, part_m_l, plan.segments, plan.block_tables, which,
            scale / math.log(2), plan.block_tables.shape[1], tokens,
            HEADS=heads, KV_HEADS=kv_heads, HEAD_DIM=head_dim, PADDED_DIM=padded_dim, BLOCK_SIZE=block_size,
            CHUNK=tiles.chunk, CHUNKED=plan.num_chunks > 1, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n,
            SEGMENT_FIELDS=SEGMENT_FIELDS, TMA=tma,
            num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=False,
        )  # fmt: skip
    if plan.num_chunks > 1:
        _combine_chunks[(tokens, heads)](
            part_acc,
            part_m_l,
            out,
            context_lens,
            tokens,
            HEADS=heads,
            HEAD_DIM=head_dim,
            PADDED_DIM=padded_dim,
            CHUNK=tiles.chunk,
            num_warps=1,
        )
    return out


def _described(cache: Tensor, height: int) -> TensorDescriptor:
    """Return a descriptor of a cache [blocks, kv_heads, block_size, head_dim] for tiles [height, head_dim]."""
    head_dim = cache.shape[-1]
    return TensorDescriptor(cache, [cache.numel() // head_dim, head_dim], [head_dim, 1], [height, head_dim])


def attention_plain(q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: PagedPlan, scale: float) -> Tensor:
    """Return what ``attention`` does, in float64, a segment at a time: the twin. Padding rows are zero."""
    tokens, heads, head_dim = q.shape
    kv_heads = k_cache.shape[1]
    out = torch.zeros(tokens, heads, head_dim, dtype=torch.float64, device=q.device)
    for first, queries, context, hole_first, hole_stop, row in plan.segments.tolist():
        slot = torch.arange(context, device=q.device)
        slot = slot[(slot < hole_first) | (slot >= hole_stop)]
        blocks = plan.block_tables[row, : -(-context // k_cache.shape[2])].long()
        k, v = (c[blocks].double().transpose(1, 2).reshape(-1, kv_heads, head_dim)[slot] for c in (k_cache, v_cache))
        last = torch.arange(context - queries, context, device=q.device)
        rows = q[first : first + queries].double().view(queries, kv_heads, heads // kv_heads, head_dim)
        scores = torch.einsum("qkgd,nkd->kgqn", rows, k) * scale
        weights = scores.masked_fill(slot > last[:, None], -torch.inf).softmax(-1)
        out[first : first + queries] = torch.einsum("kgqn,nkd->qkgd", weights, v).reshape(queries, heads, head_dim)
    return out.view(tokens, heads * head_dim)
