"""Batch-invariant matrix products on the CPU.

BLAS libraries choose another order of summation for other numbers of rows, so a row's last bits depend on the batch it
is in. oneDNN's products on a weight that was arranged for it once do not: any count of rows from two on gave the same
bits, with every instruction set from SSE4.1 to AVX-512 and with one thread or two. They were also 2.5 to 3 times as
fast as MKL's on an AMD processor, for which MKL has no fast path. They are used where PyTorch has them and a check at
load confirms the bits. Elsewhere products are made of calls with row counts from a short ladder of counts that agree on
this machine (``RowTiles``), and long reductions are cut into parts that are added in order. Weights are given as
checkpoints store them: ``[out, in]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

_PREFILL_ROWS = 384
# The tile that the others are compared with.
_WHOLE_ROWS = 96
_LADDER = (16, 32, 64, _WHOLE_ROWS, _PREFILL_ROWS)
# oneDNN has another order for few rows than for many, and for many of a wide weight, where the processor has AMX. From
# 48 rows to 256 all weights of the built-in model agreed there.
_BF16_LADDER = (16, 32, 48, 64, _WHOLE_ROWS, 128, 192, 256, _PREFILL_ROWS)
# MKL kept one order of summation at 576 and changed it at 1536.
_MAX_REDUCTION = 1024
# A hint to oneDNN: the arrangement it chooses for this many rows was fast at all counts.
_PACK_ROWS = 96
# Row counts that the check at load tries.
_TRIED = (2, 3, 4, 5, 8, 13, 16, 31, 64, 96, 97, 104, 200, 224, 384)
# (Largest number of rows, the multiple that the count is rounded up to.)
_RUNGS = ((64, 4), (128, 8), (2**62, 32))


class Projection(Protocol):
    """A weight that multiplies rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""

    def multiply(self, x: Tensor) -> Tensor:
        """Return ``x @ w.T``. x [rows, in]; the result [rows, out] is contiguous."""


class PackedProjection:
    """A weight arranged for oneDNN: float32 on the CPU. The weight itself is not kept."""

    def __init__(self, w: Tensor) -> None:
        self.shape = (w.shape[0], w.shape[1])
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(w, _PACK_ROWS)

    def multiply(self, x: Tensor) -> Tensor:
        """Return ``x @ w.T``."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        return y


class Bf16Projection:
    """A weight in bfloat16, arranged for oneDNN; rows are rounded to bfloat16, products are summed in float32.

    Rows come and go in float32, but each product is rounded to bfloat16 once: oneDNN through PyTorch gives no other. A
    weight of a bfloat16 checkpoint loses nothing. The weight itself is not kept.
    """

    def __init__(self, w: Tensor) -> None:
        self.shape = (w.shape[0], w.shape[1])
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(w.to(torch.bfloat16), _PACK_ROWS)

    def multiply(self, x: Tensor) -> Tensor:
        """Return ``x @ w.T`` in float32."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(torch.bfloat16), self._packed, None, "none", [], "")
        return y.float()


class PlainProjection:
    """A weight as it is, for machines without oneDNN; its rows keep their bits only in tiles of ``RowTiles``."""

    def __init__(self, w: Tensor) -> None:
        self.w = w
        self.shape = (w.shape[0], w.shape[1])
        count = -(-w.shape[1] // _MAX_REDUCTION)
        edges = [w.shape[1] * i // count for i in range(count + 1)]
        self._parts = [slice(a, b) for a, b in pairwise(edges)]

    def multiply(self, x: Tensor) -> Tensor:
        """Return ``x @ w.T``."""
        first, *rest = self._parts
        y = torch.mm(x[:, first], self.w[:, first].t())
        for part in rest:
            y.add_(torch.mm(x[:, part], self.w[:, part].t()))
        return y


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Tell whether this build of PyTorch can arrange a weight for oneDNN."""
    known = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return known and dtype == torch.float32 and device.type == "cpu"


def multiplies_bf16(device: torch.device) -> bool:
    """Tell whether this processor multiplies bfloat16 (AVX512_BF16 or AMX), and PyTorch has its products.

    Without them oneDNN's products of bfloat16 are slower than those of float32.
    """
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return native and can_pack(torch.float32, device) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass(frozen=True)
class RowTiles:
    """Row counts that a product is called with: those of ``sizes``, ascending, or where there are none, rungs.

    Products on rungs could take any count from two on. But oneDNN makes code for each shape that it meets, and keeps
    that of the last thousand (half a MB each and the code): a run met 192 counts of rows, a dozen shapes of weights.
    Rounded up to 44 rungs it took 280 MB less, memory stopped growing, and the time did not change.
    """

    sizes: tuple[int, ...] = ()
    # Any count, as it is.
    exact: bool = False

    def padded(self, rows: int) -> int:
        """Return the number of rows that ``rows`` rows take with their padding: one that is split without any."""
        while (whole := sum(self.split(rows))) != rows:
            rows = whole
        return rows

    def split(self, rows: int) -> list[int]:
        """Return the calls that cover ``rows`` rows.

        The largest tile that is more than three quarters full goes first; the last call is the smallest that covers the
        rest, because one padded call beats two exact ones: a call streams the whole weight, and that dominates
        below 100 rows.
        """
        if self.exact:
            return [rows]
        if not self.sizes:
            step = next(step for limit, step in _RUNGS if rows <= limit)
            return [-(-rows // step) * step]
        calls: list[int] = []
        for size in reversed(self.sizes):
            while size >= _WHOLE_ROWS and 4 * rows > 3 * size and (rows > _WHOLE_ROWS or size == _WHOLE_ROWS):
                calls.append(size)
                rows -= size
        if rows > 0:
            calls.append(next(size for size in self.sizes if size >= rows))
        return calls


@dataclass(frozen=True)
class Arrangement:
    """How weights are laid out on this machine, and the row counts that their products may be called with."""

    project: Callable[[Tensor], Projection]
    tiles: RowTiles
    # Bits may depend on the number of rows.
    fast: bool = False
    # What weights and rows are rounded to for a product.
    dtype: torch.dtype = torch.float32


def arrange(shapes: Sequence[tuple[int, int]], dtype: torch.dtype, device: torch.device, fast: bool) -> Arrangement:
    """Choose how weights of these shapes (out, in), given in float32, are multiplied, by trying it on random ones.

    ``dtype``: float32, or bfloat16 where ``multiplies_bf16``. ``fast`` takes all without a check. Raises RuntimeError
    where no way keeps a row's bits on this machine.
    """
    distinct = sorted(set(shapes))
    if dtype == torch.bfloat16:
        if fast:
            return Arrangement(Bf16Projection, RowTiles(), fast, dtype)
        tiles = batch_invariant_row_tiles(map(_bf16_trial, distinct), _BF16_LADDER)
        return Arrangement(Bf16Projection, tiles, fast, dtype)
    packed = can_pack(dtype, device)
    if fast:
        either = PackedProjection if packed else PlainProjection
        return Arrangement(either, RowTiles(exact=not packed), fast=True)
    if packed and _packed_agree(distinct, device):
        return Arrangement(PackedProjection, RowTiles())
    trials = (
        (PlainProjection(_random(shape, dtype, device)), _random((_LADDER[-1], shape[1]), dtype, device))
        for shape in distinct
    )
    return Arrangement(PlainProjection, batch_invariant_row_tiles(trials, _LADDER))


def _random(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a weight of the shape, cut where it is very tall: more outputs are more of the same."""
    generator = torch.Generator(device=device).manual_seed(shape[0] * 31 + shape[1])
    return torch.randn(min(shape[0], 4096), shape[1], dtype=dtype, device=device, generator=generator)


def _bf16_trial(shape: tuple[int, int]) -> tuple[Projection, Tensor]:
    """Return a weight and rows whose products show every order of summation, though they are rounded to bfloat16.

    Each product's terms cancel each other, in a random order, so what is left is the rounding of the sums. Where sums
    of random numbers differed in one output of 9,000 to 26,000, these do in three of four.
    """
    out, width = shape
    generator = torch.Generator().manual_seed(out * 31 + width)
    half = width // 2
    order = torch.randperm(2 * half, generator=generator)

    def drawn(rows: int, sign: float) -> Tensor:
        part = torch.randn(rows, half, generator=generator).to(torch.bfloat16)
        whole = torch.cat([part, sign * part], 1)[:, order]
        return torch.nn.functional.pad(whole, (0, width - 2 * half))

    # Of the whole height, which decides how oneDNN cuts it: a tall one is the same rows again.
    w = drawn(min(out, 4096), 1.0)
    w = w.repeat(-(-out // len(w)), 1)[:out]
    return Bf16Projection(w), drawn(_BF16_LADDER[-1], -1.0).float()


def _packed_agree(shapes: Iterable[tuple[int, int]], device: torch.device) -> bool:
    """Tell whether products of arranged weights of float32 keep a row's bits, at all of these shapes."""
    taken = (PackedProjection(_random(shape, torch.float32, device)) for shape in sorted(shapes))
    return all(_agrees(projection, torch.float32, device) for projection in taken)


@torch.inference_mode()
def _agrees(projection: Projection, dtype: torch.dtype, device: torch.device) -> bool:
    """Tell whether shuffled rows keep their bits at every count of ``_TRIED``."""
    x = _random((max(_TRIED), projection.shape[1]), dtype, device)
    expected = torch.cat([projection.multiply(part) for part in torch.split(x, _WHOLE_ROWS)])
    generator = torch.Generator(device=device).manual_seed(1)
    for count in _TRIED:
        rows = torch.randperm(len(x), generator=generator, device=device)[:count]
        if not torch.equal(projection.multiply(x[rows]), expected[rows]):
            return False
    return True


def matmul(x: Tensor, projection: Projection, tiles: RowTiles) -> Tensor:
    """Return ``x @ w.T``. x [rows, in], rows as given by ``tiles.padded``; returns [rows, out]."""
    calls = tiles.split(x.shape[0])
    if len(calls) == 1:
        return projection.multiply(x)
    return torch.cat([projection.multiply(part) for part in torch.split(x, calls)])


@torch.inference_mode()
def batch_invariant_row_tiles(trials: Iterable[tuple[Projection, Tensor]], ladder: Sequence[int]) -> RowTiles:
    """Find the row counts of the ladder for which every product gives the same bits, at every place in the tile.

    trials: products, each with rows to try, as many as the ladder's last count. The rows go through the tile of 96 in
    order, then shuffled through each size; sizes whose rows differ are dropped. Raises RuntimeError where that tile's
    own rows differ when they change places.
    """
    for projection, x in trials:
        generator = torch.Generator(device=x.device).manual_seed(1)
        expected = torch.cat([projection.multiply(tile) for tile in torch.split(x, _WHOLE_ROWS)])
        kept = []
        for size in ladder:
            rows = torch.randperm(len(x), generator=generator, device=x.device)[:size]
            if torch.equal(projection.multiply(x[rows]), expected[rows]):
                kept.append(size)
        if _WHOLE_ROWS not in kept:
            raise RuntimeError(
                f"a matrix product of shape {projection.shape} gives other bits for other rows of one tile on this "
                "machine, so results can't be batch-invariant here: run with --fast"
            )
        ladder = kept
    return RowTiles(tuple(ladder))
