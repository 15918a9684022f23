"""Root-mean-square normalisation (Zhang and Sennrich 2019), on the CPU."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from warmeng.kernels.lanes import LANES
from warmeng.kernels.simd import fill, fma, load, load_some, real, store, store_some, total, words
from warmeng.kernels.threads import Kernel, next_unit, word_of

_ROWS = 4  # of one unit of work


def add_rms_norm(x: Tensor | None, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Add ``x`` to ``residual`` in place, where it is given, and return ``sum / sqrt(mean(sum^2) + eps) * weight``.

    All fp32 and contiguous, [rows, n]; weight [n].
    """
    given = [residual, weight] if x is None else [x, residual, weight]
    if any(t.dtype != torch.float32 or not t.is_contiguous() for t in given):
        raise ValueError("add_rms_norm takes contiguous tensors of float32")
    out = torch.empty_like(residual)
    rows, width = residual.shape
    _add_rms_norm(
        rows, width, 0 if x is None else x.data_ptr(), residual.data_ptr(), weight.data_ptr(), word_of(eps),
        out.data_ptr(),
    )  # fmt: skip
    return out


@Kernel
def _add_rms_norm(data: int) -> None:
    _, _, rows, width, x, residual, weight, eps, out = words(data, 9)
    whole = width // LANES * LANES
    while True:
        first = next_unit(data) * _ROWS
        if first >= rows:
            break
        for row in range(first, min(first + _ROWS, rows)):
            start = row * width
            squares = fill(np.float32(0))
            for i in range(0, whole, LANES):
                value = load(residual, start + i)
                if x != 0:
                    value = load(x, start + i) + value
                    store(residual, start + i, value)
                squares = fma(value, value, squares)
            if whole < width:
                value = load_some(residual, start + whole, width - whole)
                if x != 0:
                    value = load_some(x, start + whole, width - whole) + value
                    store_some(residual, start + whole, value, width - whole)
                squares = fma(value, value, squares)
            mean = total(squares) / np.float32(width)
            factor = fill(np.float32(1) / math.sqrt(mean + real(eps)))
            for i in range(0, whole, LANES):
                store(out, start + i, load(residual, start + i) * factor * load(weight, i))
            if whole < width:
                value = load_some(residual, start + whole, width - whole) * factor
                store_some(out, start + whole, value * load_some(weight, whole, width - whole), width - whole)
