"""Products with quantised weights, and the rounding of rows that goes before those of 8 bits."""

from __future__ import annotations

import pytest
import torch
from tiers import slow

from warmeng.kernels.gpu.lora import column_weights
from warmeng.kernels.gpu.matmul import project, project_plain
from warmeng.kernels.gpu.quantize import quantize_rows
from warmeng.kernels.gpu.tiles import INT4_TILES, TILES, Tile
from warmeng.kernels.quantized import Int4, RowScaled, pack_int4, quantize
from warmeng.kernels.quantized_linear import Int8Projection, SplitSums, WholeSums

EIGHT = [torch.int8, torch.float8_e4m3fn]
names = {"ids": lambda t: str(t).removeprefix("torch.")}
# rows, the parts' widths, depth.
SHAPES = [(1, (3, 5), 64), (17, (33,), 112), (37, (60, 19, 31), 256), (130, (129,), 400)]


def eight_bits(outs: int, depth: int, dtype: torch.dtype) -> RowScaled:
    return RowScaled(*quantize(torch.randn(outs, depth) * torch.rand(outs, 1), dtype))


def four_bits(outs: int, depth: int, group: int, zeros: bool, dtype: torch.dtype) -> Int4:
    groups = -(-depth // group)
    numbers = torch.randint(0, 16, (outs, depth))
    scales = (torch.rand(groups, outs) + 0.01).to(dtype)
    return pack_int4(numbers, scales, torch.randint(0, 16, (groups, outs)) if zeros else None, group)


@pytest.mark.parametrize("eight", EIGHT, **names)
@pytest.mark.parametrize("scale", [None, 0.01])
def test_rows_are_rounded_as_the_twin_rounds_them(eight: torch.dtype, scale: float | None, dtype: torch.dtype) -> None:
    x = (torch.randn(37, 300) * torch.logspace(-6, 4, 37)[:, None]).to(dtype)
    x[5] = 0
    x[7, 11], x[9, 3] = torch.nan, -torch.inf
    values, scales = quantize_rows(x, eight, scale)
    expected, of_rows = quantize(x, eight, scale)
    lost = scales.isnan()
    assert lost.nonzero()[:, 0].tolist() == [7, 9]
    assert torch.equal(lost, of_rows.isnan())
    assert torch.equal(scales[~lost], of_rows[~lost])
    assert torch.equal(values[~lost].float(), expected[~lost].float())


@pytest.mark.parametrize("eight", EIGHT, **names)
def test_a_row_that_is_no_numbers_gives_none(eight: torch.dtype) -> None:
    x, w = torch.randn(20, 64), eight_bits(40, 64, eight)
    x[3, 5] = torch.nan
    y = project(x, w).y
    assert y[3].isnan().all()
    assert y[[0, 4, 19]].isfinite().all()


@pytest.mark.parametrize("eight", EIGHT, **names)
@pytest.mark.parametrize("tile", [TILES[0], *slow(TILES[2], TILES[-2])], ids=lambda t: t.label)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_eight_bits_equal_the_twin(
    tile: Tile, shape: tuple[int, tuple[int, ...], int], eight: torch.dtype, dtype: torch.dtype, near, make_adapters
) -> None:
    count, widths, depth = shape
    x, w = torch.randn(count, depth).to(dtype), eight_bits(sum(widths), depth, eight)
    near(project(x, w, tiles=(tile,)).y, project_plain(x, w).y, dtype)
    adapters = make_adapters("mixed", count)
    lora, rows = adapters.lora(widths, depth, dtype), adapters.rows
    found, reference = project(x, w, lora, rows, tiles=(tile,)), project_plain(x, w, lora, rows)
    # The base's part has the same bits with adapters and without.
    assert torch.equal(found.y, project(x, w, tiles=(tile,)).y)
    own = column_weights(rows, len(widths)) != 0
    near(found.lora_a_out[own], reference.lora_a_out[own], dtype)


def test_whole_numbers_have_the_same_bits_in_any_order(dtype: torch.dtype) -> None:
    """Sums of int8 are exact: tiles, rows' places and the plain sum agree in the last bit."""
    x, w = torch.randn(70, 700).to(dtype), eight_bits(90, 700, torch.int8)
    values, scales = quantize(x, torch.int8)
    sums = (values.double() @ w.values.double().t()).float()
    expected = (sums * scales[:, None] * w.scales).to(dtype)
    for tile in (TILES[0], TILES[-2]):
        assert torch.equal(project(x, w, tiles=(tile,)).y, expected)
    if dtype == torch.float32:
        # And so do the CPU's products, the scales included.
        for whole in (WholeSums, SplitSums):
            assert torch.equal(Int8Projection(w, whole(w.values)).multiply(x), expected)
    order = torch.randperm(70)
    assert torch.equal(project(x[order].contiguous(), w).y, expected[order])


@pytest.mark.parametrize("group", [32, 64, 128, 4096])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("tile", INT4_TILES, ids=lambda t: t.label)
def test_four_bits_have_the_bits_of_the_dequantised_weight(
    tile: Tile, zeros: bool, group: int, dtype: torch.dtype, near, make_adapters
) -> None:
    count, widths, depth = [(1, (3, 5), 64), (17, (33,), 256), (70, (60, 29, 31), 400)][group % 3]
    x, w = torch.randn(count, depth).to(dtype), four_bits(sum(widths), depth, group, zeros, torch.float16)
    adapters = make_adapters("mixed", count)
    lora, rows = adapters.lora(widths, depth, dtype), adapters.rows
    found = project(x, w, lora, rows, tiles=(tile,))
    plain = project(x, w.dequantized(dtype), lora, rows, tiles=TILES[:1])
    reference = project_plain(x, w, lora, rows)
    near(found.y, reference.y, dtype)
    assert torch.equal(found.y, plain.y)
    own = column_weights(rows, len(widths)) != 0
    assert torch.equal(found.lora_a_out[own], plain.lora_a_out[own])
    assert torch.equal(project(x, w).y, project(x, w, tiles=(tile,)).y)
