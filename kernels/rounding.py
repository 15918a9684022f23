"""Rows rounded to int8 before a product, and the sums of a product scaled after it, on the CPU.

What ``quantized.quantize`` and PyTorch's operators give, bit for bit, in one pass each.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from warmeng.kernels.lanes import LANES
from warmeng.kernels.quantized import INT8_MAX
from warmeng.kernels.simd import (
    fill,
    fma,
    largest,
    load_one,
    load_some,
    load_whole,
    maximum,
    minimum,
    real,
    store_bytes,
    store_one,
    store_some,
    total,
    words,
)
from warmeng.kernels.threads import Kernel, next_unit, word_of

_ROWS = 4  # of one unit of work
# Adding it and taking it away rounds a number of less than 2^22 to a whole one, halves to even.
_WHOLE = np.float32(1.5 * 2**23)
_MAX = np.float32(INT8_MAX)


def round_rows(x: Tensor, scale: float | None = None, shift: int = 0) -> tuple[Tensor, Tensor]:
    """Return ``quantize(x, torch.int8, scale)``, with ``shift`` added to the values. x fp32 [rows, n], contiguous.

    With 128 added, the bytes are those of numbers from 1 to 255.
    """
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError("round_rows takes a contiguous tensor of float32")
    values, scales = torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x))
    _round_rows(
        len(x), x.shape[1], x.data_ptr(), values.data_ptr(), scales.data_ptr(),
        word_of(0.0 if scale is None else scale), word_of(float(shift)),
    )  # fmt: skip
    return values, scales


@Kernel
def _round_rows(data: int) -> None:
    _, _, rows, width, x, values, scales, given, shift = words(data, 9)
    zero, most, least = fill(np.float32(0)), fill(_MAX), fill(-_MAX)
    while True:
        first = next_unit(data) * _ROWS
        if first >= rows:
            break
        for row in range(first, min(first + _ROWS, rows)):
            # ``ruined`` becomes NaN where a number is not finite.
            size, ruined = zero, zero
            for i in range(0, width, LANES):
                number = load_some(x, row * width + i, min(width - i, LANES))
                size = maximum(maximum(number, zero - number), size)
                ruined = fma(number, zero, ruined)
            scale = real(given)
            if scale == np.float32(0):
                scale = largest(size) / _MAX
            if scale == np.float32(0):
                scale = np.float32(1)
            scale += total(ruined)
            store_one(scales, row, scale)
            each = fill(scale)
            for i in range(0, width, LANES):
                count = min(width - i, LANES)
                number = load_some(x, row * width + i, count) / each
                number = maximum(minimum(number, most), least)
                store_bytes(values, row * width + i, (number + fill(_WHOLE)) - fill(_WHOLE) + fill(real(shift)), count)


def scale_sums(sums: Tensor, row_scales: Tensor, scales: Tensor) -> Tensor:
    """Return ``sums * row_scales[:, None] * scales`` in fp32. sums int32 [rows, n]; row_scales [rows]; scales [n]."""
    if sums.dtype != torch.int32 or not (sums.is_contiguous() and scales.is_contiguous()):
        raise ValueError("scale_sums takes contiguous sums of int32")
    out = torch.empty(sums.shape)
    _scale_sums(len(sums), sums.shape[1], sums.data_ptr(), row_scales.data_ptr(), scales.data_ptr(), out.data_ptr())
    return out


@Kernel
def _scale_sums(data: int) -> None:
    _, _, rows, width, sums, row_scales, scales, out = words(data, 8)
    while True:
        first = next_unit(data) * _ROWS
        if first >= rows:
            break
        for row in range(first, min(first + _ROWS, rows)):
            scale = fill(load_one(row_scales, row))
            for i in range(0, width, LANES):
                count = min(width - i, LANES)
                value = load_whole(sums, row * width + i, count) * scale * load_some(scales, i, count)
                store_some(out, row * width + i, value, count)
