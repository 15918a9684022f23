"""Paged attention against a float64 softmax, and against itself in other batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from warmeng.kernels.attention import AttentionPlan, attention, plan_attention

BLOCK = 16


@dataclass(frozen=True)
class Segment:
    """A run of query tokens that are neighbours in one block table."""

    table: np.ndarray
    num_queries: int
    context_len: int
    hole: tuple[int, int] = (0, 0)


def plan(segments: list[Segment], block_size: int = BLOCK) -> AttentionPlan:
    tables = np.zeros((len(segments), max(len(s.table) for s in segments)), dtype=np.int32)
    for row, segment in zip(tables, segments, strict=True):
        row[: len(segment.table)] = segment.table
    columns = zip(*[(s.num_queries, s.context_len, s.hole) for s in segments], strict=True)
    queries, contexts, holes = (np.array(column, dtype=np.int32) for column in columns)
    return plan_attention(queries, contexts, tables, holes, block_size)


def naive(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, segments: list[Segment]) -> torch.Tensor:
    """Attend in float64, one query token at a time, over exactly the slots it may see."""
    heads, d = q.shape[1:]
    group = heads // k_cache.shape[1]
    rows = []
    for segment in segments:
        keys = torch.cat([k_cache[b].transpose(1, 2) for b in segment.table], dim=1).double()
        values = torch.cat([v_cache[b] for b in segment.table], dim=1).double()
        for i in range(segment.num_queries):
            limit = segment.context_len - segment.num_queries + i + 1
            seen = [s for s in range(limit) if not segment.hole[0] <= s < segment.hole[1]]
            k = keys[:, seen].repeat_interleave(group, 0)
            v = values[:, seen].repeat_interleave(group, 0)
            scores = (k @ q[len(rows)].double()[:, :, None])[:, :, 0] * d**-0.5
            rows.append((scores.softmax(-1)[:, None] @ v)[:, 0].reshape(-1))
    return torch.stack(rows)


def make_cache(kv_heads: int, d: int, block_size: int = BLOCK) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(200, kv_heads, d, block_size), torch.randn(200, kv_heads, block_size, d)


def table(rng: np.random.Generator, count: int, shared: list[int] | None = None) -> np.ndarray:
    own = rng.choice(np.arange(20, 200), size=count, replace=False)
    own[: len(shared or [])] = (shared or [])[:count]
    return own


@pytest.mark.parametrize("block_size", [16, 48])
@pytest.mark.parametrize("d", [2, 8, 16, 30, 64, 80, 96, 128, 256])
@pytest.mark.parametrize(("kv_heads", "group"), [(1, 1), (3, 3), (2, 4), (4, 1)])
def test_equals_float64_softmax(d: int, kv_heads: int, group: int, block_size: int) -> None:
    rng = np.random.default_rng(d + group)
    k, v = make_cache(kv_heads, d, block_size)
    lengths = [(1, 1), (1, 16), (1, 17), (7, 7), (33, 40), (1, 100), (20, 20), (1, 33)]
    segments = [Segment(table(rng, -(-c // block_size)), n, c) for n, c in lengths]
    q = torch.randn(sum(n for n, _ in lengths), kv_heads * group, d)
    for dtype in (torch.float32, torch.bfloat16):
        k, v = k.to(dtype), v.to(dtype)
        out = attention(q, k, v, plan(segments, block_size), d**-0.5)
        torch.testing.assert_close(out.double(), naive(q, k, v, segments), atol=2e-6, rtol=1e-5)


def test_shared_blocks_and_holes() -> None:
    rng = np.random.default_rng(5)
    k, v = make_cache(2, 32)
    shared = [3, 9, 4]
    segments = [Segment(table(rng, 5, shared), 1, 66 + i) for i in range(10)]
    segments.append(Segment(table(rng, 5, shared), 30, 70))
    # A label's tokens: the prompt ends inside its third block.
    for extra in (1, 5, 20):
        segments.append(Segment(table(rng, 5, shared), extra, 48 + extra, hole=(37, 48)))
    segments.append(Segment(table(rng, 5, shared), 3, 51, hole=(32, 48)))
    q = torch.randn(sum(s.num_queries for s in segments), 6, 32)
    out = attention(q, k, v, plan(segments), 32**-0.5)
    torch.testing.assert_close(out.double(), naive(q, k, v, segments), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("d", [16, 64])
def test_hidden_slots_and_foreign_blocks_may_hold_anything(d: int) -> None:
    rng = np.random.default_rng(6)
    k, v = make_cache(2, d)
    segment = Segment(table(rng, 3), 2, 34, hole=(20, 32))
    q = torch.randn(2, 4, d)
    before = attention(q, k, v, plan([segment]), 0.25)
    k[segment.table[1], :, :, 4:] = torch.nan
    v[segment.table[1], :, 4:] = torch.nan
    k[segment.table[2], :, :, 2:] = torch.inf
    v[segment.table[2], :, 2:] = torch.nan
    others = np.setdiff1d(np.arange(200), segment.table)
    k[others] = torch.nan
    v[others] = torch.nan
    assert torch.equal(before, attention(q, k, v, plan([segment]), 0.25))


@pytest.mark.parametrize("what", ["query", "key", "value", "infinite query"])
def test_what_is_not_a_number_is_seen(what: str) -> None:
    k, v = make_cache(1, 16)
    segment = Segment(np.array([5, 6]), 1, 20)
    q = torch.randn(1, 1, 16)
    {"query": q[0], "infinite query": q[0], "key": k[6, :, :, 2], "value": v[6, :, 2]}[what][0, 3] = (
        torch.inf if "infinite" in what else torch.nan
    )
    assert not attention(q, k, v, plan([segment]), 0.25).isfinite().all()


def test_large_scores_do_not_overflow() -> None:
    k, v = make_cache(1, 16)
    segment = Segment(np.array([5, 6]), 1, 20)
    q = torch.randn(1, 1, 16) * 1e4
    out = attention(q, k, v, plan([segment]), 0.25)
    torch.testing.assert_close(out.double(), naive(q, k, v, [segment]), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("kv_heads", "group", "d"), [(3, 3, 64), (2, 1, 32), (1, 8, 128), (2, 3, 8)])
def test_bits_depend_on_neither_batch_nor_chunking_nor_threads(kv_heads: int, group: int, d: int) -> None:
    """One token's output: alone, among 63 others that share blocks, and as part of prefills of any size."""
    rng = np.random.default_rng(7)
    k, v = make_cache(kv_heads, d)
    mine = table(rng, 6, [3, 9])
    q = torch.randn(90, kv_heads * group, d)
    whole = attention(q, k, v, plan([Segment(mine, 90, 90)]), d**-0.5)
    for i in (0, 15, 16, 40, 89):
        alone = attention(q[i : i + 1], k, v, plan([Segment(mine, 1, i + 1)]), d**-0.5)
        assert torch.equal(alone[0], whole[i])
        others = [Segment(table(rng, 4, [3, 9]), 1, 33 + j % 30) for j in range(63)]
        company = torch.randn(64, kv_heads * group, d)
        company[40] = q[i]
        segments = [*others[:40], Segment(mine, 1, i + 1), *others[40:]]
        mixed = attention(company, k, v, plan(segments), d**-0.5)
        assert torch.equal(mixed[40], whole[i])
    chunk = attention(q[17:50], k, v, plan([Segment(mine, 33, 50)]), d**-0.5)
    assert torch.equal(chunk, whole[17:50])
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 5):
            torch.set_num_threads(threads)
            assert torch.equal(attention(q, k, v, plan([Segment(mine, 90, 90)]), d**-0.5), whole)
    finally:
        torch.set_num_threads(before)


def test_what_it_does_not_take_is_said() -> None:
    k, v = make_cache(1, 16)
    made = plan([Segment(np.array([5]), 1, 3)])
    q = torch.randn(1, 1, 16)
    with pytest.raises(ValueError, match="float32"):
        attention(q.double(), k, v, made, 1.0)
    with pytest.raises(ValueError, match="contiguous"):
        attention(q, k.transpose(2, 3), v, made, 1.0)
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        attention(q, k.half(), v.half(), made, 1.0)
    with pytest.raises(ValueError, match="multiple of 16"):
        attention(q, torch.zeros(2, 1, 16, 8), torch.zeros(2, 1, 8, 16), made, 1.0)
