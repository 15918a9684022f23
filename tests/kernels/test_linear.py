"""Products on the CPU: against float64, on outputs that held NaN, and the same bits for a row in any company."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from warmeng.kernels import linear
from warmeng.kernels.arrangement import arrange
from warmeng.kernels.linear import Bfloat16Projection, Float32Projection, multiply_packed, pack
from warmeng.kernels.micro_kernel import HEIGHT, PANEL, can_multiply

# Widths of less than a group, odd ones, and more than are summed at once; heights beside whole panels.
SHAPES = [(80, 48), (960, 576), (576, 1536), (33, 7), (64, 2600), (960, 8), (8, 577), (1, 1), (2 * PANEL, 1024)]
COUNTS = (1, 2, 3, 4, 5, 7, 8, 9, HEIGHT, HEIGHT + 1, 16, 17, 64, 97, 199)
PRODUCTS = [Float32Projection, *([Bfloat16Projection] if can_multiply("bfloat16") else [])]


@pytest.fixture(autouse=True)
def outputs_hold_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not written is NaN."""
    monkeypatch.setattr(linear.torch, "empty", lambda *shape, dtype: torch.full(shape, torch.nan).view(dtype))


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_close_to_float64(shape: tuple[int, int]) -> None:
    w, x = torch.randn(*shape), torch.randn(29, shape[1])
    projection = Float32Projection(w)
    assert projection.shape == shape
    exact = x.double() @ w.double().t()
    # Each of ``_SUMMED`` additions in turn rounds once, and so do those of the parts.
    bound = min(shape[1], linear._SUMMED + 8) * 2**-24 * (x.abs().double() @ w.abs().double().t())
    assert bool(((projection.multiply(x).double() - exact).abs() <= bound).all())
    torch.testing.assert_close(projection.multiply(x).double(), exact, atol=2e-6 * shape[1] ** 0.5 * 8, rtol=0)


@pytest.mark.skipif(not can_multiply("bfloat16"), reason="this processor does not multiply bfloat16")
@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_the_product_of_rounded_numbers(shape: tuple[int, int]) -> None:
    w, x = torch.randn(*shape), torch.randn(29, shape[1])
    rounded, rows = w.bfloat16().double(), x.bfloat16().double()
    bound = min(shape[1], linear._SUMMED + 8) * 2**-23 * (rows.abs() @ rounded.abs().t())
    found = Bfloat16Projection(w).multiply(x)
    assert found.dtype == torch.float32
    assert bool(((found.double() - rows @ rounded.t()).abs() <= bound).all())


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_keep_their_bits_in_any_company(shape: tuple[int, int], product: type) -> None:
    projection = product(torch.randn(*shape))
    x = torch.randn(200, shape[1])
    whole = projection.multiply(x)
    for count in COUNTS:
        rows = torch.randperm(200)[:count]
        assert torch.equal(projection.multiply(x[rows]), whole[rows]), count


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("shape", [(576, 1536), (40, 64)])
def test_threads_and_cuts_change_no_bits(shape: tuple[int, int], product: type) -> None:
    threads = torch.get_num_threads()
    projection, x = product(torch.randn(*shape)), torch.randn(96, shape[1])
    found = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(projection.multiply(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_outputs_that_pass_the_cache_by_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    projection, x = Float32Projection(torch.randn(4 * PANEL, 100)), torch.randn(30, 100)
    kept = projection.multiply(x)
    monkeypatch.setattr(linear, "_CACHED_BYTES", 0)
    assert torch.equal(projection.multiply(x), kept)


@pytest.mark.parametrize("product", PRODUCTS)
def test_numbers_that_are_not_finite_stay_in_their_row_and_output(product: type) -> None:
    w, x = torch.randn(40, 50), torch.randn(14, 50)
    x[3, 7], x[13, 1], w[35, 2] = torch.nan, torch.inf, torch.nan
    y = product(w).multiply(x)
    assert y.isfinite().logical_not().sum() == 14 + 2 * 39
    assert not y[[3, 13]].isfinite().any()
    assert not y[:, 35].isfinite().any()


def test_packed_weights_hold_every_number_once() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        w = torch.randint(1, 100, (PANEL + 3, 13)).to(dtype)
        packed = pack(w)
        assert packed.shape[0] == 2
        assert packed.data_ptr() % 64 == 0
        assert torch.equal(packed.double().sum(), w.double().sum())
        assert packed[1, 0, 2, 0] == w[PANEL + 2, 0]


def test_rows_of_another_width_are_refused() -> None:
    projection = Float32Projection(torch.randn(8, 6))
    for x in (torch.randn(3, 5), torch.randn(6, 3).t(), torch.randn(3, 6).double(), torch.randn(3, 3).double()):
        with pytest.raises(ValueError, match="contiguous rows of 24 bytes"):
            projection.multiply(x)
    with pytest.raises(ValueError, match="contiguous rows"):
        multiply_packed(linear._multiply_float32, torch.randn(2, 5), projection._packed, 8)


PRINT_HASH = """
import hashlib, torch
from warmeng.kernels.linear import Float32Projection
from warmeng.kernels.lora import CarriedAdapters, CarriedRows, Changes, Lora, Loras
torch.set_num_threads(1)
found = hashlib.sha256()
for out, width in ((96, 576), (33, 7), (64, 2600)):
    w, x = (torch.arange(n * width).view(n, width) % 101 / 7 - 6 for n in (out, 29))
    found.update(Float32Projection(w).multiply(x).numpy().tobytes())
    a, b = w[:20], torch.arange(out * 20).view(out, 20) % 31 / 9 - 1
    loras = Loras([Lora([((a, b), out)], 0.5)])
    carried = CarriedAdapters(29, [CarriedRows(torch.arange(1, 29, 2), torch.ones(14) / 3)], loras.ranks)
    found.update(Float32Projection(w).multiply(x, Changes(loras, carried)).numpy().tobytes())
print(found.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="code of another processor would not run")
def test_code_for_an_older_processor_gives_the_same_bits() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", PRINT_HASH], env={**os.environ, **more}, text=True, capture_output=True, check=True
        ).stdout
        for more in ({}, {"NUMBA_CPU_NAME": "haswell"})
    }
    assert len(found) == 1


def test_float32_is_packed_on_any_machine() -> None:
    assert arrange([], torch.float32, fast=False).project is Float32Projection
