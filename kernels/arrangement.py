"""How weights are laid out for products on this machine's processor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from warmeng.kernels.linear import Bfloat16Projection, Float32Projection, Projection
from warmeng.kernels.micro_kernel import can_multiply
from warmeng.kernels.onednn import OneDnnProjection, RowTiles, agreeing_row_tiles, has_tiles


@dataclass(frozen=True)
class Arrangement:
    """How weights are laid out, and what products round them and their rows to."""

    project: Callable[[Tensor], Projection]
    dtype: torch.dtype
    # With the processor's instructions it determines the order of sums.
    name: str


def multiplies_bf16() -> bool:
    """Tell whether this processor multiplies bfloat16 (AVX512_BF16 or AMX): without, float32 is faster."""
    return can_multiply("bfloat16") or has_tiles()


def arrange(shapes: Iterable[tuple[int, int]], dtype: torch.dtype, fast: bool) -> Arrangement:
    """Choose how weights of these shapes (out, in) are multiplied.

    ``dtype``: float32, or bfloat16 where ``multiplies_bf16``. ``fast``: a row's bits may depend on the batch. Raises
    RuntimeError where no way keeps them on this machine.
    """
    if dtype == torch.float32:
        return Arrangement(Float32Projection, dtype, "panels")
    if not has_tiles():
        return Arrangement(Bfloat16Projection, dtype, "panels of pairs")
    tiles = RowTiles() if fast else agreeing_row_tiles(shapes)
    name = f"oneDNN, tiles of {', '.join(map(str, tiles.sizes))} rows"
    return Arrangement(lambda w: OneDnnProjection(tiles, w), dtype, name)
