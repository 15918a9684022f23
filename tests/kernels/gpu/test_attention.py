"""Paged attention: decoding and prefill in one plan, cached prefixes, holes and chunks, against a float64 softmax."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiers import full, slow
from torch import Tensor

from warmeng.kernels.gpu.attention import (
    SEGMENT_FIELDS,
    AttentionTile,
    PagedPlan,
    Tiling,
    attention,
    attention_plain,
    cut_tiles,
    tiling_for,
)
from warmeng.kernels.quantized import through_fp8

# 16 rows and slots, so that short contexts have many tiles; different ones for decoding and prefill.
SMALL = Tiling(AttentionTile(16, 16, 4, 2), AttentionTile(32, 32, 4, 2), 64)
UNCUT = replace(SMALL, chunk=256)
NO_HOLE = (0, 0)


@dataclass(frozen=True)
class Piece:
    """One segment: query tokens, context length (they included), slots that it never sees."""

    queries: int
    context: int
    hole: tuple[int, int] = NO_HOLE


@dataclass(frozen=True)
class Case:
    """What a launch needs, with random queries and keys; nobody's slots and blocks hold NaN."""

    q: Tensor
    k: Tensor
    v: Tensor
    plan: PagedPlan
    lengths: Tensor
    scale: float
    tiles: Tiling

    def run(self) -> Tensor:
        return attention(self.q, self.k, self.v, self.plan, self.lengths, self.scale, self.tiles)

    def reference(self) -> Tensor:
        return attention_plain(self.q, self.k, self.v, self.plan, self.scale)


def make(
    pieces: list[Piece], heads: tuple[int, int, int], tiles: Tiling, dtype: torch.dtype, rng: np.random.Generator,
    block: int = 16, padding: int = 0,
) -> Case:  # fmt: skip
    """Lay the pieces out, each with blocks of its own in any order; query rows follow each other, then padding."""
    queries, keys, size = heads
    counts = [-(-piece.context // block) for piece in pieces]
    free = rng.permutation(np.arange(1, sum(counts) + 4))  # block 0 and a few more belong to nobody
    tables = np.zeros((len(pieces), max(counts) + 1), dtype=np.int32)
    k, v = (torch.full((len(free) + 1, keys, block, size), torch.nan, dtype=dtype) for _ in range(2))
    segments = np.zeros((len(pieces), SEGMENT_FIELDS), dtype=np.int32)
    lengths: list[int] = []
    rows = rng.permutation(len(pieces))  # of the block tables: a segment need not have its own number
    for i, piece in enumerate(pieces):
        own, free = free[: counts[i]], free[counts[i] :]
        tables[rows[i], : counts[i]] = own
        segments[i] = (len(lengths), piece.queries, piece.context, *piece.hole, rows[i])
        lengths += range(piece.context - piece.queries + 1, piece.context + 1)
        slots = np.arange(piece.context)
        slots = slots[(slots < piece.hole[0]) | (slots >= piece.hole[1])]
        for cache in (k, v):
            cache[own[slots // block], :, slots % block] = torch.randn(len(slots), keys, size).to(dtype)
    decode, prefill = cut_tiles([p.queries for p in pieces], queries // keys, tiles)
    q = (torch.randn(len(lengths) + padding, queries, size) * 1.5).to(dtype)
    longest = max(p.context for p in pieces)
    plan = PagedPlan(
        torch.tensor(segments), torch.tensor(tables), torch.tensor(decode), torch.tensor(prefill),
        -(-longest // tiles.chunk),
    )  # fmt: skip
    slots = torch.tensor([*lengths, *[0] * padding], dtype=torch.int32)
    return Case(q, k, v, plan, slots, size**-0.5, tiles)


def check(case: Case, near, padding: int = 0) -> Tensor:
    out = case.run()
    real = len(out) - padding
    near(out[:real], case.reference()[:real], case.q.dtype)
    return out


# Decoding (one context of one token, one at a block's end, one past it), a whole prompt, one after a cached prefix.
MIXED = [Piece(1, 1), Piece(1, 16), Piece(1, 17), Piece(7, 7), Piece(33, 40), Piece(1, 100), Piece(20, 90)]
GROUPS = [(1, 1), (3, 1), (8, 2), (7, 1), (16, 2), (64, 1)]


@pytest.mark.parametrize("size", [64, 128, *slow(96, 256)])
@pytest.mark.parametrize("fast", [False, *slow(True)])
def test_every_head_size(size: int, fast: bool, dtype: torch.dtype, near, rng) -> None:
    for capability in (80, 90) if size == 128 else (90,):
        tiles = tiling_for(size, fast, capability, chunk=128)
        check(make(MIXED, (4, 2, size), tiles, dtype, rng, padding=3), near, 3)


@pytest.mark.parametrize("heads", [*GROUPS[1:3], *slow(*((h,) for h in (GROUPS[0], *GROUPS[3:])))], ids=str)
def test_every_group(heads: tuple[int, int], dtype: torch.dtype, near, rng) -> None:
    pieces = [Piece(1, 1), Piece(1, 40), Piece(5, 5), Piece(11, 30)]
    for tiles in (tiling_for(64, True, 90, 128), UNCUT):
        check(make(pieces, (*heads, 64), tiles, dtype, rng), near)
    check(make([Piece(1, 70), Piece(2, 65)], (*heads, 64), SMALL, dtype, rng), near)


@pytest.mark.parametrize("size", [40, *slow(8, 16)])
def test_small_heads(size: int, dtype: torch.dtype, near, rng) -> None:
    check(make(MIXED, (2, 1, size), UNCUT, dtype, rng), near)


@pytest.mark.parametrize("block", [1, 16, *slow(8, 64)])
def test_every_cache_block(block: int, dtype: torch.dtype, near, rng) -> None:
    check(make(MIXED, (4, 2, 32), UNCUT, dtype, rng, block=block), near)


@pytest.mark.parametrize("block", [*slow(32), *full(16, 64)])
def test_the_memory_accelerator_brings_the_same_numbers(block: int, dtype: torch.dtype, near, rng) -> None:
    """Tiles that lie in one block come by it, others as ever; what nobody wrote in a block is seen by nobody."""
    pieces = [*MIXED, Piece(1, 100, (20, 70)), Piece(40, 90, (3, 64))]
    for tiles in (UNCUT, SMALL):
        case = make(pieces, (4, 2, 32), tiles, dtype, rng, block=block)
        plain = check(case, near)
        assert torch.equal(check(replace(case, tiles=replace(tiles, tma=True)), near), plain)


@pytest.mark.parametrize("tma", [False, True])
def test_a_cache_of_fp8_is_attended_to_as_its_numbers(tma: bool, dtype: torch.dtype, near, rng) -> None:
    """The bits are those of a cache that holds the same numbers in the queries' type."""
    case = make([*MIXED, Piece(1, 100, (20, 70))], (4, 2, 32), replace(UNCUT, tma=tma), dtype, rng, block=32)
    k, v = through_fp8(case.k), through_fp8(case.v)
    plain = check(replace(case, k=k, v=v), near)
    eight = torch.float8_e4m3fn
    assert torch.equal(replace(case, k=k.to(eight), v=v.to(eight)).run(), plain)


def test_random_plans(dtype: torch.dtype, near, rng) -> None:
    for tiles in [SMALL] * 2 + [UNCUT] * 5:
        pieces = []
        for _ in range(rng.integers(1, 6)):
            context = int(rng.integers(1, 130))
            queries = 1 if rng.integers(2) else int(rng.integers(1, context + 1))
            pieces.append(Piece(queries, context))
        keys = int(rng.integers(1, 4))
        padding = int(rng.integers(0, 3))
        case = make(pieces, (keys * int(rng.integers(1, 4)), keys, 32), tiles, dtype, rng, padding=padding)
        check(case, near, padding)


def test_contexts_at_the_chunks_edges(dtype: torch.dtype, near, rng) -> None:
    """Each token's last slot before, on and after an edge, decoded and inside a prefill whose tiles straddle it."""
    chunk = SMALL.chunk
    around = [chunk - 1, chunk, chunk + 1, 2 * chunk - 1, 2 * chunk, 2 * chunk + 1, 3 * chunk]
    pieces = [Piece(1, n) for n in around] + [Piece(4, n + 2) for n in around] + [Piece(chunk + 9, 2 * chunk + 9)]
    check(make(pieces, (3, 1, 32), SMALL, dtype, rng), near)


@pytest.mark.parametrize("chunk", [64, *slow(1024)])
def test_labels_see_their_prompt_and_themselves(chunk: int, dtype: torch.dtype, near, rng) -> None:
    """Holes of every kind: inside a block, whole blocks and chunks, one slot, none at all, up to a chunk's edge."""
    tiles = Tiling(SMALL.decode, SMALL.prefill, chunk)
    pieces = [
        Piece(3, 51, (37, 48)), Piece(1, 65, (1, 64)), Piece(20, 200, (50, 176)), Piece(5, 40, (34, 35)),
        Piece(5, 37, (32, 32)), Piece(2, 18, (15, 16)), Piece(9, 137, (60, 128)), Piece(1, 130, (64, 129)),
    ]  # fmt: skip
    check(make(pieces, (4, 2, 32), tiles, dtype, rng), near)


def test_padding_rows_are_left_alone(dtype: torch.dtype, near, rng) -> None:
    """Nothing writes them in one chunk; in several their length of 0 makes them zero."""
    case = make([Piece(1, 20), Piece(5, 33)], (4, 2, 32), SMALL, dtype, rng, padding=2)
    assert check(case, near, 2)[-2:].isnan().all()
    case = make([Piece(1, 20), Piece(5, 133)], (4, 2, 32), SMALL, dtype, rng, padding=2)
    assert (check(case, near, 2)[-2:] == 0).all()


def test_segments_without_queries(dtype: torch.dtype, near, rng) -> None:
    """They have no tile, whatever they hold, nothing included."""
    check(make([Piece(0, 20), Piece(1, 7), Piece(0, 0), Piece(9, 9), Piece(0, 1)], (4, 2, 32), UNCUT, dtype, rng), near)


def test_a_table_may_serve_several_segments(dtype: torch.dtype, near, rng) -> None:
    """Labels share their prompt's blocks: rows of tables with common entries."""
    case = make([Piece(4, 40), Piece(1, 30), Piece(2, 23)], (4, 2, 32), SMALL, dtype, rng)
    segments, tables = case.plan.segments.clone(), case.plan.block_tables.clone()
    first = int(segments[0, 5])
    segments[1, 5] = first
    tables[segments[2, 5], 0] = tables[first, 0]
    plan = PagedPlan(segments, tables, case.plan.decode, case.plan.prefill, case.plan.num_chunks)
    check(Case(case.q, case.k, case.v, plan, case.lengths, case.scale, case.tiles), near)


def test_any_size_of_scores(dtype: torch.dtype, near, rng) -> None:
    """One key far above the rest takes all the weight, in any chunk; rows of large scores are as good.

    Not too large: a score of some hundred is known to 1e-5 in single precision, and so is its exponential.
    """
    case = make([Piece(1, 190), Piece(40, 190)], (2, 1, 32), SMALL, dtype, rng)
    table = case.plan.block_tables[case.plan.segments[0, 5].long()]
    case.k[table[11 // 16].long(), :, 11 % 16] = case.q[0, :1] * 30
    case.q[10:20] *= 8
    check(case, near)


@pytest.mark.parametrize("fast", [False, *slow(True)])
def test_decoded_tokens_equal_prefilled_ones(fast: bool, dtype: torch.dtype, near, rng) -> None:
    """The same tokens one by one, in pieces of any size, and whole. Where tiles are the same, so are the bits."""
    tiles = tiling_for(64, fast, 90, chunk=64)
    whole = make([Piece(150, 150)], (2, 1, 64), tiles, dtype, rng)
    expected = whole.run()
    cuts = np.unique([0, *rng.integers(1, 150, 4), 63, 64, 65, 150])
    ones = [t for t in range(150) if rng.integers(4) == 0]
    for spans in (list(pairwise(cuts.tolist())), [(t, t + 1) for t in ones]):
        tokens = np.concatenate([np.arange(a, b) for a, b in spans])
        segments = np.zeros((len(spans), SEGMENT_FIELDS), dtype=np.int32)
        segments[:, 0] = np.cumsum([0, *[b - a for a, b in spans[:-1]]])
        segments[:, 1] = [b - a for a, b in spans]
        segments[:, 2] = [b for _, b in spans]
        decode, prefill = cut_tiles(segments[:, 1].tolist(), 2, tiles)
        plan = PagedPlan(
            torch.tensor(segments), whole.plan.block_tables, torch.tensor(decode), torch.tensor(prefill), 3
        )
        rows = torch.tensor(tokens)
        out = attention(whole.q[rows], whole.k, whole.v, plan, whole.lengths[rows], whole.scale, tiles)
        near(out, expected[rows].double(), dtype)


def test_company_does_not_change_bits(dtype: torch.dtype, rng) -> None:
    """A segment alone and among others; the others decide how many chunks there are room for."""
    tiles = tiling_for(64, False, 90, chunk=64)
    case = make([Piece(1, 100), Piece(20, 100), Piece(1, 200), Piece(20, 60)], (4, 2, 64), tiles, dtype, rng)
    together = case.run()
    for i, (first, queries, context, *_) in enumerate(case.plan.segments.tolist()):
        segments = case.plan.segments[i : i + 1].clone()
        segments[0, 0] = 0
        decode, prefill = cut_tiles([queries], 2, tiles)
        plan = PagedPlan(
            segments, case.plan.block_tables, torch.tensor(decode), torch.tensor(prefill), -(-context // tiles.chunk)
        )
        rows = slice(first, first + queries)
        alone = attention(case.q[rows], case.k, case.v, plan, case.lengths[rows], case.scale, tiles)
        assert torch.equal(alone, together[rows])


def test_tiles_cover_every_row_once(rng) -> None:
    for _ in range(50):
        group = int(rng.integers(1, 9))
        queries = rng.integers(0, 80, 6).tolist()
        decode, prefill = cut_tiles(queries, group, SMALL)
        seen = np.zeros((6, 80 * 8 + 32), dtype=int)
        for tiles, rows in ((decode, SMALL.decode.block_m), (prefill, SMALL.prefill.block_m)):
            assert tiles.dtype == np.int32
            assert tiles.shape[1] == 2
            for segment, first in tiles:
                seen[segment, first : first + rows] += 1
                assert first < queries[segment] * group
        for segment, count in enumerate(queries):
            assert (seen[segment, : count * group] == 1).all()


@pytest.mark.parametrize("size", [32, 64, 96, 128, 256])
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_tilings_divide_their_chunk(size: int, capability: int) -> None:
    for fast in (False, True):
        tiles = tiling_for(size, fast, capability)
        for tile in (tiles.decode, tiles.prefill):
            assert tiles.chunk % tile.block_n == 0
        assert fast or tiles.decode.block_m >= 64
        assert tiles.decode.block_n == tiles.prefill.block_n  # the same order of summation
