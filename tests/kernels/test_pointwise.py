"""Norm, rotation and cache writes on the CPU against float64, at every width, with outputs that held NaN."""

from __future__ import annotations

import pytest
import torch

from warmeng.kernels.norm import add_rms_norm
from warmeng.kernels.rope import copy_slots, rotate_heads, write_cache


@pytest.mark.parametrize("width", [16, 40, 576, 601])
@pytest.mark.parametrize("rows", [1, 5, 96])
def test_norm_adds_and_normalises(rows: int, width: int) -> None:
    x, residual, weight = torch.randn(rows, width), torch.randn(rows, width), torch.randn(width)
    total = x + residual
    kept = residual.clone()
    out = add_rms_norm(x, kept, weight, 1e-5)
    assert torch.equal(kept, total)
    wide = total.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=1e-6)
    assert torch.equal(add_rms_norm(None, kept, weight, 1e-5), out)
    assert torch.equal(kept, total)
    assert torch.equal(add_rms_norm(x[-1:].clone(), residual[-1:].clone(), weight, 1e-5), out[-1:])


@pytest.mark.parametrize("d", [2, 8, 40, 64, 128])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norms", [False, True])
def test_queries_and_keys_are_rotated_and_values_left(d: int, bias: bool, norms: bool) -> None:
    rows, heads, kv_heads = 9, 4, 2
    qkv = torch.randn(rows, (heads + 2 * kv_heads) * d)
    angles = torch.randn(rows, d // 2)
    added = torch.randn(qkv.shape[1]) if bias else None
    weights = (torch.randn(d), torch.randn(d)) if norms else None
    wide = qkv.double() + (0 if added is None else added.double())
    parts = wide.view(rows, -1, d)
    turned = parts[:, : heads + kv_heads]
    if weights is not None:
        scaled = turned / (turned.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        each = torch.stack([weights[0]] * heads + [weights[1]] * kv_heads).double()
        turned = scaled * each
    first, second = turned.chunk(2, -1)
    cos, sin = angles.double().cos()[:, None], angles.double().sin()[:, None]
    expected = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    rotate_heads(qkv, angles.cos(), angles.sin(), d, heads, kv_heads, added, weights, 1e-6)
    found = qkv.view(rows, -1, d).double()
    torch.testing.assert_close(found[:, : heads + kv_heads], expected, atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(found[:, heads + kv_heads :], parts[:, heads + kv_heads :], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d", [2, 40, 64])
def test_keys_and_values_land_in_their_slots_alone(d: int, dtype: torch.dtype) -> None:
    heads = torch.randn(4, 7, d)
    k, v = heads[:, 3:5], heads[:, 5:]
    # Too small for a normal number, the largest finite ones, and halves between two of bfloat16.
    for part in (k, v):
        part[0, 0, :2] = torch.tensor([1e-40, 3.4e38])
        part[2, 0, :2] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8])
    k_cache, v_cache = torch.full((5, 2, d, 16), torch.nan).to(dtype), torch.full((5, 2, 16, d), torch.nan).to(dtype)
    write_cache(k, v, k_cache, v_cache, torch.tensor([33, 5, 79, 16]))
    for row, slot in ((0, 33), (1, 5), (2, 79), (3, 16)):
        assert torch.equal(k_cache[slot // 16, :, :, slot % 16], k[row].to(dtype))
        assert torch.equal(v_cache[slot // 16, :, slot % 16], v[row].to(dtype))
    for cache in (k_cache, v_cache):
        assert int(cache.isnan().sum()) == cache.numel() - 4 * 2 * d
    v[1, 1, 0] = torch.nan
    write_cache(k, v, k_cache, v_cache, torch.tensor([33, 5, 79, 16]))
    assert bool(v_cache[0, 1, 5, 0].isnan())


def test_other_types_and_layouts_are_refused() -> None:
    x = torch.randn(4, 32)
    with pytest.raises(ValueError, match="float32"):
        add_rms_norm(None, x.double(), torch.ones(32), 1e-5)
    with pytest.raises(ValueError, match="contiguous"):
        rotate_heads(x.t(), x, x, 2, 1, 1)
    with pytest.raises(ValueError, match="follow one another"):
        write_cache(x.view(4, 2, 16)[..., ::2], x.view(4, 2, 16)[..., ::2], x, x, torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_slots_of_blocks_are_copied_in_order(dtype: torch.dtype) -> None:
    k, v = torch.randn(5, 2, 6, 16).to(dtype), torch.randn(5, 2, 16, 6).to(dtype)
    old_k, old_v = k.clone(), v.clone()
    copy_slots(k, v, torch.tensor([[1, 3, 7], [3, 4, 9]]))
    for target, slots, kept in ((3, [1] * 7, 7), (4, [1] * 7 + [3] * 2, 9)):
        for slot, source in enumerate(slots):
            assert torch.equal(k[target, :, :, slot], old_k[source, :, :, slot])
            assert torch.equal(v[target, :, slot], old_v[source, :, slot])
        assert torch.equal(k[target, :, :, kept:], old_k[target, :, :, kept:])
        assert torch.equal(v[target, :, kept:], old_v[target, :, kept:])
    assert torch.equal(k[:3], old_k[:3])
