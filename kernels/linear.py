"""Matrix products whose rows keep their bits whatever shares the batch, and low-rank adapters on top of them.

BLAS libraries choose another order of summation for other numbers of rows, so a row's last bits depend on its
company. Three rules prevent it here. Products are made of calls with row counts from a short ladder (``RowTiles``),
and the ladder holds only counts that were *seen* to give the same bits on this machine for this weight's shape, at any
place in the tile. Weights are stored ``[in, out]``: ``x @ w`` was the most uniform orientation, and the fastest. And
long reductions are cut into parts that are added in order, because the libraries cut them by the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

PACKED_ROWS = 96
_PREFILL_ROWS = 384
_LADDER = (16, 32, 64, PACKED_ROWS, _PREFILL_ROWS)
_MAX_REDUCTION = 1024  # MKL was seen to keep one order of summation at 576 and to change it at 1536


@dataclass(frozen=True)
class RowTiles:
    """Row counts, ascending, that one product may be called with. Empty: any count (fast mode)."""

    sizes: tuple[int, ...]

    def padded(self, rows: int) -> int:
        """Return the number of rows that ``rows`` rows take with their padding."""
        return sum(self.split(rows))

    def split(self, rows: int) -> list[int]:
        """Return the calls that cover ``rows`` rows.

        The largest tile that is at least three quarters full goes first; the last call is the smallest that covers the
        rest, because one padded call beats two exact ones: a call streams the whole weight, and that dominates
        below 100 rows.
        """
        sizes = self.sizes or (PACKED_ROWS, _PREFILL_ROWS)
        calls: list[int] = []
        for size in reversed(sizes):
            while size >= PACKED_ROWS and 4 * rows >= 3 * size and (rows > PACKED_ROWS or size == PACKED_ROWS):
                fits = self.sizes or rows >= size  # fast mode takes the exact count instead of padding
                calls.append(size if fits else rows)
                rows -= calls[-1]
        if rows > 0:
            calls.append(next((size for size in self.sizes if size >= rows), rows))
        return calls


@dataclass
class Projection:
    """A weight [in, out], and its parts rearranged for the BLAS's inner loops on first use.

    A plain call rearranges the weight every time, which was seen to take 10 to 15 % of it. The rearranged copy serves
    one row count only, so it is made for the largest tile; it costs the weight's size once more.
    """

    w: Tensor
    pack: bool = True
    _packed: list[Tensor] = field(default_factory=list)
    _parts: list[slice] = field(default_factory=list)  # of the reduction, near-equal

    def __post_init__(self) -> None:
        self.pack = self.pack and can_pack(self.w)
        size = self.w.shape[0]
        count = -(-size // _MAX_REDUCTION)
        edges = [size * i // count for i in range(count + 1)]
        self._parts = [slice(a, b) for a, b in pairwise(edges)]

    def multiply(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return ``x @ w``, in ``out`` where it is given. x [rows, in]; out [rows, out]."""
        for i, part in enumerate(self._parts):
            inputs, w = (x, self.w) if len(self._parts) == 1 else (x[:, part], self.w[part])
            if self.pack and x.shape[0] == PACKED_ROWS:
                y = self._packed_part(i, inputs.contiguous(), w)
                if i == 0 and out is not None:
                    out.copy_(y)
                    continue
            else:
                y = torch.mm(inputs, w, out=out if i == 0 else None)
            out = y if i == 0 or out is None else out.add_(y)
        assert out is not None
        return out

    def _packed_part(self, index: int, x: Tensor, w: Tensor) -> Tensor:
        if not self._packed:
            pack = torch.ops.mkl._mkl_reorder_linear_weight
            self._packed.extend(pack(self.w[part].t().contiguous(), PACKED_ROWS) for part in self._parts)
        y: Tensor = torch.ops.mkl._mkl_linear(x, self._packed[index], w.t(), None, PACKED_ROWS)
        return y


def can_pack(w: Tensor) -> bool:
    """Tell whether this build of PyTorch can rearrange a weight: MKL, single precision, CPU."""
    known = torch._C.has_mkl and hasattr(torch.ops.mkl, "_mkl_linear")
    return known and w.dtype == torch.float32 and w.device.type == "cpu"


def matmul(x: Tensor, projection: Projection, tiles: RowTiles) -> Tensor:
    """Return ``x @ w``. x [rows, in], rows as given by ``tiles.padded``; returns [rows, out]."""
    calls = tiles.split(x.shape[0])
    if len(calls) == 1:
        return projection.multiply(x)
    out = torch.empty(x.shape[0], projection.w.shape[1], dtype=x.dtype, device=x.device)
    start = 0
    for rows in calls:
        projection.multiply(x[start : start + rows], out[start : start + rows])
        start += rows
    return out


@dataclass(frozen=True)
class LowRank:
    """One adapter's change of one linear layer: ``x @ a @ b`` is added. a [in, r]; b [r, out], scale included."""

    a: Tensor
    b: Tensor


def add_low_rank(y: Tensor, x: Tensor, changes: Sequence[tuple[Tensor, LowRank]]) -> Tensor:
    """Add each adapter's change to its own rows of ``y`` in place and return ``y``.

    y [rows, out]; x [rows, in]; changes: (mask [rows, 1], 1 on the adapter's rows and 0 elsewhere, change). Adapters
    are multiplied one by one, so that a row's bits don't depend on which other adapters are loaded, and in batches of
    products of 16 rows, so that they don't depend on the number of rows; other rows gain an exact zero.
    """
    tile = _LADDER[0] if x.shape[0] % _LADDER[0] == 0 else x.shape[0]
    if x.shape[0] == tile:  # a batch of one takes another path through the BLAS, with other bits: it goes twice
        twice = [(mask.repeat(2, 1), change) for mask, change in changes]
        return y.copy_(_add_tiles(y.repeat(2, 1), x.repeat(2, 1), twice, tile)[:tile])
    return _add_tiles(y, x, changes, tile)


def _add_tiles(y: Tensor, x: Tensor, changes: Sequence[tuple[Tensor, LowRank]], tile: int) -> Tensor:
    inputs, outputs = x.view(-1, tile, x.shape[1]), y.view(-1, tile, y.shape[1])
    count = inputs.shape[0]
    for mask, change in changes:
        inner = torch.bmm(inputs, change.a.expand(count, -1, -1)).mul_(mask.view(count, tile, 1))
        outputs.baddbmm_(inner, change.b.expand(count, -1, -1))
    return y


@torch.inference_mode()
def agreeing_tiles(projections: Sequence[Projection], largest: int = _PREFILL_ROWS) -> RowTiles:
    """Find the row counts for which every product gives the same bits, at every place in the tile.

    Give one projection of each shape. Random rows go through the tile of 96 in order, then shuffled through each size
    of the ladder up to ``largest``; sizes whose rows differ are dropped. Raises RuntimeError where that tile's own
    rows differ when they change places.
    """
    ladder = [size for size in _LADDER if size <= largest]
    for projection in projections:
        w = projection.w
        generator = torch.Generator(device=w.device).manual_seed(w.shape[0] * 31 + w.shape[1])
        x = torch.randn(ladder[-1], w.shape[0], dtype=w.dtype, device=w.device, generator=generator)
        expected = torch.cat([projection.multiply(tile) for tile in torch.split(x, PACKED_ROWS)])
        kept = []
        for size in ladder:
            rows = torch.randperm(ladder[-1], generator=generator, device=w.device)[:size]
            if torch.equal(projection.multiply(x[rows]), expected[rows]):
                kept.append(size)
        if PACKED_ROWS not in kept:
            raise RuntimeError(
                f"a matrix product of shape {tuple(w.shape)} gives other bits for other rows of one tile on this "
                "machine, so results can't be batch-invariant here: run with --fast"
            )
        ladder = kept
    return RowTiles(tuple(ladder))
