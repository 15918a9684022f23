"""The gated activation with the adapters' changes of gate and up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from warmeng.kernels.gpu.activation import silu_mul, silu_mul_plain
from warmeng.kernels.gpu.lora import Product

SHAPES = [(1, 80), (2, 16), (15, 130), (16, 128), (17, 33), (37, 300), (130, 72)]


PATTERNS = ["idle", "one", "mixed", "many", "doses"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_twin(shape: tuple[int, int], dtype: torch.dtype, near, make_adapters, rng) -> None:
    """Small shapes are drawn again until there are 512 numbers: in a few, one alone may carry its three roundings."""
    count, width = shape
    found: list[list[torch.Tensor]] = [[], [], [], []]
    for _ in range(-(-512 // (count * width))):
        y = (torch.randn(count, 2 * width) * 3).to(dtype)
        changed = make_adapters(str(rng.choice(PATTERNS)), count).product(y, (width, width))
        for k, product in enumerate((Product(y), changed)):
            found[2 * k].append(silu_mul(product))
            found[2 * k + 1].append(silu_mul_plain(product))
    for out, reference in (found[:2], found[2:]):
        near(torch.cat(out), torch.cat(reference), dtype)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_mix_of_adapters(pattern: str, dtype: torch.dtype, near, make_adapters) -> None:
    product = make_adapters(pattern, 37).product(torch.randn(37, 2 * 70).to(dtype), (70, 70))
    near(silu_mul(product), silu_mul_plain(product), dtype)


def test_gates_of_any_size(dtype: torch.dtype, near) -> None:
    """Far down the gate shuts to zero, far up it lets pass what there is."""
    gate = torch.tensor([-3e38, -1e4, -104.0, -80.0, -1.0, 0.0, 1.0, 80.0, 1e4, 3e38])
    product = Product(torch.cat([gate, torch.full((10,), 0.5)])[None].to(dtype))
    out, reference = silu_mul(product), silu_mul_plain(product)
    assert not out.isnan().any()
    torch.testing.assert_close(out.double(), reference, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-30)


def test_a_row_does_not_see_the_others(make_adapters, dtype: torch.dtype) -> None:
    y = torch.randn(37, 2 * 70).to(dtype)
    adapters = make_adapters("mixed", 37)
    product = adapters.product(y, (70, 70))
    before, plain = silu_mul(product), silu_mul(Product(y))
    for mixture in range(len(adapters.coefficients)):
        mine = torch.tensor(adapters.ids == mixture)
        alone = np.where(adapters.ids == mixture, adapters.ids, 0).astype(np.int32)
        rows = replace(adapters, ids=alone).rows
        after = silu_mul(Product(y, product.lora_a_out, product.lora, rows))
        assert torch.equal(after[mine], before[mine])
        assert torch.equal(after[~mine], plain[~mine])
