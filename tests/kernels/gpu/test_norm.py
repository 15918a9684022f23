"""The norm with the residual stream, and the adapters' change on its way into it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from warmeng.kernels.gpu.lora import Product
from warmeng.kernels.gpu.norm import add_rms_norm, add_rms_norm_plain

SHAPES = [(1, 48), (2, 128), (15, 576), (16, 33), (17, 130), (37, 1000), (130, 72)]
PATTERNS = ["idle", "one", "mixed", "many", "doses"]
EPS = 1e-5


def inputs(count: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random product, residual and weight; the residual's rows differ in size, one is zero."""
    residual = torch.randn(count, width) * torch.logspace(-2, 2, count)[:, None]
    residual[count // 2] = 0
    return (torch.randn(count, width).to(dtype), residual.to(dtype), (torch.rand(width) + 0.5).to(dtype))


def check(product: Product | None, residual: torch.Tensor, weight: torch.Tensor, near) -> None:
    total, normed = add_rms_norm_plain(product, residual, weight, EPS)
    out = add_rms_norm(product, residual, weight, EPS)
    near(out, normed, weight.dtype)
    size = total.norm(dim=1, keepdim=True).clamp(min=1e-30)
    near(residual / size, total / size, weight.dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_twin(shape: tuple[int, int], dtype: torch.dtype, near) -> None:
    y, residual, weight = inputs(*shape, dtype)
    before = residual.clone()
    check(None, residual, weight, near)
    assert torch.equal(residual, before)
    check(Product(y), residual, weight, near)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_adds_the_change(shape: tuple[int, int], dtype: torch.dtype, near, make_adapters, rng) -> None:
    y, residual, weight = inputs(*shape, dtype)
    check(make_adapters(str(rng.choice(PATTERNS)), shape[0]).product(y, (shape[1],)), residual, weight, near)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_mix_of_adapters(pattern: str, dtype: torch.dtype, near, make_adapters) -> None:
    y, residual, weight = inputs(37, 200, dtype)
    check(make_adapters(pattern, 37).product(y, (200,)), residual, weight, near)


def test_rows_without_an_adapter_keep_their_bits(dtype: torch.dtype, make_adapters) -> None:
    """Whatever the others carry: with a change, of nothing or beside them, a plain row is what it is without."""
    y, residual, weight = inputs(130, 130, dtype)
    plain = torch.tensor(np.arange(130) % 3 == 0)
    expected = residual.clone()
    normed = add_rms_norm(Product(y), expected, weight, EPS)
    for pattern in PATTERNS:
        adapters = make_adapters(pattern, 130)
        adapters.ids[plain.cpu().numpy()] = 0
        found = residual.clone()
        out = add_rms_norm(adapters.product(y, (130,)), found, weight, EPS)
        assert torch.equal(found[plain], expected[plain])
        assert torch.equal(out[plain], normed[plain])


def test_a_change_does_not_see_other_adapters(make_adapters, dtype: torch.dtype) -> None:
    """The same rows and columns, with the other rows' adapters taken away: spans shrink, bits stay."""
    y, residual, weight = inputs(37, 130, dtype)
    adapters = make_adapters("mixed", 37)
    product = adapters.product(y, (130,))
    mine = adapters.ids == 2
    alone = replace(adapters, ids=np.where(mine, adapters.ids, 0).astype(np.int32)).rows
    after = residual.clone()
    add_rms_norm(product, residual, weight, EPS)
    add_rms_norm(Product(y, product.lora_a_out, product.lora, alone), after, weight, EPS)
    assert torch.equal(residual[torch.tensor(mine)], after[torch.tensor(mine)])
