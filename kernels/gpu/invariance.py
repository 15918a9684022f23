"""Which configurations are batch-invariant on this device: tried on random numbers, because nothing promises it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from warmeng.kernels.gpu.attention import SEGMENT_FIELDS, PagedPlan, Tiling, attention, cut_tiles
from warmeng.kernels.gpu.lora import NO_COLUMNS, AdapterRows, LoraWeights, Product, column_ranges
from warmeng.kernels.gpu.matmul import project
from warmeng.kernels.gpu.norm import add_rms_norm
from warmeng.kernels.gpu.tiles import TILES, Tile
from warmeng.kernels.quantized import PLAIN, round_weight
from warmeng.kernels.sizes import RANK_TILE

# Outputs of a trial, at most: more outputs are more of the same.
_OUTS = 2048
_ROWS = (1, 17, 64, 200, 512)
# (with adapters, type of the result) of the products that are run: a layer's, and the head's logits.
_VARIANTS = ((False, torch.float32), (False, None), (True, None))
# Random sequences for attention. One is not enough: rounding hides a last bit that differs in most results.
_TRIALS = 32
# Tokens of attention's trial: several tiles of keys, the last one partly filled.
_CONTEXT = 300


@torch.inference_mode()
def fitting_tiles(
    dtype: torch.dtype, device: torch.device, tiles: tuple[Tile, ...] = TILES, kind: str = PLAIN
) -> tuple[Tile, ...]:
    """Return the tiles that this device has the shared memory for, with adapters too; the first one must fit.

    ``kind``: of the weight, see ``kind_of``.
    """
    trial = _Trial(256, 128, dtype, device, kind, rank=128)
    kept: list[Tile] = []
    for tile in tiles:
        try:
            for adapters, out_dtype in _VARIANTS:
                trial.run(tile, 64, adapters, out_dtype)
        except OutOfResources:
            if not kept:
                raise
        else:
            kept.append(tile)
    return tuple(kept)


@torch.inference_mode()
def batch_invariant_tiles(
    shapes: Sequence[tuple[int, int]], dtype: torch.dtype, device: torch.device, tiles: tuple[Tile, ...] = TILES,
    kind: str = PLAIN,
) -> tuple[Tile, ...]:  # fmt: skip
    """Return the tiles whose products of weights (out, in) have the same bits at any number of rows.

    That includes steps in which other rows carry adapters, which take another variant of the kernel, and the rows of
    the A product. Tiles are compared with the first one. Raises RuntimeError where that one differs from itself.
    """
    kept = list(tiles)
    for outs, depth in sorted(set(shapes)):
        trial = _Trial(min(outs, _OUTS), depth, dtype, device, kind)
        y = trial.run(tiles[0], max(_ROWS), False, torch.float32).y
        lora_a_out = trial.run(tiles[0], max(_ROWS), True, None).lora_a_out
        assert lora_a_out is not None
        kept = [tile for tile in kept if trial.agrees(tile, y, lora_a_out)]
        if tiles[0] not in kept:
            raise RuntimeError(
                f"a product of shape {outs} x {depth} gives other bits for other numbers of rows on this device, so "
                "results can't be batch-invariant here: run with --fast"
            )
    return tuple(kept)


class _Trial:
    """A product of random numbers, of which a tile computes the last rows; every other row carries an adapter."""

    def __init__(
        self, outs: int, depth: int, dtype: torch.dtype, device: torch.device, kind: str, rank: int = RANK_TILE
    ) -> None:  # fmt: skip
        generator = torch.Generator(device=device).manual_seed(outs * 31 + depth)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=dtype, device=device, generator=generator)

        w, self.x = normal(outs, depth), normal(max(_ROWS), depth)
        self.w = w if kind == PLAIN else round_weight(w, kind)
        self.lora = LoraWeights(normal(rank, depth), normal(outs, rank), (outs,))
        self.rank = rank

    def run(self, tile: Tile, count: int, adapters: bool, out_dtype: torch.dtype | None) -> Product:
        """Return the product of the last ``count`` rows."""
        x = self.x[-count:].contiguous()
        if not adapters:
            return project(x, self.w, out_dtype=out_dtype, tiles=(tile,))
        rows = _every_other((np.arange(max(_ROWS), dtype=np.int32) % 2)[-count:], self.rank, x.device)
        return project(x, self.w, self.lora, rows, out_dtype=out_dtype, tiles=(tile,))

    def agrees(self, tile: Tile, y: Tensor, lora_a_out: Tensor) -> bool:
        """Tell whether all numbers of rows give the expected bits, in every variant that is run.

        ``y``: in single precision, because bf16 hides most differences; a million numbers in bf16 still show some.
        """
        for count in _ROWS:
            for adapters, out_dtype in _VARIANTS:
                found = self.run(tile, count, adapters, out_dtype)
                if not torch.equal(found.y, y[-count:].to(found.y.dtype)):
                    return False
                if adapters and (found.lora_a_out is None or not torch.equal(found.lora_a_out, lora_a_out[-count:])):
                    return False
        return True


def _every_other(mixtures: npt.NDArray[np.int32], rank: int, device: torch.device) -> AdapterRows:
    """Return the rows of a step with one adapter, which those of mixture 1 carry."""
    weights = np.repeat(np.asarray([[0], [1]], dtype=np.float32), rank, axis=1)
    tables = (mixtures, weights, column_ranges(mixtures, [NO_COLUMNS, (0, rank)]))
    return AdapterRows(*(torch.from_numpy(table).to(device) for table in tables))


@torch.inference_mode()
def batch_invariant_tiling(
    tiles: Tiling, heads: int, kv_heads: int, size: int, block_size: int, dtype: torch.dtype, device: torch.device,
    trials: int = _TRIALS, kept: torch.dtype | None = None,
) -> Tiling:  # fmt: skip
    """Return ``tiles``, prefilling as decoding does where a prefilled token would else have other bits.

    ``dtype``: of queries; ``kept``: of the cache, where that is another.
    ``trials``: sequences of random numbers that are attended to in both ways. Raises RuntimeError where a decoded token
    and the same one prefilled differ even so.
    """
    for tried in (tiles, replace(tiles, prefill=tiles.decode)):

        def attend(steps: list[int], seed: int, tried: Tiling = tried) -> Tensor:
            return _attend(tried, steps, heads, kv_heads, size, block_size, dtype, device, seed, kept or dtype)

        if all(torch.equal(attend([_CONTEXT], s), attend([_CONTEXT - 130, 1, 64, 1, 64], s)) for s in range(trials)):
            return tried
    raise RuntimeError(
        f"attention of {heads} heads of {size} gives other bits to tokens that are decoded than to the same ones "
        "prefilled on this device, so results can't be batch-invariant here: run with --fast"
    )


def _attend(
    tiles: Tiling, steps: list[int], heads: int, kv_heads: int, size: int, block_size: int, dtype: torch.dtype,
    device: torch.device, seed: int, kept: torch.dtype,
) -> Tensor:  # fmt: skip
    """Attend to one random sequence whose tokens are given in runs of these lengths, one segment each."""
    generator = torch.Generator(device=device).manual_seed((heads * 31 + size) * 1009 + seed)
    blocks = -(-_CONTEXT // block_size)
    shape = (blocks, kv_heads, block_size, size)
    k, v = (torch.randn(shape, dtype=dtype, device=device, generator=generator).to(kept) for _ in range(2))
    q = torch.randn(_CONTEXT, heads, size, dtype=dtype, device=device, generator=generator)
    ends = np.cumsum(steps)
    no_hole = np.iinfo(np.int32).max
    fields = [(end - count, count, end, no_hole, no_hole, 0) for count, end in zip(steps, ends, strict=True)]
    table, cuts = np.arange(blocks)[None], cut_tiles(steps, heads // kv_heads, tiles)
    arrays = (np.asarray(fields).reshape(-1, SEGMENT_FIELDS), table, *cuts)
    segments, tables, decode, prefill = (torch.from_numpy(a.astype(np.int32)).to(device) for a in arrays)
    context_lens = torch.arange(1, _CONTEXT + 1, dtype=torch.int32, device=device)
    plan = PagedPlan(segments, tables, decode, prefill, -(-_CONTEXT // tiles.chunk))
    return attention(q, k, v, plan, context_lens, size**-0.5, tiles)


@torch.inference_mode()
def check_norm(width: int, dtype: torch.dtype, device: torch.device) -> None:
    """Raise RuntimeError where a row without adapter has other bits in a step with adapters than in one without."""
    generator = torch.Generator(device=device).manual_seed(width)
    rows, rank = 37, 16
    y, residual = (torch.randn(rows, width, dtype=dtype, device=device, generator=generator) for _ in range(2))
    weight = torch.randn(width, dtype=dtype, device=device, generator=generator)
    mixtures = np.arange(rows, dtype=np.int32) % 2
    plain = torch.from_numpy(mixtures == 0).to(device)
    b = torch.randn(width, rank, dtype=dtype, device=device, generator=generator)
    lora_a_out = torch.randn(rows, rank, dtype=dtype, device=device, generator=generator)
    lora_a_out[plain] = 0
    there = _every_other(mixtures, rank, device)
    changed = Product(y, lora_a_out, LoraWeights(b[:rank].t().contiguous(), b, (width,)), there)
    with_adapters, without = residual.clone(), residual.clone()
    found = add_rms_norm(changed, with_adapters, weight, 1e-5)[plain]
    if not torch.equal(found, add_rms_norm(Product(y), without, weight, 1e-5)[plain]):
        raise RuntimeError(
            f"the norm of {width} numbers gives rows other bits in steps with adapters than in steps without on this "
            "device, so results can't be batch-invariant here: run with --fast"
        )
