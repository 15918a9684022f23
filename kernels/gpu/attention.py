"""Attention over a paged cache: one kernel for decoding and for prefill with a cached prefix.

A tile is ``BLOCK_M`` rows of one sequence and one key-value head; a row is one query token and one query head of that
head's group, so that decoding packs the whole group into one tile and reads each key once for it. Keys are walked in
tiles of ``BLOCK_N`` from the start of the context, in chunks of ``chunk`` slots; a context longer than one chunk is
put together from its chunks' partial softmaxes (Milakov and Gimelshein 2018) in ascending order. Where the chunks
lie depends on the position alone, so a token's bits depend neither on the batch nor on how its prompt was cut.

Decoding reads 2 context kv_heads size item bytes a sequence, and that is its floor. Prefill does 4 queries context
heads size operations, half of them where the mask is triangular.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

FIELDS = 6  # of a segment: first query row, query tokens, context length, hole (first, stop), row of the block table


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
    chunk: int  # slots; a multiple of both block_n
    tma: bool = False  # the device has a tensor memory accelerator (Hopper and later)


def tiling(head_size: int, fast: bool, capability: int, chunk: int = 2048) -> Tiling:
    """Return the configurations for a head size on a device (``capability``: 80, 90, 100).

    Deterministic tiles have 64 rows or more, whatever they hold: on Hopper fewer rows take another instruction, and a
    token that was decoded would have other bits than the same token prefilled. Widths and warps are those that keep
    everything in registers.
    """
    hopper = capability >= 90
    if head_size > 128:  # the accumulator of 64 rows takes the registers of eight warps
        both = AttentionTile(64, 32, 8, 2)
        return Tiling(AttentionTile(16, 32, 4, 2) if fast else both, both, chunk, hopper)
    if fast:
        block_n = 64 if hopper or head_size <= 64 else 32
        # Ampere's assembler spills one of these at three stages: it wants seven blocks at once, not the registers.
        decode = AttentionTile(16, block_n, 4, 3 if hopper or head_size > 64 else 2)
        return Tiling(decode, AttentionTile(128, block_n, 8, 3), chunk, hopper)
    # With 32 keys three programs fit on a multiprocessor, with 64 two: 113 against 126 us for 256 sequences (H200).
    block_n = 64 if not hopper and head_size <= 64 else 32
    return Tiling(AttentionTile(64, block_n, 4, 2 if hopper else 3), AttentionTile(128, block_n, 8, 3), chunk, hopper)


@dataclass(frozen=True)
class PagedPlan:
    """How a step's tokens attend; built on the host, one for all layers."""

    segments: Tensor  # int32 [segments, FIELDS]
    tables: Tensor  # int32 [tables, longest]: cache blocks
    decode: Tensor  # int32 [tiles, 2]: segment, first row of the tile among the segment's tokens * group
    prefill: Tensor  # int32 [tiles, 2]
    chunks: int  # of the longest context


def cut(queries: Sequence[int], group: int, tiles: Tiling) -> tuple[np.ndarray, np.ndarray]:
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
def _walk(
    total, peak, weight, q, table, k_cache, v_cache, start, stop, last, hole_first, hole_stop, context, kv_head,
    scale, KEYS: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr, CACHE_BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr, MASKED: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Take the slots from ``start`` to ``stop`` into the running softmax of the tile's rows.

    With ``TMA``, k_cache and v_cache are descriptors of [blocks * keys * CACHE_BLOCK, SIZE]; a tile lies in one block.

    With a mask and without, a slot must give the same bits. Left to itself the compiler rounds the scaled score less
    the peak once where nothing lies between, and twice where the mask does, so the launch forbids it to fuse them.
    """
    d = tl.arange(0, WIDTH)
    d_in = d < SIZE
    for first in range(start, stop, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        there = n < context
        if MASKED:
            there &= (n < hole_first) | (n >= hole_stop)
        if TMA:
            row = (tl.load(table + first // CACHE_BLOCK) * KEYS + kv_head) * CACHE_BLOCK + first % CACHE_BLOCK
            k = k_cache.load([row, 0])
        else:
            block = tl.load(table + n // CACHE_BLOCK, mask=n < context, other=0).to(tl.int64)
            at = ((block * KEYS + kv_head) * CACHE_BLOCK + n % CACHE_BLOCK)[:, None] * SIZE + d[None, :]
            if MASKED or WIDTH != SIZE:
                load = there[:, None] & d_in[None, :]
                k = tl.load(k_cache + at, mask=load, other=0.0)
            else:
                k = tl.load(k_cache + at)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if MASKED:
            scores = tl.where(there[None, :] & (n[None, :] <= last[:, None]), scores, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        base = tl.where(new_peak == -float("inf"), 0.0, new_peak)
        p = tl.exp2(scores - base[:, None])
        fade = tl.exp2(peak - base)
        weight = weight * fade + tl.sum(p, 1)
        if TMA:
            v = v_cache.load([row, 0])
        elif MASKED or WIDTH != SIZE:
            load = there[:, None] & d_in[None, :]
            v = tl.load(v_cache + at, mask=load, other=0.0)
        else:
            v = tl.load(v_cache + at)
        total = tl.dot(p.to(v.dtype), v, total * fade[:, None], input_precision="ieee")
        peak = new_peak
    return total, peak, weight


@triton.jit(do_not_specialize=["table_stride", "tokens"])
def _paged_attention(
    q, k_cache, v_cache, k_blocks, v_blocks, out, part_out, part_sums, segments, tables, tiles,
    scale, table_stride, tokens,
    HEADS: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr, CACHE_BLOCK: tl.constexpr,
    CHUNK: tl.constexpr, CHUNKED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, FIELDS: tl.constexpr,
    TMA: tl.constexpr,
):  # fmt: skip
    GROUP: tl.constexpr = HEADS // KEYS
    kv_head, tile, chunk = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    segment = tl.load(tiles + tile * 2)
    row = tl.load(tiles + tile * 2 + 1) + tl.arange(0, BLOCK_M)
    about = segments + segment * FIELDS
    first_query, queries, context = tl.load(about), tl.load(about + 1), tl.load(about + 2)
    hole_first, hole_stop = tl.load(about + 3), tl.load(about + 4)
    hole_first = tl.where(hole_first < hole_stop, hole_first, context)  # an empty hole masks nothing
    table = tables + tl.load(about + 5).to(tl.int64) * table_stride
    token = row // GROUP
    real = token < queries
    last = context - queries + token  # the last slot that the row sees
    end = tl.minimum(tl.max(tl.where(real, last, -1)) + 1, (chunk + 1) * CHUNK)
    start = chunk * CHUNK
    if CHUNKED:
        if start >= end:
            return
    head = kv_head * GROUP + row % GROUP
    d = tl.arange(0, WIDTH)
    mask = real[:, None] & (d < SIZE)[None, :]
    place = (first_query + token).to(tl.int64) * HEADS + head
    rows = tl.load(q + place[:, None] * SIZE + d[None, :], mask=mask, other=0.0)
    peak = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    weight = tl.zeros((BLOCK_M,), tl.float32)
    total = tl.zeros((BLOCK_M, WIDTH), tl.float32)
    # Slots that every row sees need no mask. Rows past the last token see as much as it does.
    seen = tl.minimum(context - queries + tl.min(row) // GROUP + 1, end)
    whole = start + tl.maximum(tl.minimum(seen, hole_first) - start, 0) // BLOCK_N * BLOCK_N
    total, peak, weight = _walk(
        total, peak, weight, rows, table, k_blocks, v_blocks, start, whole, last, hole_first, hole_stop, context,
        kv_head, scale, KEYS, SIZE, WIDTH, CACHE_BLOCK, BLOCK_N, False, TMA,
    )  # fmt: skip
    total, peak, weight = _walk(
        total, peak, weight, rows, table, k_cache, v_cache, whole, end, last, hole_first, hole_stop, context, kv_head,
        scale, KEYS, SIZE, WIDTH, CACHE_BLOCK, BLOCK_N, True, False,
    )  # fmt: skip
    if CHUNKED:
        part = chunk.to(tl.int64) * tokens * HEADS + place
        tl.store(part_out + part[:, None] * WIDTH + d[None, :], total, mask=mask)
        tl.store(part_sums + part * 2, peak, mask=real)
        tl.store(part_sums + part * 2 + 1, weight, mask=real)
    else:
        total = total / tl.where(weight == 0.0, 1.0, weight)[:, None]
        tl.store(out + place[:, None] * SIZE + d[None, :], total.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["tokens"])
def _combine(
    part_out, part_sums, out, lengths, tokens,
    HEADS: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * HEADS + tl.program_id(1)
    length = tl.load(lengths + tl.program_id(0))
    d = tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), tl.float32)
    weight = 0.0
    peak = -float("inf")
    part = place
    for _ in range(tl.cdiv(length, CHUNK)):
        own_peak, own_weight = tl.load(part_sums + part * 2), tl.load(part_sums + part * 2 + 1)
        new_peak = tl.maximum(peak, own_peak)
        base = tl.where(new_peak == -float("inf"), 0.0, new_peak)
        fade, own = tl.exp2(peak - base), tl.exp2(own_peak - base)
        total = total * fade + tl.load(part_out + part * WIDTH + d) * own
        weight = weight * fade + own_weight * own
        peak = new_peak
        part += tokens * HEADS
    total = total / tl.where(weight == 0.0, 1.0, weight)
    tl.store(out + place * SIZE + d, total.to(out.dtype.element_ty), mask=d < SIZE)


def attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: PagedPlan, lengths: Tensor, scale: float, tiles: Tiling
) -> Tensor:
    """Return softmax(q k^T scale) v of each query token over the slots that its plan lets it see.

    q [tokens, heads, size]; k_cache, v_cache [blocks, kv_heads, block_size, size]; lengths: int32 [tokens], the slots
    from the start of its table to each token, itself included (used where a context has several chunks). Returns
    [tokens, heads * size]; rows that no segment names (padding) are left as they are.
    """
    tokens, heads, size = q.shape
    _, keys, block_size, _ = k_cache.shape
    width = max(16, triton.next_power_of_2(size))
    out = torch.empty(tokens, heads * size, dtype=q.dtype, device=q.device)
    parts, sums = out, out
    if plan.chunks > 1:
        parts = torch.empty(plan.chunks, tokens, heads, width, dtype=torch.float32, device=q.device)
        sums = torch.empty(plan.chunks, tokens, heads, 2, dtype=torch.float32, device=q.device)
    for which, tile in ((plan.decode, tiles.decode), (plan.prefill, tiles.prefill)):
        if not len(which):
            continue
        # Whole tiles that lie in one block come through the memory accelerator; others, and masked ones, by themselves.
        tma = tiles.tma and block_size % tile.block_n == 0 and width == size
        blocks = (_described(c, tile.block_n) for c in (k_cache, v_cache)) if tma else (k_cache, v_cache)
        _paged_attention[(keys, len(which), plan.chunks)](
            q, k_cache, v_cache, *blocks, out, parts, sums, plan.segments, plan.tables, which,
            scale / math.log(2), plan.tables.shape[1], tokens,
            HEADS=heads, KEYS=keys, SIZE=size, WIDTH=width, CACHE_BLOCK=block_size, CHUNK=tiles.chunk,
            CHUNKED=plan.chunks > 1, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, FIELDS=FIELDS, TMA=tma,
            num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=False,
        )  # fmt: skip
    if plan.chunks > 1:
        _combine[(tokens, heads)](
            parts, sums, out, lengths, tokens, HEADS=heads, SIZE=size, WIDTH=width, CHUNK=tiles.chunk, num_warps=1
        )
    return out


def _described(cache: Tensor, height: int) -> TensorDescriptor:
    """Return what the memory accelerator reads tiles [height, size] of a cache [blocks, keys, block_size, size] by."""
    size = cache.shape[-1]
    return TensorDescriptor(cache, [cache.numel() // size, size], [size, 1], [height, size])


def attention_plain(q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: PagedPlan, scale: float) -> Tensor:
    """Return what ``attention`` does, in float64, a segment at a time: the twin. Padding rows are zero."""
    tokens, heads, size = q.shape
    keys = k_cache.shape[1]
    out = torch.zeros(tokens, heads, size, dtype=torch.float64, device=q.device)
    for first, queries, context, hole_first, hole_stop, row in plan.segments.tolist():
        slot = torch.arange(context, device=q.device)
        slot = slot[(slot < hole_first) | (slot >= hole_stop)]
        blocks = plan.tables[row, : -(-context // k_cache.shape[2])].long()
        k, v = (c[blocks].double().transpose(1, 2).reshape(-1, keys, size)[slot] for c in (k_cache, v_cache))
        last = torch.arange(context - queries, context, device=q.device)
        rows = q[first : first + queries].double().view(queries, keys, heads // keys, size)
        scores = torch.einsum("qkgd,nkd->kgqn", rows, k) * scale
        weights = scores.masked_fill(slot > last[:, None], -torch.inf).softmax(-1)
        out[first : first + queries] = torch.einsum("kgqn,nkd->qkgd", weights, v).reshape(queries, heads, size)
    return out.view(tokens, heads * size)
