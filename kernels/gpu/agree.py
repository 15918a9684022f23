"""Which tiles give the same bits on this device: tried on random numbers, because no one promises it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from warmeng.kernels.gpu.matmul import TILES, Tile, project

_OUTS = 2048  # of a trial: more outputs are more of the same
_ROWS = (1, 17, 64, 200, 512)


@torch.inference_mode()
def agreeing_tiles(
    shapes: Sequence[tuple[int, int]], dtype: torch.dtype, device: torch.device, tiles: tuple[Tile, ...] = TILES
) -> tuple[Tile, ...]:
    """Return the tiles whose products of weights (out, in) have the same bits at any number of rows.

    The first tile is the measure; it must agree with itself. Raises RuntimeError where it doesn't.
    """
    kept = list(tiles)
    for outs, depth in sorted(set(shapes)):
        generator = torch.Generator(device=device).manual_seed(outs * 31 + depth)
        w = torch.randn(min(outs, _OUTS), depth, dtype=dtype, device=device, generator=generator)
        x = torch.randn(max(_ROWS), depth, dtype=dtype, device=device, generator=generator)
        expected = project(x, w, tiles=tiles[:1]).y

        def agrees(tile: Tile, x: torch.Tensor = x, w: torch.Tensor = w, expected: torch.Tensor = expected) -> bool:
            return all(
                torch.equal(project(x[-rows:].contiguous(), w, tiles=(tile,)).y, expected[-rows:]) for rows in _ROWS
            )

        kept = [tile for tile in kept if agrees(tile)]
        if tiles[0] not in kept:
            raise RuntimeError(
                f"a product of shape {outs} x {depth} gives other bits for other numbers of rows on this device, so "
                "results can't be batch-invariant here: run with --fast"
            )
    return tuple(kept)
