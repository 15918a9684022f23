"""Products of bfloat16 by oneDNN, which processors with AMX take; others have its instructions for vectors."""

from __future__ import annotations

import pytest
import torch

from warmeng.kernels import arrangement, onednn
from warmeng.kernels.arrangement import arrange
from warmeng.kernels.onednn import OneDnnProjection, RowTiles, agreeing_row_tiles, agreeing_sizes

SHAPES = [(80, 48), (960, 576), (576, 1536), (4096, 96), (64, 2600), (960, 8), (8, 576)]


def has_products() -> bool:
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


with_products = pytest.mark.skipif(not has_products(), reason="oneDNN does not multiply bfloat16 here")


@with_products
@pytest.mark.parametrize("shape", [*SHAPES, (49152, 64)])
def test_products_are_those_of_rounded_numbers_rounded(shape: tuple[int, int]) -> None:
    w, x = torch.randn(*shape), torch.randn(96, shape[1])
    projection = OneDnnProjection(RowTiles(), w)
    assert projection.shape == shape
    exact = x.bfloat16().double() @ w.bfloat16().double().t()
    # Half a unit in the last place of eight bits, and the error of sums in float32.
    bound = exact.abs() * 2**-8 + 1e-5 * (x.abs().double() @ w.abs().double().t())
    found = projection.multiply(x)
    assert found.dtype == torch.float32
    assert bool(((found.double() - exact).abs() <= bound).all())


@with_products
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_keep_their_bits_in_any_company(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrangement, "has_tiles", lambda: True)
    found = arrange([shape], torch.bfloat16, fast=False)
    assert found.dtype == torch.bfloat16
    assert "96" in found.name
    w, rounded = onednn._trial(shape)
    # Random numbers, and those whose sums cancel: there another order shows in most outputs.
    tried = OneDnnProjection(agreeing_row_tiles([shape]), torch.zeros(1, 1))
    tried._packed = w._packed
    for projection, x in ((found.project(torch.randn(*shape)), torch.randn(384, shape[1])), (tried, rounded.float())):
        whole = projection.multiply(x)
        for count in (1, 2, 7, 16, 17, 33, 64, 65, 96, 97, 200, 383):
            rows = torch.randperm(384)[:count]
            assert torch.equal(projection.multiply(x[rows]), whole[rows]), count


def test_the_trial_sees_an_order_of_summation_that_rounding_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ordered(OneDnnProjection):
        """Sums in two halves where there are few rows, as products do on some processors."""

        def __init__(self, tiles: RowTiles, w: torch.Tensor) -> None:
            self.w = w.float()
            self.shape = (w.shape[0], w.shape[1])

        def multiply_tile(self, x: torch.Tensor) -> torch.Tensor:
            half = self.shape[1] // 2 if len(x) < 48 else self.shape[1]
            x = x.float()
            return (x[:, :half] @ self.w[:, :half].t() + x[:, half:] @ self.w[:, half:].t()).bfloat16()

    shape = (64, 96)
    w, x = torch.randn(*shape), torch.randn(384, 96)
    plain, x = Ordered(RowTiles(), w.bfloat16()), x.bfloat16()
    differs = float((plain.multiply_tile(x[:16]) != plain.multiply_tile(x)[:16]).float().mean())
    monkeypatch.setattr(onednn, "OneDnnProjection", Ordered)
    tried, rows = onednn._trial(shape)
    seen = float((tried.multiply_tile(rows[:16]) != tried.multiply_tile(rows)[:16]).float().mean())
    assert differs < 0.02 < 0.2 < seen
    sizes = agreeing_row_tiles([shape]).sizes
    assert sizes[0] >= 48
    assert 96 in sizes


def test_a_machine_without_any_agreement_is_refused() -> None:
    class Moody(OneDnnProjection):
        shape = (64, 48)

        def __init__(self) -> None: ...

        def multiply_tile(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1e-2 * torch.arange(len(x))[:, None]

    with pytest.raises(RuntimeError, match="--fast"):
        agreeing_sizes([(Moody(), torch.randn(384, 48))])


def test_tiles_cover_every_row_once() -> None:
    tiles = RowTiles((16, 32, 64, 96, 384))
    for rows in range(1, 1200):
        calls = tiles.split(rows)
        assert sum(calls[:-1]) < rows <= sum(calls)
        assert sum(calls) - rows <= 96
        assert set(calls) <= set(tiles.sizes)
    assert tiles.split(97) == [96, 16]
    assert tiles.split(300) == [384]
