"""Rounding rows to 8 bits, each by its own scale, before they meet a weight of 8 bits.

One program rounds one row. A row's scale depends on nothing else, so its bits are the same in every batch.
Bytes of a row: ``in * (itemsize + 1)``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from warmeng.kernels.quantized import FP8_MAX, INT8_MAX

# Adding it and taking it away again rounds numbers of single precision to whole ones, halves to the even neighbour.
_ROUND: tl.constexpr = tl.constexpr(1.5 * 2**23)


@triton.jit
def _quantize_rows(
    x, values, scales, width, given, LARGEST: tl.constexpr, GIVEN: tl.constexpr, WHOLE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    numbers = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
    if GIVEN:
        scale = tl.full((), 1.0, tl.float32) * given
    else:
        scale = tl.div_rn(tl.max(tl.abs(numbers), 0), tl.full((), LARGEST, tl.float32))
        scale = tl.where(scale == 0.0, 1.0, scale)
    # The largest of some numbers may pass over one that is none.
    lost = tl.sum(tl.where(tl.abs(numbers) < float("inf"), 0, 1))
    scale = tl.where(lost > 0, float("nan"), scale)
    quotients = tl.div_rn(numbers, tl.zeros_like(numbers) + scale)
    quotients = tl.minimum(tl.maximum(quotients, -LARGEST), LARGEST)
    if WHOLE:
        quotients = quotients + _ROUND - _ROUND
    tl.store(values + row * width + column, quotients.to(values.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)


def quantize_rows(x: Tensor, dtype: torch.dtype, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """Round rows to int8 or float8_e4m3fn; ``warmeng.kernels.quantized.quantize`` is the twin, bit for bit.

    x [rows, in], contiguous; returns (values [rows, in], scales fp32 [rows]). ``scale`` holds for all rows.
    """
    rows, width = x.shape
    values = torch.empty(rows, width, dtype=dtype, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    whole = dtype == torch.int8
    _quantize_rows[(rows,)](
        x, values, scales, width, 1.0 if scale is None else scale, LARGEST=INT8_MAX if whole else FP8_MAX,
        GIVEN=scale is not None, WHOLE=whole, BLOCK=block, num_warps=min(16, max(1, block // 1024)),
    )  # fmt: skip
    return values, scales
