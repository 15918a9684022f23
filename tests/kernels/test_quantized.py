"""Quantised weights: packing, rounding, stacking."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from warmeng.kernels.quantized import RowScaled, kind_of, pack_int4, quantize, round_weight, stack


@given(st.integers(1, 5), st.sampled_from([1, 64, 100, 128, 200, 256]), st.sampled_from([32, 64, 128]), st.booleans())
def test_numbers_of_four_bits_come_back(out: int, width: int, group: int, asymmetric: bool) -> None:
    numbers = torch.randint(0, 16, (out, width), dtype=torch.uint8)
    groups = -(-width // group)
    scales = torch.rand(groups, out).to(torch.float16) + 0.01
    zeros = torch.randint(0, 16, (groups, out), dtype=torch.uint8) if asymmetric else None
    weight = pack_int4(numbers, scales, zeros, group)
    assert weight.shape == (out, width)
    assert torch.equal(weight.numbers(), numbers)
    each = torch.arange(width) // group
    zero = torch.full((groups, out), 8) if zeros is None else zeros.long()
    expected = (numbers.long() - zero.t()[:, each]).half() * scales.t()[:, each]
    assert torch.equal(weight.dequantized(torch.float16), expected)


@given(st.sampled_from(["int8", "fp8", "int4"]), st.sampled_from([1, 100, 128, 300]))
def test_weights_are_rounded_to_the_nearest_numbers_of_their_kind(kind: str, width: int) -> None:
    """The largest error is half a step of a row's, or a group's, largest number."""
    w = torch.randn(5, width) * torch.logspace(-3, 3, 5)[:, None]
    w[2] = 0
    found = round_weight(w, kind)
    assert kind_of(found) == found.kind == kind
    error = (found.dequantized() - w).abs()
    step = {"int8": 1 / 127, "fp8": 1 / 14, "int4": 1 / 7}[kind]
    # fp8 has steps that grow with the number; half of the largest is 1/28 of it.
    assert (error <= w.abs().amax(1, keepdim=True) * step * 0.51 + 1e-12).all()


def test_rounding_is_to_even_by_each_rows_largest_number() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, -2.5], [0.0, 0.0, 0.0, 0.0], [-1.0, 0.25, 0.0, 0.0]])
    values, scales = quantize(x, torch.int8)
    assert values.tolist() == [[127, 0, 2, -2], [0, 0, 0, 0], [-127, 32, 0, 0]]
    assert torch.equal(scales, torch.tensor([1.0, 1.0, 1 / 127]))
    values, scales = quantize(x, torch.float8_e4m3fn, scale=1 / 448)
    assert values.float()[0].tolist() == [448.0, 224.0, 448.0, -448.0]


def test_stacked_parts_are_one_weight() -> None:
    parts = [RowScaled(*quantize(torch.randn(n, 64), torch.int8)) for n in (3, 5)]
    whole = stack(parts)
    assert isinstance(whole, RowScaled)
    assert torch.equal(whole.dequantized(), torch.cat([p.dequantized() for p in parts]))
    fours = [
        pack_int4(torch.randint(0, 16, (n, 128)), torch.rand(2, n), torch.randint(0, 16, (2, n)), 64) for n in (2, 4)
    ]
    assert torch.equal(stack(fours).dequantized(), torch.cat([p.dequantized() for p in fours]))  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="different ways"):
        stack([parts[0], fours[0]])
