"""The gated activation of the feed-forward layer, on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from warmeng.kernels.lanes import LANES
from warmeng.kernels.simd import exp, fill, load_some, store_some, words
from warmeng.kernels.threads import Kernel, next_unit

_ROWS = 2  # of one unit of work


def silu_mul(gate_up: Tensor) -> Tensor:
    """Return ``silu(gate) * up``. gate_up fp32 [rows, 2 n], gate first, contiguous; returns [rows, n]."""
    if gate_up.dtype != torch.float32 or not gate_up.is_contiguous():
        raise ValueError("silu_mul takes a contiguous tensor of float32")
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, width)
    _silu_mul(rows, width, gate_up.data_ptr(), out.data_ptr())
    return out


@Kernel
def _silu_mul(data: int) -> None:
    _, _, rows, width, gate_up, out = words(data, 6)
    one, zero = fill(np.float32(1)), fill(np.float32(0))
    while True:
        first = next_unit(data) * _ROWS
        if first >= rows:
            break
        for row in range(first, min(first + _ROWS, rows)):
            for i in range(0, width, LANES):
                count = min(width - i, LANES)
                gate = load_some(gate_up, 2 * row * width + i, count)
                up = load_some(gate_up, (2 * row + 1) * width + i, count)
                store_some(out, row * width + i, gate / (one + exp(zero - gate)) * up, count)
