"""Configurations are kept only where their bits agree, and refused by name where nothing agrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from warmeng.kernels.gpu import invariance
from warmeng.kernels.gpu.attention import PagedPlan, Tiling, tiling_for
from warmeng.kernels.gpu.lora import AdapterRows, LoraWeights, Product
from warmeng.kernels.gpu.norm import add_rms_norm
from warmeng.kernels.gpu.tiles import TILES, Tile, tiles_for
from warmeng.kernels.quantized import Weight, kind_of

HERE = torch.device("cpu")


class StandIn:
    """A batch-invariant product, but for what ``off`` says of (tile, rows, with adapters)."""

    def __init__(
        self, off: Callable[[Tile, int, bool], bool] = lambda tile, rows, adapters: False, lora_a: bool = False
    ):
        self.off, self.lora_a = off, lora_a

    def __call__(
        self, x: Tensor, w: Tensor, lora: LoraWeights | None = None, rows: AdapterRows | None = None, *,
        tiles: tuple[Tile, ...], out_dtype: torch.dtype | None,
    ) -> Product:  # fmt: skip
        wrong = 1e-3 * self.off(tiles[0], len(x), lora is not None)
        y = x[:, :1] * w[:, 0]
        if lora is None:
            return Product(y + wrong)
        lora_a = x[:, :1] * lora.a[:, 0] + (wrong if self.lora_a else 0.0)
        return Product(y + (0.0 if self.lora_a else wrong), lora_a, lora, rows)


@pytest.mark.parametrize("lora_a", [False, True], ids=["base", "adapters"])
@pytest.mark.parametrize("when", ["rows", "adapters"])
def test_tiles_that_differ_are_left_out(when: str, lora_a: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether for a number of rows, or where other rows carry adapters; in the base's numbers or in theirs."""

    def moody(tile: Tile, rows: int, adapters: bool) -> bool:
        return tile == TILES[2] and (adapters if when == "adapters" else rows == 200)

    monkeypatch.setattr(invariance, "project", StandIn(moody, lora_a))
    assert invariance.batch_invariant_tiles([(96, 64), (64, 96)], torch.float32, HERE) == (*TILES[:2], *TILES[3:])


@pytest.mark.parametrize("kind", ["int8", "fp8", "int4"])
def test_weights_of_every_kind_are_tried(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their own product, and a kind whose rows' bits depend on their number is refused."""
    product, met = invariance.project, set()

    def watched(x: Tensor, w: Weight, *others: object, **options: Any) -> Product:
        met.add(kind_of(w))
        made = product(x, w, *others, **options)
        return Product(made.y + moody * (len(x) == 17), made.lora_a_out, made.lora, made.rows)

    moody = 0.0
    monkeypatch.setattr(invariance, "project", watched)
    monkeypatch.setattr(invariance, "_ROWS", (1, 17, 64))
    tiles = tiles_for(90, kind)[:2]
    assert invariance.batch_invariant_tiles([(48, 64)], torch.float32, HERE, tiles, kind) == tiles
    assert met == {kind}
    moody = 1e-3
    with pytest.raises(RuntimeError, match="--fast"):
        invariance.batch_invariant_tiles([(48, 64)], torch.float32, HERE, tiles, kind)


@pytest.mark.parametrize("adapters", [False, True])
def test_a_first_tile_that_differs_is_refused(adapters: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariance, "project", StandIn(lambda tile, rows, changed: rows == 17 and changed == adapters))
    with pytest.raises(RuntimeError, match="--fast"):
        invariance.batch_invariant_tiles([(96, 64)], torch.float32, HERE)


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("out_dtype", [None, torch.float32])
def test_tiles_that_do_not_fit_are_left_out(adapters: bool, out_dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any variant that will be run: one with adapters, or one of larger results, takes more."""

    def small(
        x: Tensor, w: Tensor, lora: LoraWeights | None = None, rows: AdapterRows | None = None, *,
        tiles: tuple[Tile, ...], out_dtype: torch.dtype | None,
    ) -> Product:  # fmt: skip
        if tiles[0].block_n > limit and (lora is not None, out_dtype) == (adapters, out_dtype_of_fault):
            raise OutOfResources(200_000, 100_000, "shared memory")
        return Product(x)

    out_dtype_of_fault = None if adapters else out_dtype
    monkeypatch.setattr(invariance, "project", small)
    limit = 128
    assert invariance.fitting_tiles(torch.float32, HERE) == tuple(t for t in TILES if t.block_n <= 128)
    limit = 16
    with pytest.raises(OutOfResources):
        invariance.fitting_tiles(torch.float32, HERE)


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
    monkeypatch.setattr(invariance, "attention", attention)
    tiles = tiling_for(64, False, 90)

    def tried() -> Tiling:
        return invariance.batch_invariant_tiling(tiles, 4, 2, 64, 16, torch.float32, HERE, trials=3)

    if rule == "nothing":
        with pytest.raises(RuntimeError, match="--fast"):
            tried()
    else:
        assert tried() == (tiles if rule == "agrees" else replace(tiles, prefill=tiles.decode))


def test_the_norm_is_tried_with_and_without_adapters(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    here = torch.get_default_device()
    invariance.check_norm(96, dtype, here)

    def moody(product: Product, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        return add_rms_norm(product, residual, weight, eps) + (1e-2 if product.lora_a_out is not None else 0.0)

    monkeypatch.setattr(invariance, "add_rms_norm", moody)
    with pytest.raises(RuntimeError, match="--fast"):
        invariance.check_norm(96, dtype, here)
