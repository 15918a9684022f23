"""Batch-invariant products."""

from __future__ import annotations

import pytest
import torch

from warmeng.kernels import linear
from warmeng.kernels.linear import (
    Arrangement,
    Bf16Projection,
    PackedProjection,
    PlainProjection,
    RowTiles,
    arrange,
    batch_invariant_row_tiles,
    matmul,
)

CPU = torch.device("cpu")
with_bf16 = pytest.mark.skipif(not linear.multiplies_bf16(CPU), reason="this processor does not multiply bfloat16")
SHAPES = [(80, 48), (960, 576), (576, 1536), (4096, 96), (64, 2600), (960, 8), (8, 576)]


@pytest.fixture(params=["packed", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either way of arranging weights; the second is what machines without oneDNN take."""
    if request.param == "plain":
        monkeypatch.setattr(linear, "can_pack", lambda dtype, device: False)
    elif not linear.can_pack(torch.float32, CPU):
        pytest.skip("this PyTorch has no oneDNN")
    return str(request.param)


def arranged(shape: tuple[int, int]) -> Arrangement:
    return arrange([shape], torch.float32, CPU, fast=False)


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_keep_their_bits_in_any_company(shape: tuple[int, int], way: str) -> None:
    found = arranged(shape)
    tiles = found.tiles
    w = torch.randn(*shape)
    projection = found.project(w)
    assert projection.shape == shape
    assert isinstance(projection, PackedProjection if way == "packed" else PlainProjection)
    x = torch.randn(500, shape[1])

    def product(rows: torch.Tensor) -> torch.Tensor:
        padding = (0, 0, 0, tiles.padded(len(rows)) - len(rows))
        return matmul(torch.nn.functional.pad(rows, padding), projection, tiles)[: len(rows)]

    whole = product(x)
    torch.testing.assert_close(whole.double(), x.double() @ w.double().t(), atol=2e-3, rtol=1e-4)
    for count in (1, 2, 3, 7, 15, 16, 17, 64, 65, 96, 97, 200, 499):
        rows = torch.randperm(500)[:count]
        assert torch.equal(product(x[rows]), whole[rows]), count


def test_one_thread_gives_the_bits_of_two(way: str) -> None:
    threads = torch.get_num_threads()
    w, x = torch.randn(576, 1536), torch.randn(96, 1536)
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(arranged((576, 1536)).project(w).multiply(x))
    finally:
        torch.set_num_threads(threads)
    if way == "packed":  # BLAS libraries give no such promise: there the count of threads belongs to the machine
        assert torch.equal(*found)
    torch.testing.assert_close(*found)


def test_a_product_that_does_not_agree_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Moody(PackedProjection):
        def multiply(self, x: torch.Tensor) -> torch.Tensor:
            return super().multiply(x) + (1e-6 if x.shape[0] == 13 else 0)

    monkeypatch.setattr(linear, "PackedProjection", Moody)
    assert arranged((64, 48)).project is PlainProjection
    assert arrange([(64, 48)], torch.float32, CPU, fast=True).tiles == RowTiles()
    monkeypatch.setattr(linear, "can_pack", lambda dtype, device: False)
    assert arrange([(64, 48)], torch.float32, CPU, fast=True).tiles.split(1) == [1]


def test_a_machine_without_any_agreement_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Moody(PlainProjection):
        def multiply(self, x: torch.Tensor) -> torch.Tensor:
            return super().multiply(x) + 1e-6 * torch.arange(x.shape[0])[:, None]

    with pytest.raises(RuntimeError, match="--fast"):
        batch_invariant_row_tiles([(Moody(torch.randn(64, 48)), torch.randn(384, 48))], (64, 96, 384))


def test_tiles_cover_every_row_once() -> None:
    tiles = RowTiles((16, 32, 64, 96, 384))
    for rows in range(1, 1200):
        calls = tiles.split(rows)
        assert sum(calls) == tiles.padded(rows)
        assert sum(calls[:-1]) < rows <= sum(calls)
        assert sum(calls) - rows <= 96
        assert set(calls) <= set(tiles.sizes)
    assert tiles.split(97) == [96, 16]
    assert tiles.split(300) == [384]


def test_rungs_cover_any_count_with_little_padding_and_few_shapes() -> None:
    counts = [RowTiles().padded(rows) for rows in range(1, 769)]
    assert all(rows <= count < rows + 32 for rows, count in enumerate(counts, 1))
    assert all(count == RowTiles().padded(count) and RowTiles().split(count) == [count] for count in counts)
    assert len(set(counts)) == 44
    assert [RowTiles().padded(rows) for rows in (1, 4, 5, 96, 97, 129)] == [4, 4, 8, 96, 104, 160]


@with_bf16
@pytest.mark.parametrize("shape", [*SHAPES, (49152, 64)])
def test_bf16_products_are_those_of_rounded_numbers_rounded(shape: tuple[int, int]) -> None:
    w, x = torch.randn(*shape), torch.randn(96, shape[1])
    projection = Bf16Projection(w)
    assert projection.shape == shape
    exact = x.bfloat16().double() @ w.bfloat16().double().t()
    # Half a unit in the last place of eight bits, and the error of sums in float32.
    bound = exact.abs() * 2**-8 + 1e-5 * (x.abs().double() @ w.abs().double().t())
    found = projection.multiply(x)
    assert found.dtype == torch.float32
    assert bool(((found.double() - exact).abs() <= bound).all())


@with_bf16
@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_rows_keep_their_bits_in_any_company(shape: tuple[int, int]) -> None:
    found = arrange([shape], torch.bfloat16, CPU, fast=False)
    assert found.dtype == torch.bfloat16
    # Random numbers, and those whose sums cancel: there another order shows in most outputs.
    for projection, x in ((found.project(torch.randn(*shape)), torch.randn(384, shape[1])), linear._bf16_trial(shape)):

        def product(rows: torch.Tensor, by: linear.Projection = projection) -> torch.Tensor:
            padding = (0, 0, 0, found.tiles.padded(len(rows)) - len(rows))
            return matmul(torch.nn.functional.pad(rows, padding), by, found.tiles)[: len(rows)]

        whole = product(x)
        for count in (1, 2, 7, 16, 17, 33, 64, 65, 96, 97, 200, 383):
            rows = torch.randperm(384)[:count]
            assert torch.equal(product(x[rows]), whole[rows]), count


def test_the_trial_sees_an_order_of_summation_that_rounding_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ordered(Bf16Projection):
        """Sums in two halves where there are few rows, as products do on some processors."""

        def __init__(self, w: torch.Tensor) -> None:
            self.w = w.float()
            self.shape = (w.shape[0], w.shape[1])

        def multiply(self, x: torch.Tensor) -> torch.Tensor:
            half = self.shape[1] // 2 if len(x) < 48 else self.shape[1]
            x = x.bfloat16().float()
            return (x[:, :half] @ self.w[:, :half].t() + x[:, half:] @ self.w[:, half:].t()).bfloat16().float()

    shape = (64, 96)
    w, x = torch.randn(*shape), torch.randn(384, 96)
    plain = Ordered(w.bfloat16())
    differs = float((plain.multiply(x[:16]) != plain.multiply(x)[:16]).float().mean())
    monkeypatch.setattr(linear, "Bf16Projection", Ordered)
    tried, rows = linear._bf16_trial(shape)
    seen = float((tried.multiply(rows[:16]) != tried.multiply(rows)[:16]).float().mean())
    assert differs < 0.02 < 0.2 < seen
    sizes = arrange([shape], torch.bfloat16, CPU, fast=False).tiles.sizes
    assert sizes[0] >= 48
    assert 96 in sizes
    assert arrange([shape], torch.bfloat16, CPU, fast=True).tiles == RowTiles()


@pytest.mark.parametrize("left_out", [(), (384,), (16,), (16, 384), (48, 64, 256)])
def test_padded_rows_are_split_without_padding(left_out: tuple[int, ...]) -> None:
    tiles = RowTiles(tuple(size for size in (16, 32, 48, 64, 96, 128, 192, 256, 384) if size not in left_out))
    for rows in range(1, 1500):
        whole = tiles.padded(rows)
        assert rows <= whole == sum(tiles.split(whole))
