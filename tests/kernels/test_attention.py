"""Paged attention by pairs against a float64 softmax, and against itself in other company."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from warmeng.kernels.attention import PairPlan, Segment, attention, min_queries, plan_pairs

BLOCK = 16


def plan(segments: list[Segment], kv_heads: int, group: int, d: int) -> tuple[PairPlan, ...]:
    return plan_pairs(segments, kv_heads, group, BLOCK, min_queries(group, d, BLOCK))


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


def make_cache(kv_heads: int, d: int, blocks: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(blocks, kv_heads, d, BLOCK), torch.randn(blocks, kv_heads, BLOCK, d)


def table(rng: np.random.Generator, count: int, shared: list[int] | None = None) -> np.ndarray:
    own = rng.choice(np.arange(20, 200), size=count, replace=False)
    own[: len(shared or [])] = (shared or [])[:count]
    return own.astype(np.int64)


@pytest.mark.parametrize("d", [16, 64, 96, 128, 256])
@pytest.mark.parametrize(("kv_heads", "group"), [(1, 1), (3, 3), (2, 4), (4, 1)])
def test_equals_float64_softmax(d: int, kv_heads: int, group: int) -> None:
    rng = np.random.default_rng(d + group)
    k, v = make_cache(kv_heads, d)
    lengths = [(1, 1), (1, 16), (1, 17), (7, 7), (33, 40), (1, 100), (20, 20), (1, 33)]
    segments = [Segment(table(rng, -(-c // BLOCK)), n, c) for n, c in lengths]
    q = torch.randn(sum(n for n, _ in lengths), kv_heads * group, d)
    out = attention(q, k, v, plan(segments, kv_heads, group, d), d**-0.5)
    torch.testing.assert_close(out.double(), naive(q, k, v, segments), atol=1e-5, rtol=1e-5)


def test_shared_blocks_and_holes() -> None:
    rng = np.random.default_rng(5)
    k, v = make_cache(2, 32)
    shared = [3, 9, 4]
    segments = [Segment(table(rng, 5, shared), 1, 66 + i) for i in range(10)]
    segments.append(Segment(table(rng, 5, shared), 30, 70))
    for extra in (1, 5, 20):  # a label's tokens: the prompt ends inside its third block
        segments.append(Segment(table(rng, 5, shared), extra, 48 + extra, hole=(37, 48)))
    q = torch.randn(sum(s.num_queries for s in segments), 6, 32)
    out = attention(q, k, v, plan(segments, 2, 3, 32), 32**-0.5)
    torch.testing.assert_close(out.double(), naive(q, k, v, segments), atol=1e-5, rtol=1e-5)


def test_masked_slots_and_foreign_blocks_may_hold_anything_finite() -> None:
    rng = np.random.default_rng(6)
    k, v = make_cache(2, 16)
    segment = Segment(table(rng, 2), 1, 20)
    q = torch.randn(1, 4, 16)
    made = plan([segment], 2, 2, 16)
    before = attention(q, k, v, made, 0.25)
    k[segment.table[1], :, :, 4:] = 1e30
    v[segment.table[1], :, 4:] = -1e30
    others = np.setdiff1d(np.arange(200), segment.table)
    k[others] = torch.nan
    v[others] = torch.nan
    assert torch.equal(before, attention(q, k, v, made, 0.25))


@pytest.mark.parametrize(("kv_heads", "group", "d"), [(3, 3, 64), (2, 1, 32), (1, 8, 128), (2, 3, 8)])
def test_bits_do_not_depend_on_company_or_chunking(kv_heads: int, group: int, d: int) -> None:
    """One token's output: alone, among 63 others sharing blocks, and as part of prefills of any size."""
    rng = np.random.default_rng(7)
    k, v = make_cache(kv_heads, d)
    mine = table(rng, 6, [3, 9])
    q = torch.randn(90, kv_heads * group, d)
    whole = attention(q, k, v, plan([Segment(mine, 90, 90)], kv_heads, group, d), d**-0.5)
    for i in (0, 15, 16, 40, 89):
        alone = attention(q[i : i + 1], k, v, plan([Segment(mine, 1, i + 1)], kv_heads, group, d), d**-0.5)
        assert torch.equal(alone[0], whole[i])
        others = [Segment(table(rng, 4, [3, 9]), 1, 33 + j % 30) for j in range(63)]
        company = torch.randn(64, kv_heads * group, d)
        company[40] = q[i]
        segments = [*others[:40], Segment(mine, 1, i + 1), *others[40:]]
        mixed = attention(company, k, v, plan(segments, kv_heads, group, d), d**-0.5)
        assert torch.equal(mixed[40], whole[i])
    chunk = attention(q[17:50], k, v, plan([Segment(mine, 33, 50)], kv_heads, group, d), d**-0.5)
    assert torch.equal(chunk, whole[17:50])


def test_long_prefill_is_cut_into_plans() -> None:
    rng = np.random.default_rng(8)
    k, v = make_cache(1, 16)
    segment = Segment(table(rng, 80), 1200, 1280)
    q = torch.randn(1200, 2, 16)
    plans = plan([segment], 1, 2, 16)
    assert len(plans) > 1
    out = attention(q, k, v, plans, 0.25)
    some = [0, 500, 1199]
    expected = naive(q, k, v, [segment])
    torch.testing.assert_close(out[some].double(), expected[some], atol=1e-5, rtol=1e-5)
