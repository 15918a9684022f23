"""Products with quantised weights: whole sums exact, and the same bits for a row in any company."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from warmeng.kernels import quantized_linear
from warmeng.kernels.arrangement import Arrangement, arrange, multiplies_bf16
from warmeng.kernels.micro_kernel import can_multiply
from warmeng.kernels.quantized import Int4, RowScaled, quantize, round_weight
from warmeng.kernels.quantized_linear import ByteProjection, SplitSums, WholeSums, project, whole_sums_are_exact
from warmeng.kernels.rounding import round_rows, scale_sums

SHAPES = [(96, 64), (40, 576), (24, 2100)]
KINDS = ("int8", "fp8", "int4")


@pytest.fixture(scope="module")
def arrangement() -> Arrangement:
    return arrange(SHAPES, torch.float32, fast=False)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(x: Tensor, weight: RowScaled) -> Tensor:
    """Return the product with sums of double precision, which are exact for int8, rounded where the rules say."""
    values, scales = quantize(x, weight.values.dtype, weight.input_scale)
    sums = (values.double() @ weight.values.double().t()).float()
    return sums * scales[:, None] * weight.scales


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_exact_up_to_its_scales(arrangement: Arrangement, shape: tuple[int, int]) -> None:
    weight = round_weight(drawn(*shape), "int8")
    assert isinstance(weight, RowScaled)
    x = drawn(37, shape[1], seed=1)
    assert torch.equal(project(arrangement, weight).multiply(x), by_hand(x, weight))


@pytest.mark.parametrize("width", [1, 33, 1024, 1025, 2048, 5000])
def test_all_ways_of_whole_sums_agree_at_the_largest_numbers(width: int) -> None:
    values = torch.randint(-127, 128, (5, width), dtype=torch.int8, generator=torch.Generator().manual_seed(3))
    values[0], values[1] = -128, 127
    rows = torch.full((3, width), 127, dtype=torch.int8)
    rows[1] = -127
    expected = (rows.double() @ values.double().t()).to(torch.int32)
    assert torch.equal(SplitSums(values)(rows), expected)
    if whole_sums_are_exact(width):
        assert torch.equal(WholeSums(values)(rows), expected)
    if can_multiply("int8"):
        weight = RowScaled(values, torch.ones(len(values)), 1.0)
        assert torch.equal(ByteProjection(weight).multiply(rows.float()), expected.float())


def test_sums_that_are_not_exact_are_not_used(monkeypatch: pytest.MonkeyPatch, arrangement: Arrangement) -> None:
    monkeypatch.setattr(quantized_linear, "_multiply_int8", None)
    whole_sums_are_exact.cache_clear()
    right = WholeSums.__call__
    monkeypatch.setattr(WholeSums, "__call__", lambda self, rows: right(self, rows).clamp(max=2**15))
    try:
        assert not whole_sums_are_exact(2100)
        weight = round_weight(drawn(24, 2100), "int8")
        assert isinstance(weight, RowScaled)
        x = drawn(4, 2100, seed=1)
        assert torch.equal(project(arrangement, weight).multiply(x), by_hand(x, weight))
    finally:
        whole_sums_are_exact.cache_clear()


@pytest.mark.parametrize("static", [False, True])
def test_fp8_is_the_product_of_rounded_numbers(arrangement: Arrangement, static: bool) -> None:
    weight = round_weight(drawn(40, 576), "fp8")
    assert isinstance(weight, RowScaled)
    if static:
        weight = RowScaled(weight.values, weight.scales, 0.01)
    x = drawn(20, 576, seed=1)
    found = project(arrangement, weight).multiply(x)
    torch.testing.assert_close(found, by_hand(x, weight), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int4_is_the_product_with_the_dequantized_weight_bit_for_bit(dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not multiplies_bf16():
        pytest.skip("this processor does not multiply bfloat16")
    arrangement = arrange([(40, 576)], dtype, fast=False)
    weight = round_weight(drawn(40, 576), "int4")
    assert isinstance(weight, Int4)
    x = drawn(32, 576, seed=1)
    plain = arrangement.project(weight.dequantized(dtype).float())
    assert torch.equal(project(arrangement, weight).multiply(x), plain.multiply(x))


@pytest.mark.parametrize("zeros", [False, True])
def test_a_tall_weight_of_int4_is_dequantized_in_blocks(arrangement: Arrangement, zeros: bool) -> None:
    weight = round_weight(drawn(4100, 64), "int4")
    assert isinstance(weight, Int4)
    if zeros:
        weight = replace(weight, zeros=torch.randint(0, 16, weight.scales.shape, dtype=torch.uint8))
    x = drawn(3, 64, seed=1)
    assert torch.equal(project(arrangement, weight).multiply(x), arrangement.project(weight.dequantized()).multiply(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_keeps_its_bits_in_any_company(arrangement: Arrangement, kind: str, shape: tuple[int, int]) -> None:
    projection = project(arrangement, round_weight(drawn(*shape), kind))
    x = drawn(130, shape[1], seed=4) * torch.logspace(-3, 3, 130)[:, None]
    generator = torch.Generator().manual_seed(1)

    whole = projection.multiply(x)
    for count in (1, 2, 3, 7, 40, 97):
        chosen = torch.randperm(len(x), generator=generator)[:count]
        assert torch.equal(projection.multiply(x[chosen]), whole[chosen])


def test_a_row_that_is_no_number_stays_none(arrangement: Arrangement) -> None:
    for kind in KINDS:
        x = drawn(4, 64)
        x[1, 3], x[2, 5] = torch.nan, torch.inf
        y = project(arrangement, round_weight(drawn(96, 64), kind)).multiply(x)
        assert not y[1].isfinite().any()
        assert not y[2].isfinite().any()
        assert y[[0, 3]].isfinite().all()


def test_weights_are_rounded_to_the_nearest() -> None:
    w = drawn(6, 576)
    w[2] = 0
    for kind, steps in (("int8", 254), ("int4", 15)):
        weight = round_weight(w, kind)
        assert not isinstance(weight, Tensor)
        assert weight.kind == kind
        error = (weight.dequantized() - w).abs().amax(1)
        assert bool((error <= w.abs().amax(1) * 2 / steps * 0.53 + 1e-9).all())
    int4 = round_weight(w, "int4")
    assert isinstance(int4, Int4)
    assert (int4.group, int4.zeros, int4.scales.dtype, int4.scales.shape) == (64, None, torch.bfloat16, (9, 6))
    assert [round_weight(drawn(2, width), "int4").group for width in (128, 96, 80)] == [128, 32, 128]  # type: ignore[union-attr]
    # The last group is shorter.
    odd = round_weight(drawn(2, 200), "int4")
    assert isinstance(odd, Int4)
    assert odd.scales.shape == (2, 2)
    assert odd.dequantized().shape == (2, 200)


@pytest.mark.parametrize("scale", [None, 0.01])
@pytest.mark.parametrize("width", [1, 16, 37, 576])
def test_rows_are_rounded_as_quantize_does(width: int, scale: float | None) -> None:
    x = drawn(21, width) * 10 ** drawn(21, 1, seed=1)
    x[3], x[4, 0] = 0.0, -0.0
    # Numbers halfway between two.
    x[5] = torch.arange(width) % 254 - 126.5
    x[5, 0] = 127.0
    values, scales = round_rows(x, scale)
    shifted, _ = round_rows(x, scale, 128)
    assert torch.equal(shifted.view(torch.uint8).to(torch.int32) - 128, values.to(torch.int32))
    expected, expected_scales = quantize(x, torch.int8, scale)
    assert torch.equal(values, expected)
    assert torch.equal(scales, expected_scales)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_has_no_scale(value: float) -> None:
    x = drawn(5, 40)
    x[2, 33] = value
    _, scales = round_rows(x)
    assert scales.isnan().tolist() == [False, False, True, False, False]


def test_sums_are_scaled_as_written() -> None:
    sums = torch.randint(-(2**31), 2**31 - 1, (9, 41), generator=torch.Generator().manual_seed(4)).to(torch.int32)
    rows, columns = drawn(9).abs(), drawn(41, seed=1).abs()
    assert torch.equal(scale_sums(sums, rows, columns), sums.float() * rows[:, None] * columns)
