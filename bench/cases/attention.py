"""Attention over the paged cache: decoding and prefill, beside PyTorch's attention on dense keys and values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from warmeng.bench.cases.case import Case, Sizes, Tensors, Work
from warmeng.bench.lengths import prompts_of
from warmeng.kernels.gpu.attention import PagedPlan, Tiling, attention, attention_plain, cut_tiles, tiling_for

BLOCK = 16  # slots of a cache block
_FLEX = "flex_attention, dense"


def cases(sizes: Sizes) -> list[Case]:
    """Return decoding at each set of contexts, with deterministic and with fast tiles, and prefill."""
    found = [_decode(sizes, name, contexts) for name, contexts in sizes.contexts]
    found.append(_prefill(sizes, f"{sizes.prefill:,} tokens of the workload's prompts", prompts_of(sizes.prefill)))
    found.append(_prefill(sizes, f"one prompt of {sizes.prefill:,}", [sizes.prefill]))
    return found


def capability(device: torch.device) -> int:
    """Return 90 for a Hopper card; the interpreter takes its tiles too."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor


def plan(
    sizes: Sizes, queries: Sequence[int], contexts: Sequence[int], tiles: Tiling, seed: int
) -> tuple[PagedPlan, Tensor]:
    """Return the plan of segments with these numbers of query tokens and contexts, and each token's length.

    Blocks lie in random order, as in a cache that has been in use.
    """
    longest = -(-max(contexts) // BLOCK)
    total = sum(-(-context // BLOCK) for context in contexts)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
    tables: list[list[int]] = []
    segments: list[tuple[int, ...]] = []
    lengths: list[int] = []
    first = 0
    for row, (count, context) in enumerate(zip(queries, contexts, strict=True)):
        blocks = [order.pop() for _ in range(-(-context // BLOCK))]
        tables.append(blocks + [0] * (longest - len(blocks)))
        no_hole = torch.iinfo(torch.int32).max  # an empty one past every context
        segments.append((first, count, context, no_hole, no_hole, row))
        lengths.extend(range(context - count + 1, context + 1))
        first += count
    group = sizes.config.num_heads // sizes.config.num_kv_heads
    decode, prefill = (torch.from_numpy(part).to(sizes.device) for part in cut_tiles(queries, group, tiles))
    chunks = -(-max(contexts) // tiles.chunk)
    return PagedPlan(sizes.ints(segments), sizes.ints(tables), decode, prefill, chunks), sizes.ints(lengths)


def _inputs(sizes: Sizes, seed: int, tokens: int, blocks: int) -> tuple[Tensor, Tensor, Tensor]:
    c = sizes.config
    q = sizes.random(seed, tokens, c.num_heads, c.head_dim)
    k = sizes.random(seed + 1, blocks, c.num_kv_heads, BLOCK, c.head_dim)
    return q, k, sizes.random(seed + 2, blocks, c.num_kv_heads, BLOCK, c.head_dim)


def _dense(cache_: Tensor, tables: Tensor, longest: int) -> Tensor:
    """Gather [sequences, kv_heads, longest, size] from a paged cache."""
    # [sequences, blocks, kv_heads, BLOCK, size].
    picked = cache_[tables.long()]
    return picked.transpose(1, 2).flatten(2, 3)[:, :, :longest].contiguous()


def _decode(sizes: Sizes, name: str, contexts: tuple[int, ...]) -> Case:
    c = sizes.config
    count, scale = len(contexts), 1 / math.sqrt(c.head_dim)
    blocks = sum(-(-context // BLOCK) for context in contexts)
    arch = capability(sizes.device)
    tiles = {fast: tiling_for(c.head_dim, fast, arch) for fast in (False, True)}
    longest = max(contexts)
    ragged = min(contexts) < longest

    def make(seed: int) -> Work:
        q, k, v = _inputs(sizes, seed, count, blocks)
        plans = {fast: plan(sizes, [1] * count, contexts, tiles[fast], seed) for fast in (False, True)}

        def ours(fast: bool) -> Tensors:
            paged, lengths = plans[fast]
            return (attention(q, k, v, paged, lengths, scale, tiles[fast]),)

        def twin() -> Tensors:
            return (attention_plain(q, k, v, plans[False][0], scale),)

        if not sizes.timed:
            return Work(lambda: ours(False), twin, variants={"fast": lambda: ours(True)})
        tables = plans[False][0].block_tables
        kd, vd = _dense(k, tables, longest), _dense(v, tables, longest)
        lengths = sizes.ints(contexts)
        mask = (torch.arange(longest, device=sizes.device) < lengths[:, None])[:, None, None] if ragged else None
        # Query heads of a group stand as query rows: with a mask, ``enable_gqa`` leaves only the slowest backend.
        heads = q.view(count, c.num_kv_heads, -1, c.head_dim)

        def sdpa(keys: Tensor, values: Tensor) -> Tensors:
            out = functional.scaled_dot_product_attention(heads, keys, values, attn_mask=mask, scale=scale)
            return (out.flatten(1),)

        others: dict[str, Callable[[], Tensors | None]] = {
            "SDPA, dense": lambda: sdpa(kd, vd),
            "SDPA, gathered": lambda: sdpa(_dense(k, tables, longest), _dense(v, tables, longest)),
            _FLEX: _flex(q[:, :, None], kd, vd, lengths, scale),
        }
        return Work(lambda: ours(False), twin, others, {"fast tiles": lambda: ours(True)})

    slots = sum(contexts)
    moved = (2 * slots * c.num_kv_heads + 2 * count * c.num_heads) * c.head_dim * sizes.item
    return Case(
        "decode attention", name, moved, 4 * slots * c.num_heads * c.head_dim, make, sizes.tolerance,
        uncaptured=frozenset({_FLEX}),
    )  # fmt: skip


def _flex(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, scale: float) -> Callable[[], Tensors]:
    """Return a call of compiled ``flex_attention`` that sees each sequence's own context; made at its first call."""

    @cache
    def mask() -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        def seen(b: Tensor, h: Tensor, row: Tensor, slot: Tensor) -> Tensor:
            return slot < lengths[b]

        return create_block_mask(seen, len(lengths), None, 1, k.shape[2], device=str(k.device))

    def call() -> Tensors:
        out = _compiled_flex()(q, k, v, block_mask=mask(), scale=scale, enable_gqa=True)
        return (out.flatten(1),)

    return call


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    # There is one compilation for each shape and mask; past the limit nothing is fused.
    torch._dynamo.config.recompile_limit = 64
    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    return compiled


def _prefill(sizes: Sizes, name: str, prompts: Sequence[int]) -> Case:
    c = sizes.config
    tokens, scale = sum(prompts), 1 / math.sqrt(c.head_dim)
    blocks = sum(-(-prompt // BLOCK) for prompt in prompts)
    tiles = tiling_for(c.head_dim, False, capability(sizes.device))
    longest = max(prompts)

    def make(seed: int) -> Work:
        q, k, v = _inputs(sizes, seed, tokens, blocks)
        paged, lengths = plan(sizes, prompts, prompts, tiles, seed)

        def ours() -> Tensors:
            return (attention(q, k, v, paged, lengths, scale, tiles),)

        def twin() -> Tensors:
            return (attention_plain(q, k, v, paged, scale),)

        if not sizes.timed:
            return Work(ours, twin)
        kd, vd = _dense(k, paged.block_tables, longest), _dense(v, paged.block_tables, longest)
        starts = [sum(prompts[:i]) for i in range(len(prompts))]
        spots = [torch.arange(n, device=sizes.device) + row * longest for row, n in enumerate(prompts)]
        spot = torch.cat(spots)
        padded = q.new_zeros(len(prompts) * longest, c.num_heads, c.head_dim)
        padded[spot] = q
        dense = padded.view(len(prompts), longest, c.num_heads, c.head_dim).transpose(1, 2).contiguous()

        def sdpa() -> Tensors:
            out = functional.scaled_dot_product_attention(dense, kd, vd, is_causal=True, scale=scale, enable_gqa=True)
            return (out.transpose(1, 2).reshape(len(prompts) * longest, -1)[spot],)

        def loop() -> Tensors:
            parts = []
            for row, (start, n) in enumerate(zip(starts, prompts, strict=True)):
                heads = q[start : start + n].transpose(0, 1)[None]
                keys, values = kd[row : row + 1, :, :n], vd[row : row + 1, :, :n]
                out = functional.scaled_dot_product_attention(
                    heads, keys, values, is_causal=True, scale=scale, enable_gqa=True
                )
                parts.append(out[0].transpose(0, 1).reshape(n, -1))
            return (torch.cat(parts),)

        others: dict[str, Callable[[], Tensors | None]] = {"SDPA, padded": sdpa}
        if len(prompts) > 1:
            others["SDPA, one by one"] = loop
        return Work(ours, twin, others)

    pairs = sum(n * (n + 1) // 2 for n in prompts)
    moved = 2 * tokens * (c.num_kv_heads + c.num_heads) * c.head_dim * sizes.item
    return Case("prefill attention", name, moved, 4 * pairs * c.num_heads * c.head_dim, make, sizes.tolerance)
