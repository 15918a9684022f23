"""What lies between the products: norm, activation, rotation with the write to the cache."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from warmeng.bench.cases.attention import BLOCK
from warmeng.bench.cases.case import Case, Sizes, Tensors, Work
from warmeng.kernels.gpu.activation import silu_mul, silu_mul_plain
from warmeng.kernels.gpu.lora import Product
from warmeng.kernels.gpu.norm import add_rms_norm, add_rms_norm_plain
from warmeng.kernels.gpu.rope import Heads, rotate_and_write, rotate_plain

POSITIONS = 8192  # rows of the table of angles


def cases(sizes: Sizes) -> list[Case]:
    """Return the three kernels at each number of rows."""
    return [make(sizes, rows) for make in (_norm, _silu_mul, _rope) for rows in sizes.rows]


def _norm(sizes: Sizes, rows: int) -> Case:
    width, eps = sizes.config.hidden_size, sizes.config.rms_norm_eps

    def make(seed: int) -> Work:
        y, residual = sizes.random(seed, rows, width), sizes.random(seed + 1, rows, width)
        weight = sizes.random(seed + 2, width)

        def other() -> Tensors:
            residual.add_(y)
            return residual, functional.rms_norm(residual, (width,), weight, eps)

        return Work(
            lambda: (residual, add_rms_norm(Product(y), residual, weight, eps)),
            lambda: add_rms_norm_plain(Product(y), residual, weight, eps),
            {"add + F.rms_norm": other},
        )

    moved = (4 * rows * width + width) * sizes.item
    return Case("residual and norm", f"{rows} x {width}", moved, 0, make, sizes.tolerance, in_place=True)


def _silu_mul(sizes: Sizes, rows: int) -> Case:
    inner = sizes.config.intermediate_size

    def make(seed: int) -> Work:
        y = sizes.random(seed, rows, 2 * inner)

        def other() -> Tensors:
            gate, up = y.chunk(2, 1)
            return (functional.silu(gate) * up,)

        return Work(
            lambda: (silu_mul(Product(y)),), lambda: (silu_mul_plain(Product(y)),), {"F.silu(gate) * up": other}
        )

    return Case("silu_mul", f"{rows} x {inner}", 3 * rows * inner * sizes.item, 0, make, sizes.tolerance)


def _rope(sizes: Sizes, rows: int) -> Case:
    c = sizes.config
    heads = Heads(c.num_heads, c.num_kv_heads, c.head_dim)
    half = c.head_dim // 2
    blocks = -(-rows // BLOCK) * 2

    def make(seed: int) -> Work:
        y = sizes.random(seed, rows, heads.total * heads.size)
        bias = sizes.random(seed + 1, heads.total * heads.size) if c.qkv_bias else None
        norms = None
        if c.qk_norm:
            norms = (sizes.random(seed + 2, heads.size), sizes.random(seed + 3, heads.size))
        generator = torch.Generator().manual_seed(seed)
        positions = torch.randint(0, POSITIONS, (rows,), generator=generator, dtype=torch.int32).to(sizes.device)
        slots = torch.randperm(blocks * BLOCK, generator=generator)[:rows].int().to(sizes.device)
        angles = torch.arange(POSITIONS, device=sizes.device)[:, None] * c.rope_theta ** (
            -torch.arange(half, device=sizes.device) / half
        )
        rotation = (angles.cos().contiguous(), angles.sin().contiguous())
        k_cache, v_cache = (sizes.random(seed + n, blocks, heads.keys, BLOCK, heads.size) for n in (4, 5))
        where = (slots.long() // BLOCK, slots.long() % BLOCK)

        def written() -> Tensors:
            return tuple(cache[where[0], :, where[1]] for cache in (k_cache, v_cache))

        def ours() -> Tensors:
            q = rotate_and_write(
                Product(y), heads, bias, norms, c.rms_norm_eps, rotation, positions, slots, k_cache, v_cache
            )
            return (q,)

        def compared() -> Tensors:
            for cache in (k_cache, v_cache):
                cache.fill_(torch.nan)
            return (*ours(), *written())

        def other() -> Tensors:
            z = y if bias is None else y + bias
            parts = [heads.queries, heads.keys, heads.keys]
            q, k, v = torch.split(z.view(rows, heads.total, heads.size), parts, 1)
            if norms is not None:
                pairs = zip((q, k), norms, strict=True)
                q, k = (functional.rms_norm(x, (heads.size,), w, c.rms_norm_eps) for x, w in pairs)
            cos, sin = (torch.cat([t, t], 1)[positions.long()][:, None].to(y.dtype) for t in rotation)
            q, k = (x * cos + _turned(x) * sin for x in (q, k))
            k_cache[where[0], :, where[1]], v_cache[where[0], :, where[1]] = k, v
            return (q,)

        return Work(
            ours,
            lambda: rotate_plain(Product(y), heads, bias, norms, c.rms_norm_eps, rotation, positions),
            {"rotate, then index": other},
            checked=compared,
        )

    moved = (2 * rows * heads.total * heads.size) * sizes.item + rows * half * 8
    return Case(
        "bias, rotation, cache write", f"{rows} x {heads.total} x {heads.size}", moved, 0, make, sizes.tolerance
    )


def _turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)
