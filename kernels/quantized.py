"""Quantised weights: how their numbers lie in memory, and what a product with them means.

Three kinds, each made once at load from whatever a checkpoint stores:

- int8: ``w = values * scales`` with a scale a row of the weight; rows of the input are rounded to int8 too, each with a
  scale of its own, so sums are whole numbers and every order of summation gives the same bits.
- fp8: the same with numbers of float8_e4m3fn, summed in float32.
- int4: ``w = (q - zero) * scale`` with a scale and a zero for each group along the input; rounded once to the type of
  the input, then multiplied as any weight of that type.

Embedding, norms and output head stay as they are. Adapters are multiplied with the input before it is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The largest numbers of the two types. -128 is not used, so that the range is symmetric.
INT8_MAX = 127.0
FP8_MAX = 448.0
# Of a packed block's inputs the first half lies in the low nibbles, the other in the high ones.
HALF = 64
BLOCK = 2 * HALF
# Of a weight that are dequantised at a time.
_ROWS = 1024
# The zero of a symmetric weight of 4 bits.
MIDDLE = 8
# The kind of a weight that is not quantised.
PLAIN = "plain"
# Of weights that are rounded here, the first that divides the input.
_GROUPS = (128, 64, 32)


@dataclass(frozen=True)
class RowScaled:
    """Numbers of 8 bits with a scale a row: ``w = values * scales[:, None]``.

    values: int8 or float8_e4m3fn [out, in]; scales: float32 [out], above 0. ``input_scale``: the scale of all inputs
    where a checkpoint fixes one (static quantisation); None: each row of the input has its own.
    """

    values: Tensor
    scales: Tensor
    input_scale: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def kind(self) -> str:
        """int8 or fp8."""
        return "int8" if self.values.dtype == torch.int8 else "fp8"

    def dequantized(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight [out, in], rounded once."""
        whole = torch.empty(self.shape, dtype=dtype, device=self.values.device)
        for rows in _parts(len(whole)):
            whole[rows] = self.values[rows].float() * self.scales[rows, None]
        return whole


@dataclass(frozen=True)
class Int4:
    """Numbers of 4 bits in groups along the input: ``w = (q - zeros) * scales``.

    packed: uint8 [out, ceil(in / 128) * 64]; byte ``j`` of a block of 128 inputs holds input ``j`` in its low nibble,
    input ``64 + j`` in its high one. scales: bfloat16, float16 or float32, as the checkpoint has them,
    [ceil(in / group), out]; zeros: uint8 of that shape, or None for 8 everywhere. ``width``: in.
    """

    packed: Tensor
    scales: Tensor
    zeros: Tensor | None
    group: int
    width: int

    kind = "int4"

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.packed.shape[0], self.width

    def numbers(self) -> Tensor:
        """Return the numbers q as they were before packing, uint8 [out, in], 0 to 15."""
        return _unpacked(self.packed, self.width)

    def dequantized(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight [out, in], rounded once: the product of float32 is exact for scales of 16 bits."""
        each = torch.arange(self.width, device=self.packed.device) // self.group
        whole = torch.empty(self.shape, dtype=dtype, device=self.packed.device)
        for rows in _parts(len(whole)):
            zeros = MIDDLE if self.zeros is None else self.zeros[:, rows].t().float()[:, each]
            numbers = _unpacked(self.packed[rows], self.width).float()
            whole[rows] = (numbers - zeros) * self.scales[:, rows].t().float()[:, each]
        return whole


Weight = Tensor | RowScaled | Int4


def _parts(rows: int) -> list[slice]:
    """Return what rows are done at a time, so that numbers of float32 lie beside the result for a few."""
    return [slice(first, first + _ROWS) for first in range(0, rows, _ROWS)]


def _unpacked(packed: Tensor, width: int) -> Tensor:
    blocks = packed.view(len(packed), -1, HALF)
    return torch.stack([blocks & 15, blocks >> 4], 2).flatten(1)[:, :width]


def kind_of(weight: Weight) -> str:
    """Return plain, int8, fp8 or int4."""
    return PLAIN if isinstance(weight, Tensor) else weight.kind


def pack_int4(numbers: Tensor, scales: Tensor, zeros: Tensor | None, group: int) -> Int4:
    """Return a weight of 4 bits. numbers: [out, in], 0 to 15; scales and zeros: [groups, out]."""
    out, width = numbers.shape
    padded = torch.nn.functional.pad(numbers.to(torch.uint8), (0, -width % BLOCK))
    halves = padded.view(out, -1, 2, HALF)
    packed = (halves[:, :, 0] | (halves[:, :, 1] << 4)).flatten(1).contiguous()
    return Int4(
        packed, scales.contiguous(), None if zeros is None else zeros.to(torch.uint8).contiguous(), group, width
    )


def quantize(rows: Tensor, dtype: torch.dtype, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """Round rows to int8 or float8_e4m3fn, each by its own scale, or all by the one that is given.

    rows [n, in]; returns (values [n, in] of ``dtype``, scales float32 [n]). The scale is the largest magnitude
    of the row over 127 or 448, as in vLLM; that of a row of zeros is 1. Numbers halfway go to the even neighbour; those
    past a given scale's range become its ends. The scale of a row that is not finite is NaN.
    """
    x = rows.float()
    largest = INT8_MAX if dtype == torch.int8 else FP8_MAX
    most = x.abs().amax(1)
    scales = most / largest if scale is None else torch.full_like(most, scale)
    scales = torch.where(scales == 0, 1.0, scales)
    # Whole numbers can't say that one of a row is not finite.
    scales = torch.where(most.isfinite(), scales, torch.nan)
    quotients = (x / scales[:, None]).clamp_(-largest, largest)
    return (quotients.round_() if dtype == torch.int8 else quotients).to(dtype), scales


def group_of(width: int) -> int:
    """Return how many inputs share a scale where a weight of this width is rounded to int4 here."""
    return next((size for size in _GROUPS if width % size == 0), _GROUPS[0])


def round_weight(w: Tensor, kind: str) -> RowScaled | Int4:
    """Round a weight [out, in] to the nearest numbers of a kind: int8, fp8 or int4.

    int4 is symmetric, in groups of 128 inputs, or of 64 or 32 where these divide the width and 128 doesn't. A group's
    scale is its largest magnitude over 7.5, rounded to bfloat16: half a step more than the ends -8 and 7 are cut.
    """
    if kind != "int4":
        return RowScaled(*quantize(w, torch.int8 if kind == "int8" else torch.float8_e4m3fn))
    width = w.shape[1]
    group = group_of(width)
    x = torch.nn.functional.pad(w.float(), (0, -width % group)).view(len(w), -1, group)
    scales = (x.abs().amax(2) / (MIDDLE - 0.5)).to(torch.bfloat16)
    scales = torch.where(scales == 0, 1.0, scales)
    numbers = (x / scales[:, :, None]).round_().clamp_(-MIDDLE, MIDDLE - 1).add_(MIDDLE)
    return pack_int4(numbers.flatten(1)[:, :width], scales.t(), None, group)


def through_fp8(x: Tensor) -> Tensor:
    """Return keys or values as a cache of float8_e4m3fn gives them back: rounded, those past 448 as 448; x's type."""
    return x.clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn).to(x.dtype)


def stack(weights: Sequence[Weight]) -> Weight:
    """Return weights of the same input one below the other, as one.

    Raises ValueError where they are of different kinds, groups or input scales.
    """
    if len(weights) == 1:
        return weights[0]
    plain = [w for w in weights if isinstance(w, Tensor)]
    if len(plain) == len(weights):
        return torch.cat(plain)
    rows = [w for w in weights if isinstance(w, RowScaled)]
    if len(rows) == len(weights) and len({(w.kind, w.input_scale) for w in rows}) == 1:
        return RowScaled(torch.cat([w.values for w in rows]), torch.cat([w.scales for w in rows]), rows[0].input_scale)
    fours = [w for w in weights if isinstance(w, Int4)]
    if len(fours) == len(weights) and len({(w.group, w.width, w.zeros is None, w.scales.dtype) for w in fours}) == 1:
        zeros = [w.zeros for w in fours if w.zeros is not None]
        return Int4(
            torch.cat([w.packed for w in fours]), torch.cat([w.scales for w in fours], 1),
            torch.cat(zeros, 1) if zeros else None, fours[0].group, fours[0].width,
        )  # fmt: skip
    raise ValueError("the parts of one product are quantised in different ways")
