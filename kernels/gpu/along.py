"""Projections of rows onto a direction.

One program sums one row, in an order that depends on the width alone. Bytes of a row: ``hidden * itemsize``; the
direction comes from the cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _along(x, unit, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    h = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(unit + column, mask=inside, other=0.0)
    tl.store(out + row, tl.sum(h * u, 0))


def along(x: Tensor, unit: Tensor) -> Tensor:
    """Return the dot product of each row with a unit vector, fp32 [rows]. x [rows, n], contiguous; unit fp32 [n]."""
    rows, width = x.shape
    out = torch.empty(rows, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    _along[(rows,)](x, unit, out, width, BLOCK=block, num_warps=min(8, max(1, block // 512)))
    return out
