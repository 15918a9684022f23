"""Products of bfloat16 by oneDNN, for processors with AMX, whose tiles multiply many times as fast as vectors.

oneDNN chooses another order of summation for few rows than for many, and for many of a wide weight. So products are
made of calls with row counts from a short ladder, of those that agree on this machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from warmeng.kernels.linear import add_lora
from warmeng.kernels.lora import Changes

# The tile that the others are compared with.
_WHOLE_ROWS = 96
# From 48 rows to 256 all weights of the built-in model agreed on a processor with AMX.
_LADDER = (16, 32, 48, 64, _WHOLE_ROWS, 128, 192, 256, 384)
# A hint to oneDNN: the layout it chooses for this many rows was fast at all counts.
_PACK_ROWS = 96


@dataclass(frozen=True)
class RowTiles:
    """Row counts that a product is called with, ascending."""

    sizes: tuple[int, ...] = _LADDER

    def split(self, rows: int) -> list[int]:
        """Return the calls that cover ``rows`` rows.

        The largest tile that is more than three quarters full goes first; the last call is the smallest that covers the
        rest, because one padded call beats two exact ones: a call streams the whole weight, and that dominates
        below 100 rows.
        """
        calls: list[int] = []
        for size in reversed(self.sizes):
            while size >= _WHOLE_ROWS and 4 * rows > 3 * size and (rows > _WHOLE_ROWS or size == _WHOLE_ROWS):
                calls.append(size)
                rows -= size
        if rows > 0:
            calls.append(next(size for size in self.sizes if size >= rows))
        return calls


class OneDnnProjection:
    """A weight in bfloat16, arranged for oneDNN; rows are rounded to bfloat16, products are summed in float32.

    Rows come and go in float32, but each product is rounded to bfloat16 once: oneDNN through PyTorch gives no other. A
    weight of a bfloat16 checkpoint loses nothing. The weight itself is not kept.
    """

    def __init__(self, tiles: RowTiles, w: Tensor) -> None:
        self.shape = (w.shape[0], w.shape[1])
        self._tiles = tiles
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(w.to(torch.bfloat16), _PACK_ROWS)

    def multiply(self, x: Tensor, changes: Changes | None = None) -> Tensor:
        """Return ``x @ w.T`` in float32, with adapters' changes."""
        calls = self._tiles.split(len(x))
        rows = torch.nn.functional.pad(x.to(torch.bfloat16), (0, 0, 0, sum(calls) - len(x)))
        parts = [self.multiply_tile(part) for part in torch.split(rows, calls)]
        return add_lora(torch.cat(parts)[: len(x)].float(), x, changes)

    def multiply_tile(self, x: Tensor) -> Tensor:
        """Return ``x @ w.T`` by one call, in bfloat16. x bfloat16."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        return y


def has_tiles() -> bool:
    """Tell whether this processor has AMX, and this build of PyTorch products for it."""
    there = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return bool(there and torch.cpu._is_amx_tile_supported() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def agreeing_row_tiles(shapes: Iterable[tuple[int, int]]) -> RowTiles:
    """Find the row counts that keep a row's bits in products of these shapes (out, in), by trying them.

    Raises RuntimeError where there are none.
    """
    return agreeing_sizes(map(_trial, sorted(set(shapes))))


def _trial(shape: tuple[int, int]) -> tuple[OneDnnProjection, Tensor]:
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
    return OneDnnProjection(RowTiles(), w), drawn(_LADDER[-1], -1.0)


@torch.inference_mode()
def agreeing_sizes(trials: Iterable[tuple[OneDnnProjection, Tensor]]) -> RowTiles:
    """Find the row counts of the ladder for which every product gives the same bits, at every place in the tile.

    trials: products, each with rows to try, as many as the ladder's last count. The rows go through the tile of 96 in
    order, then shuffled through each size; sizes whose rows differ are dropped. Raises RuntimeError where that tile's
    own rows differ when they change places.
    """
    ladder: Sequence[int] = _LADDER
    for projection, x in trials:
        generator = torch.Generator(device=x.device).manual_seed(1)
        expected = torch.cat([projection.multiply_tile(tile) for tile in torch.split(x, _WHOLE_ROWS)])
        kept = []
        for size in ladder:
            rows = torch.randperm(len(x), generator=generator, device=x.device)[:size]
            if torch.equal(projection.multiply_tile(x[rows]), expected[rows]):
                kept.append(size)
        if _WHOLE_ROWS not in kept:
            raise RuntimeError(
                f"a matrix product of shape {projection.shape} gives other bits for other rows of one tile on this "
                "machine, so results can't be batch-invariant here: run with --fast"
            )
        ladder = kept
    return RowTiles(tuple(ladder))
