"""Changes, biases, norms, rotation and the write to the cache in one pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiers import slow

from warmeng.kernels.gpu.lora import Product
from warmeng.kernels.gpu.rope import Heads, rotate_and_write, rotate_plain
from warmeng.kernels.quantized import through_fp8

EPS = 1e-6
# rows, heads (queries, keys, size), cache block
SHAPES = [(1, (1, 1, 64), 16), (2, (3, 1, 64), 16), (15, (8, 2, 128), 16), (16, (7, 1, 96), 16), (17, (4, 4, 256), 32),
          (37, (6, 2, 16), 1), (130, (3, 1, 8), 64), (5, (64, 1, 64), 16)]  # fmt: skip


def tables(positions: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = torch.arange(positions)[:, None] * 10_000 ** (-torch.arange(size // 2) / (size // 2))[None]
    return angles.cos().float(), angles.sin().float()


def check(
    product: Product, heads: Heads, block: int, rng: np.random.Generator, near, bias=None, norms=None, padding: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run on caches of NaN and compare all that was written, and that nothing else was; returns q, k, v."""
    count, dtype = len(product.y), product.y.dtype
    rotation = tables(500, heads.size)
    positions = torch.tensor(rng.integers(0, 500, count).astype(np.int32))
    blocks = -(-2 * count // block) + 1
    slots = rng.choice(np.arange(block, blocks * block), count, replace=False).astype(np.int32)
    slots[count - padding :] = 0  # padding rows share a slot of a block that no one reads
    caches = [torch.empty(blocks, heads.keys, block, heads.size, dtype=dtype) for _ in range(2)]
    expected = rotate_plain(product, heads, bias, norms, EPS, rotation, positions)
    q = rotate_and_write(product, heads, bias, norms, EPS, rotation, positions, torch.tensor(slots), *caches)
    near(q, expected[0], dtype)
    real = slots[: count - padding]
    for cache, reference in zip(caches, expected[1:], strict=True):
        flat = cache.transpose(1, 2).reshape(blocks * block, heads.keys, heads.size)
        near(flat[real], reference[: len(real)], dtype)
        others = np.setdiff1d(np.arange(blocks * block), slots)
        assert flat[others].isnan().all()
    written = [c.transpose(1, 2).reshape(blocks * block, heads.keys, heads.size)[slots] for c in caches]
    return q, written[0], written[1]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("changed", [True, *slow(False)])
def test_equals_the_twin(shape, changed: bool, dtype: torch.dtype, near, make_adapters, rng) -> None:
    count, sizes, block = shape
    heads = Heads(*sizes)
    y = torch.randn(count, heads.total * heads.size).to(dtype)
    widths = (heads.queries * heads.size, heads.keys * heads.size, heads.keys * heads.size)
    pattern = str(rng.choice(["idle", "one", "mixed", "many"]))
    product = make_adapters(pattern, count).product(y, widths) if changed else Product(y)
    bias = torch.randn(y.shape[1]).to(dtype) if rng.integers(2) else None
    norms = None
    if rng.integers(2):
        norms = ((torch.rand(heads.size) + 0.5).to(dtype), (torch.rand(heads.size) + 0.5).to(dtype))
    check(product, heads, block, rng, near, bias, norms)


@pytest.mark.parametrize("pattern", ["idle", "one", "mixed", "many"])
def test_every_mix_of_adapters(pattern: str, dtype: torch.dtype, near, make_adapters, rng) -> None:
    heads = Heads(3, 1, 32)
    y = torch.randn(37, heads.total * 32).to(dtype)
    check(make_adapters(pattern, 37).product(y, (96, 32, 32)), heads, 16, rng, near)


@pytest.mark.parametrize("has_bias", [True, *slow(False)])
@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("changed", [True, *slow(False)])
def test_every_combination(has_bias: bool, has_norm: bool, changed: bool, dtype, near, make_adapters, rng) -> None:
    heads = Heads(4, 2, 24)
    y = torch.randn(19, heads.total * 24).to(dtype)
    product = make_adapters("mixed", 19).product(y, (96, 48, 48)) if changed else Product(y)
    bias = torch.randn(y.shape[1]).to(dtype) if has_bias else None
    norms = (torch.rand(24).to(dtype) + 0.5, torch.rand(24).to(dtype) + 0.5) if has_norm else None
    check(product, heads, 16, rng, near, bias, norms, padding=4)


def test_a_cache_of_fp8_holds_the_same_keys_and_values_rounded(dtype: torch.dtype, rng) -> None:
    heads, count, block = Heads(4, 2, 32), 19, 16
    y = torch.randn(count, heads.total * 32).to(dtype)
    # What is past its largest number becomes that.
    y[3] *= 1000
    positions, slots = (torch.arange(i, i + count, dtype=torch.int32) for i in (5, 16))
    found = []
    for kept in (dtype, torch.float8_e4m3fn):
        caches = [torch.zeros(3, heads.keys, block, 32).to(kept) for _ in range(2)]
        rotate_and_write(Product(y.clone()), heads, None, None, EPS, tables(50, 32), positions, slots, *caches)
        found.append([cache.to(dtype) for cache in caches])
    for eight, plain in zip(found[1], found[0], strict=True):
        assert torch.equal(eight, through_fp8(plain))
        assert float(eight.abs().max()) == 448
        assert not torch.equal(eight, plain)


def test_a_row_does_not_see_the_others(make_adapters, dtype: torch.dtype, near, rng, seed: int) -> None:
    heads = Heads(4, 2, 32)
    y = torch.randn(37, heads.total * 32).to(dtype)
    adapters = make_adapters("mixed", 37)
    product = adapters.product(y, (128, 64, 64))

    def run(
        rows, lora_a
    ) -> tuple[torch.Tensor, ...]:  # the product is changed in place; positions and slots are the same
        return check(Product(y.clone(), lora_a, product.lora, rows), heads, 16, np.random.default_rng(seed), near)

    before, plain = run(adapters.rows, product.lora_a_out), run(None, None)
    for mixture in range(len(adapters.coefficients)):
        mine = torch.tensor(adapters.ids == mixture)
        alone = np.where(adapters.ids == mixture, adapters.ids, 0).astype(np.int32)
        after = run(replace(adapters, ids=alone).rows, product.lora_a_out)
        for a, b, c in zip(after, before, plain, strict=True):
            assert torch.equal(a[mine], b[mine])
            assert torch.equal(a[~mine], c[~mine])
