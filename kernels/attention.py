"""Attention over a paged cache, computed by pairs of (query token, cache block).

Every pair gives a partial softmax of one block: its maximum (``m_i``), its sum (``l_i``) and its weighted values
(``acc``). A token's partials are then added in the order of its blocks. So each number is made by the same operations
whether the token is decoded alone, prefilled in a chunk of any size, or reads blocks that other sequences wrote. Decode
and prefill are one path.

On the CPU the cost is memory traffic. Blocks that one token reads (decoding) are multiplied where they lie in the
cache, in contiguous runs, without a gather. Blocks that many tokens read (prefill, shared prefixes) are read
once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IntArray = npt.NDArray[np.int64]

# Runs of blocks are joined over gaps of up to this many blocks: a call costs about as much as 20 blocks.
_GAP = 16
# PyTorch multiplies matrices with fewer products than this by another loop, with other bits.
_MIN_PRODUCT = 400
# Rows of the largest small product that is tried in the search for those that agree.
_MAX_TRIAL_ROWS = 64
# Pairs of one plan, which bounds the workspace: a pair takes num_heads * (head_dim + 2) numbers.
_MAX_PAIRS = 8192


@dataclass(frozen=True)
class Group:
    """Blocks that are read by the same number of query tokens, multiplied in one batched product."""

    # A run of the cache, or block ids [n].
    blocks: slice | Tensor
    num_queries: int
    # [n * kv_heads * num_queries] rows of q seen as [tokens * kv_heads, group * d].
    q_index: Tensor
    # fp32 [n, 1, num_queries, 1, block_size], minus infinity where the token must not see the slot.
    mask: Tensor | None


@dataclass(frozen=True)
class PairPlan:
    """How some of a step's tokens attend; built once a step, used by all layers.

    A partial is one row for each query head: ``((block * kv_heads + kv_head) * num_queries + query) * group + head``
    within its group. A bag holds the partials of one query token and head, in the order of the token's blocks.
    """

    groups: tuple[Group, ...]
    # Partials of all groups.
    num_rows: int
    # [pairs * heads] the partials, bag after bag.
    rows: Tensor
    # [bags] where each bag starts in ``rows``.
    offsets: Tensor
    # [pairs * heads] the bag of each.
    bag: Tensor
    # [bags * longest] each bag's partials, the last one repeated.
    padded: Tensor
    # Blocks of the token with most blocks.
    longest: int
    # Rows of q and of the output.
    tokens: slice


@dataclass(frozen=True)
class Segment:
    """A run of query tokens that are neighbours in one block table.

    ``table`` holds cache block ids; the last query token sees the first ``context_len`` slots of it, each token before
    it one less. Slots from ``hole[0]`` to ``hole[1]`` are never seen: a label's own blocks follow the prompt's last
    block, which may be partly filled.
    """

    table: IntArray
    num_queries: int
    context_len: int
    hole: tuple[int, int] = (0, 0)


@torch.inference_mode()
def min_queries(group: int, head_dim: int, block_size: int, fast: bool = False) -> int:
    """Return the least number of query tokens, a power of two, from which a block's small products are batch-invariant.

    Products of few rows take other paths through the BLAS: MKL needed 2 rows on an Intel processor and 4 on an AMD
    one. The number is found by trying random products. ``fast`` takes 1. Raises RuntimeError where no number
    agrees.
    """
    if fast:
        return 1
    generator = torch.Generator().manual_seed(group * 31 + head_dim)
    batch, most = 37, -(-_MAX_TRIAL_ROWS // group)
    queries = torch.randn(batch, most * group, head_dim, generator=generator)
    keys = torch.randn(batch, head_dim, block_size, generator=generator)
    values = torch.randn(batch, block_size, head_dim, generator=generator)
    weights = torch.rand(batch, most * group, block_size, generator=generator)
    scores, sums = torch.bmm(queries, keys), torch.bmm(weights, values)

    def agrees(num_queries: int) -> bool:
        rows = num_queries * group
        return all(
            torch.equal(torch.bmm(queries[:n, :rows].contiguous(), keys[:n]), scores[:n, :rows])
            and torch.equal(torch.bmm(weights[:n, :rows].contiguous(), values[:n]), sums[:n, :rows])
            for n in (2, 3, batch)
        )

    sizes = [1 << k for k in range(most.bit_length()) if 1 << k <= most]
    found = next((k for k, n in enumerate(sizes) if all(agrees(m) for m in sizes[k:])), None)
    if found is None:
        raise RuntimeError(
            "small matrix products give other bits for other numbers of rows on this machine, so results can't be "
            "batch-invariant here: run with --fast"
        )
    count = sizes[found]
    while count * group < 2 or count * group * head_dim * block_size < _MIN_PRODUCT:
        count *= 2
    return count


def plan_pairs(segments: list[Segment], kv_heads: int, group: int, block_size: int, least: int) -> tuple[PairPlan, ...]:
    """Lay out the attention of a step whose query tokens are the segments' tokens, one after the other.

    kv_heads: heads of the cache; group: query heads for each of them; least: as ``min_queries`` gives it. This is host
    work in numpy, without a loop over pairs.
    """
    seg = np.repeat(np.arange(len(segments)), [s.num_queries for s in segments])
    slot = np.concatenate([np.arange(s.context_len - s.num_queries, s.context_len) for s in segments])
    num_blocks = slot // block_size + 1
    plans = []
    start = 0
    cumulative = np.cumsum(num_blocks)
    while start < len(seg):
        done = int(cumulative[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(cumulative, done + _MAX_PAIRS, side="right")))
        part = slice(start, stop)
        plans.append(_plan_slice(segments, seg[part], slot[part], start, kv_heads, group, block_size, least))
        start = stop
    return tuple(plans)


def _plan_slice(
    segments: list[Segment],
    seg: IntArray,
    slot: IntArray,
    first: int,
    kv_heads: int,
    group: int,
    block_size: int,
    least: int,
) -> PairPlan:
    num_blocks = slot // block_size + 1
    # The query token of each pair; pairs lie token by token.
    token = np.repeat(np.arange(len(slot)), num_blocks)
    position = np.arange(len(token)) - np.repeat(np.cumsum(num_blocks) - num_blocks, num_blocks)
    longest = max(len(s.table) for s in segments)
    tables = np.zeros((len(segments), longest), dtype=np.int64)
    holes = np.zeros((len(segments), 2), dtype=np.int64)
    for i, s in enumerate(segments):
        tables[i, : len(s.table)] = s.table
        holes[i] = s.hole
    block = tables[seg[token], position]
    visible = np.minimum(slot[token] + 1 - position * block_size, block_size)
    hole = holes[seg[token]]
    cut = hole[:, 0] - position * block_size
    has_hole = (hole[:, 1] > hole[:, 0]) & (cut > 0) & (cut < block_size)
    visible = np.where(has_hole, np.minimum(visible, cut), visible)

    # How many of these tokens read each block, rounded up to a power of two so that there are few groups.
    by_block = np.argsort(block, kind="stable")
    unique, starts, sizes = np.unique(block[by_block], return_index=True, return_counts=True)
    num_queries = np.maximum(1 << np.ceil(np.log2(sizes)).astype(np.int64), least)
    # Each pair's place among those of its block.
    rank = np.empty(len(block), dtype=np.int64)
    rank[by_block] = np.arange(len(block)) - np.repeat(starts, sizes)
    which = np.searchsorted(unique, block)

    groups: list[Group] = []
    # The row of each pair's first head, and the rows from one kv head to the next.
    partial = np.empty(len(block), dtype=np.int64)
    stride = np.empty(len(block), dtype=np.int64)
    base = 0
    for count in np.unique(num_queries):
        members = np.flatnonzero(num_queries == count)
        for low, high, ids in _runs(unique[members], contiguous=count == least):
            n = high - low if ids is None else len(ids)
            row_of = np.full(len(unique), -1, dtype=np.int64)
            inside = members if ids is not None else members[(unique[members] >= low) & (unique[members] < high)]
            row_of[inside] = np.arange(n) if ids is not None else unique[inside] - low
            pairs = np.flatnonzero(row_of[which] >= 0)
            row = row_of[which[pairs]]
            q_token = np.full((n, count), first, dtype=np.int64)
            q_token[row, rank[pairs]] = first + token[pairs]
            seen = np.full((n, count), block_size, dtype=np.int64)
            seen[row, rank[pairs]] = visible[pairs]
            q_index = q_token[:, None, :] * kv_heads + np.arange(kv_heads)[None, :, None]
            mask = None
            if (seen < block_size).any():
                hidden = (np.arange(block_size) >= seen[:, :, None])[:, None, :, None, :]
                mask = torch.from_numpy(np.where(hidden, np.float32(-np.inf), np.float32(0)))
            partial[pairs] = base + (row * kv_heads * count + rank[pairs]) * group
            stride[pairs] = count * group
            blocks = slice(low, high) if ids is None else torch.from_numpy(ids)
            groups.append(Group(blocks, int(count), torch.from_numpy(q_index.reshape(-1)), mask))
            base += n * kv_heads * int(count) * group
    return PairPlan(
        tuple(groups), base, *_bags(partial, stride, num_blocks, kv_heads, group), slice(first, first + len(slot))
    )


def _bags(
    partial: IntArray, stride: IntArray, num_blocks: IntArray, kv_heads: int, group: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Return ``rows``, ``offsets``, ``bag``, ``padded`` and ``longest`` of a plan."""
    longest = int(num_blocks.max())
    ends = np.cumsum(num_blocks)
    starts = ends - num_blocks
    padded_pair = np.minimum(starts[:, None] + np.arange(longest), ends[:, None] - 1)  # [tokens, longest]
    head = np.arange(kv_heads)[None, :, None, None]
    inner = np.arange(group)[None, None, :, None]
    padded = partial[padded_pair][:, None, None, :] + stride[padded_pair][:, None, None, :] * head + inner
    real = np.broadcast_to((np.arange(longest) < num_blocks[:, None])[:, None, None, :], padded.shape)
    sizes = np.repeat(num_blocks, kv_heads * group)
    arrays = (padded[real], np.cumsum(sizes) - sizes, np.repeat(np.arange(len(sizes)), sizes), padded.reshape(-1))
    rows, offsets, bag, flat = (torch.from_numpy(a) for a in arrays)
    return rows, offsets, bag, flat, longest


def _runs(blocks: IntArray, contiguous: bool) -> list[tuple[int, int, IntArray | None]]:
    """Split ascending block ids into runs (low, high, None) that are read in place, or one list to be gathered."""
    if not contiguous:
        return [(0, 0, blocks)]
    cuts = np.flatnonzero(np.diff(blocks) > _GAP + 1) + 1
    return [(int(run[0]), int(run[-1]) + 1, None) for run in np.split(blocks, cuts)]


def attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, plans: tuple[PairPlan, ...], scale: float) -> Tensor:
    """Return softmax(q k^T scale) v of each query token over the slots that its plan lets it see.

    q [tokens, heads, d], heads ordered by kv head; k_cache [blocks, kv_heads, d, block_size], keys transposed so that
    both products run along the cache's rows; v_cache [blocks, kv_heads, block_size, d]. Returns [tokens, heads * d];
    rows that no plan names (padding) are zero.
    """
    tokens, heads, d = q.shape
    kv_heads = k_cache.shape[1]
    rows = (q * scale).view(tokens * kv_heads, heads // kv_heads * d)
    out = torch.zeros(tokens, heads * d, dtype=q.dtype, device=q.device)
    for plan in plans:
        out[plan.tokens] = _attend(rows, k_cache, v_cache, plan).view(-1, heads * d)
    return out


def _attend(rows: Tensor, k_cache: Tensor, v_cache: Tensor, plan: PairPlan) -> Tensor:
    """Return [tokens of the plan * heads, d]. rows [tokens * kv_heads, group * d]."""
    _, kv_heads, d, block_size = k_cache.shape
    group = rows.shape[1] // d
    m_i = torch.empty(plan.num_rows, dtype=rows.dtype)
    l_i = torch.empty(plan.num_rows, dtype=rows.dtype)
    acc = torch.empty(plan.num_rows, d, dtype=rows.dtype)
    start = 0
    for g in plan.groups:
        keys, values = k_cache[g.blocks], v_cache[g.blocks]
        n = keys.shape[0]
        batch, width = n * kv_heads, g.num_queries * group
        part = slice(start, start + batch * width)
        start = part.stop
        queries = rows.index_select(0, g.q_index).view(batch, width, d)
        scores = _bmm(queries, keys.reshape(batch, d, block_size))
        if g.mask is not None:
            scores.view(n, kv_heads, g.num_queries, group, block_size).add_(g.mask)
        top = m_i[part].view(batch, width)
        torch.amax(scores, -1, out=top)
        scores.sub_(top[..., None]).exp_()
        torch.sum(scores, -1, out=l_i[part].view(batch, width))
        _bmm(scores, values.reshape(batch, block_size, d), out=acc[part].view(batch, width, d))
    return _combine(m_i, l_i, acc, plan)


def _bmm(x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """Return ``torch.bmm(x, y)``; a lone product takes another path through the BLAS and is made twice."""
    if x.shape[0] > 1:
        return torch.bmm(x, y) if out is None else torch.bmm(x, y, out=out)
    product = torch.bmm(x.expand(2, -1, -1), y.expand(2, -1, -1))[:1]
    return product if out is None else out.copy_(product)


def _combine(m_i: Tensor, l_i: Tensor, acc: Tensor, plan: PairPlan) -> Tensor:
    """Add each bag's partials in the order of its blocks. m_i, l_i [rows]; acc [rows, d]; returns [bags, d].

    ``embedding_bag`` adds the rows of a bag one by one: a bag's sum does not depend on the others, and each partial is
    read once.
    """
    m_bag = m_i.index_select(0, plan.padded).view(-1, plan.longest).amax(1)
    weight = m_i.index_select(0, plan.rows).sub_(m_bag.index_select(0, plan.bag)).exp_()
    sums = _weighted_sums(l_i[:, None], weight, plan)
    return _weighted_sums(acc, weight, plan).div_(sums)


def _weighted_sums(table: Tensor, weight: Tensor, plan: PairPlan) -> Tensor:
    """Return the sum of each bag's rows of ``table`` [rows, n] times their weights [pairs * heads]."""
    return torch.nn.functional.embedding_bag(plan.rows, table, plan.offsets, mode="sum", per_sample_weights=weight)
