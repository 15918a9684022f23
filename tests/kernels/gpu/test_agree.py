"""Configurations are kept only where their bits agree, and refused by name where nothing agrees."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from warmeng.kernels.gpu import agree
from warmeng.kernels.gpu.attention import PagedPlan, Tiling, tiling
from warmeng.kernels.gpu.change import Product
from warmeng.kernels.gpu.matmul import TILES, Tile
from warmeng.kernels.gpu.norm import add_rms_norm

HERE = torch.device("cpu")


def exact(x: Tensor, w: Tensor, off: float = 0.0) -> Product:
    """A product that no company changes, or one that is off by a little."""
    return Product(x[:, :1] * w[:, 0] + off)


def test_tiles_that_differ_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def moody(x: Tensor, w: Tensor, tiles: tuple[Tile, ...], out_dtype: torch.dtype) -> Product:
        assert out_dtype == torch.float32  # of bf16, differences are mostly rounded away
        return exact(x, w, 1e-3 if tiles[0] == TILES[2] and len(x) == 200 else 0.0)

    monkeypatch.setattr(agree, "project", moody)
    assert agree.agreeing_tiles([(96, 64), (64, 96)], torch.float32, HERE) == (*TILES[:2], TILES[3])


def test_a_first_tile_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agree, "project", lambda x, w, tiles, out_dtype: exact(x, w, 1e-3 if len(x) == 17 else 0.0))
    with pytest.raises(RuntimeError, match="--fast"):
        agree.agreeing_tiles([(96, 64)], torch.float32, HERE)


def test_tiles_that_do_not_fit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(x: Tensor, w: Tensor, tiles: tuple[Tile, ...]) -> Product:
        if tiles[0].block_n > limit:
            raise OutOfResources(200_000, 100_000, "shared memory")
        return exact(x, w)

    monkeypatch.setattr(agree, "project", small)
    limit = 128
    assert agree.fitting_tiles(torch.float32, HERE) == TILES[:3]
    limit = 32
    with pytest.raises(OutOfResources):
        agree.fitting_tiles(torch.float32, HERE)


@pytest.mark.parametrize("rule", ["agrees", "other prefill", "nothing", "rarely"])
def test_prefill_takes_the_tiles_that_agree_with_decoding(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def attention(
        q: Tensor, k: Tensor, v: Tensor, plan: PagedPlan, lengths: Tensor, scale: float, tiles: Tiling
    ) -> Tensor:
        whole = len(plan.segments) == 1
        seen.add(float(q.sum()))
        off = whole and (
            rule == "nothing"
            or (tiles.prefill != tiles.decode and (rule == "other prefill" or (rule == "rarely" and len(seen) == 3)))
        )
        return q.flatten(1) + (1e-3 if off else 0.0)

    seen: set[float] = set()  # sequences, each of numbers of its own
    monkeypatch.setattr(agree, "attention", attention)
    tiles = tiling(64, False, 90)

    def tried() -> Tiling:
        return agree.agreeing_tiling(tiles, 4, 2, 64, 16, torch.float32, HERE, trials=3)

    if rule == "nothing":
        with pytest.raises(RuntimeError, match="--fast"):
            tried()
    else:
        assert tried() == (tiles if rule == "agrees" else replace(tiles, prefill=tiles.decode))


def test_the_norm_is_tried_with_and_without_adapters(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    here = torch.get_default_device()
    agree.check_norm(96, dtype, here)

    def moody(product: Product, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        return add_rms_norm(product, residual, weight, eps) + (1e-2 if product.low is not None else 0.0)

    monkeypatch.setattr(agree, "add_rms_norm", moody)
    with pytest.raises(RuntimeError, match="--fast"):
        agree.check_norm(96, dtype, here)
