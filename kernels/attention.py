"""Attention over a paged cache on the CPU, in compiled code.

A query head of one token is computed by one thread: its scores, block by block, then their softmax, then the weighted
values, slot by slot. So each number is made by the same operations whether the token is decoded alone, prefilled in a
chunk of any size, or reads blocks that other sequences wrote. Decode and prefill are one path.

Keys lie transposed in the cache, so that both products run along its rows without a sum over lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from warmeng.kernels.lanes import LANES
from warmeng.kernels.simd import (
    before,
    exp,
    fill,
    fma,
    largest,
    load,
    load_int,
    load_narrow,
    load_some,
    maximum,
    real,
    spread,
    store,
    store_some,
    total,
    words,
)  # fmt: skip
from warmeng.kernels.threads import Kernel, next_unit, own_number, word_of

Ints = npt.NDArray[np.int32]

# Query tokens of one unit of work: few enough that threads share a prefill evenly.
_TOKENS = 16
# Words of a unit: its first row, its tokens, the slots that the last of them sees, its block table, its hole.
_WORDS = 6
_HIDDEN = np.float32(-np.inf)


@dataclass(frozen=True)
class AttentionPlan:
    """How a step's tokens attend; built once a step, used by all layers."""

    # int64 [units, 6], see ``_WORDS``; each is computed for one key head at a time.
    units: Tensor
    # int64 [segments, longest]: cache blocks.
    tables: Tensor
    # Slots that the token with most slots sees, rounded up to whole blocks.
    longest: int


def plan_attention(query_lens: Ints, seq_lens: Ints, tables: Ints, holes: Ints, block_size: int) -> AttentionPlan:
    """Lay out the attention of a step whose query tokens are those of segments, one after the other.

    A segment is a run of query tokens that are neighbours in one block table. ``query_lens`` [segments] its tokens;
    ``seq_lens`` [segments] the slots of its table that the last of them sees, each token before it one less; ``tables``
    [segments, longest] cache blocks; ``holes`` [segments, 2]: slots from the first to the second, which is the end of
    the first's block, are never seen. (A label's own blocks follow the prompt's last block, which may be partly
    filled.)
    """
    parts = -(-query_lens.astype(np.int64) // _TOKENS)
    of = np.repeat(np.arange(len(parts)), parts)
    start = (np.arange(len(of)) - np.repeat(np.cumsum(parts) - parts, parts)) * _TOKENS
    stop = np.minimum(start + _TOKENS, query_lens[of])
    units = np.empty((len(of), _WORDS), dtype=np.int64)
    units[:, 0] = (np.cumsum(query_lens) - query_lens)[of] + start
    units[:, 1] = stop - start
    units[:, 2] = seq_lens[of] - query_lens[of] + stop
    units[:, 3] = of * tables.shape[1]
    units[:, 4:] = holes[of]
    longest = -(-int(seq_lens.max()) // block_size) * block_size
    return AttentionPlan(torch.from_numpy(units), torch.from_numpy(tables.astype(np.int64)), longest)


def attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: AttentionPlan, scale: float) -> Tensor:
    """Return softmax(q k^T scale) v of each query token over the slots that the plan lets it see.

    q fp32 [rows, heads, d], heads ordered by kv head, each row's heads one after the other; k_cache [blocks, kv_heads,
    d, block_size]; v_cache [blocks, kv_heads, block_size, d], both contiguous, fp32 or bf16. Returns fp32 [rows,
    heads * d]; the plan names every row.
    """
    rows, heads, d = q.shape
    kv_heads, block_size = v_cache.shape[1:3]
    if not (k_cache.is_contiguous() and v_cache.is_contiguous() and q.stride()[1:] == (d, 1)):
        raise ValueError("attention takes contiguous caches and rows")
    if q.dtype != torch.float32 or k_cache.dtype not in _KERNELS or k_cache.dtype != v_cache.dtype:
        raise ValueError("attention takes queries of float32, and caches of float32 or bfloat16")
    if block_size % LANES:
        raise ValueError(f"attention takes blocks of a multiple of {LANES} slots")
    out = torch.empty(rows, heads * d)
    threads = torch.get_num_threads()
    scores = torch.empty(threads, plan.longest)
    _KERNELS[k_cache.dtype](
        len(plan.units), kv_heads, heads // kv_heads, d, block_size, q.stride(0), plan.longest, q.data_ptr(),
        k_cache.data_ptr(), v_cache.data_ptr(), out.data_ptr(), plan.units.data_ptr(), plan.tables.data_ptr(),
        scores.data_ptr(), word_of(scale),
    )  # fmt: skip
    return out


@njit(inline="always")
def _visible(first: int, block_size: int, seen: int, hole: int, hole_end: int) -> int:
    """Return how many slots a token sees of the block whose first slot is ``first``."""
    count = min(block_size, seen - first)
    if hole_end > hole and first <= hole < first + block_size:
        count = min(count, hole - first)
    return count


@njit(inline="always")
def _attend(data: int, cached: Any, size: int) -> None:
    """Take units: the tokens of a part of a segment, for one key head. ``cached`` loads numbers of ``size`` bytes."""
    (_, _, units, kv_heads, group, d, block_size, row, longest, q, k_cache, v_cache, out, unit_words, tables, scores,
     scale_word) = words(data, 17)  # fmt: skip
    scores += 4 * longest * own_number(data)
    scale = fill(real(scale_word))
    while True:
        taken = next_unit(data)
        if taken >= units * kv_heads:
            break
        kv_head = taken % kv_heads
        first, tokens, context, table, hole, hole_end = words(unit_words + 8 * _WORDS * (taken // kv_heads), 6)
        table = tables + 8 * table
        for token in range(tokens):
            seen = context - tokens + token + 1
            blocks = (seen + block_size - 1) // block_size
            for head in range(kv_head * group, (kv_head + 1) * group):
                query = q + 4 * ((first + token) * row + head * d)
                top = fill(_HIDDEN)
                for block in range(blocks):
                    visible = _visible(block * block_size, block_size, seen, hole, hole_end)
                    keys = k_cache + size * (load_int(table, block) * kv_heads + kv_head) * d * block_size
                    for part in range(0, block_size, LANES):
                        # Four sums, because each waits for its last one.
                        s0 = fill(np.float32(0))
                        s1, s2, s3, i = s0, s0, s0, 0
                        while i + 4 <= d:
                            s0 = fma(spread(query, i), cached(keys, i * block_size + part, LANES), s0)
                            s1 = fma(spread(query, i + 1), cached(keys, (i + 1) * block_size + part, LANES), s1)
                            s2 = fma(spread(query, i + 2), cached(keys, (i + 2) * block_size + part, LANES), s2)
                            s3 = fma(spread(query, i + 3), cached(keys, (i + 3) * block_size + part, LANES), s3)
                            i += 4
                        while i < d:
                            s0 = fma(spread(query, i), cached(keys, i * block_size + part, LANES), s0)
                            i += 1
                        s = ((s0 + s1) + (s2 + s3)) * scale
                        if part + LANES > visible:
                            s = before(s, visible - part, _HIDDEN)
                        top = maximum(s, top)
                        store(scores, block * block_size + part, s)
                highest = fill(largest(top))
                sums = fill(np.float32(0))
                for slot in range(0, blocks * block_size, LANES):
                    p = exp(load(scores, slot) - highest)
                    sums = sums + p
                    store(scores, slot, p)
                share = fill(np.float32(1) / total(sums))
                to = out + 4 * ((first + token) * group * kv_heads + head) * d
                i = 0
                while i + 4 * LANES <= d:
                    s0 = fill(np.float32(0))
                    s1, s2, s3 = s0, s0, s0
                    for block in range(blocks):
                        values = v_cache + size * ((load_int(table, block) * kv_heads + kv_head) * d * block_size + i)
                        # Hidden slots may hold anything.
                        for slot in range(_visible(block * block_size, block_size, seen, hole, hole_end)):
                            p = spread(scores, block * block_size + slot)
                            s0 = fma(p, cached(values, slot * d, LANES), s0)
                            s1 = fma(p, cached(values, slot * d + LANES, LANES), s1)
                            s2 = fma(p, cached(values, slot * d + 2 * LANES, LANES), s2)
                            s3 = fma(p, cached(values, slot * d + 3 * LANES, LANES), s3)
                    store(to, i, s0 * share)
                    store(to, i + LANES, s1 * share)
                    store(to, i + 2 * LANES, s2 * share)
                    store(to, i + 3 * LANES, s3 * share)
                    i += 4 * LANES
                while i < d:
                    width = min(d - i, LANES)
                    s0 = fill(np.float32(0))
                    for block in range(blocks):
                        values = v_cache + size * ((load_int(table, block) * kv_heads + kv_head) * d * block_size + i)
                        for slot in range(_visible(block * block_size, block_size, seen, hole, hole_end)):
                            s0 = fma(spread(scores, block * block_size + slot), cached(values, slot * d, width), s0)
                    store_some(to, i, s0 * share, width)
                    i += LANES


@Kernel
def _attend_wide(data: int) -> None:
    _attend(data, load_some, 4)


@Kernel
def _attend_narrow(data: int) -> None:
    _attend(data, load_narrow, 2)


_KERNELS = {torch.float32: _attend_wide, torch.bfloat16: _attend_narrow}
