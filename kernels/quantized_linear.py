"""Products with quantised weights on the CPU; a row's bits do not depend on the batch.

Sums of int8 are whole numbers, the same in every order. Those of fp8 and int4 are sums of float32, or of bfloat16 for
int4, as weights of float32 are multiplied on this machine (``arrangement``).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from warmeng.kernels.arrangement import Arrangement
from warmeng.kernels.linear import (
    Float32Projection,
    Projection,
    Scales,
    add_lora,
    multiply_packed,
    pack,
    product_kernel,
)
from warmeng.kernels.lora import Changes, change_words
from warmeng.kernels.micro_kernel import PANEL, can_multiply
from warmeng.kernels.onednn import has_tiles
from warmeng.kernels.quantized import Int4, RowScaled, Weight, quantize
from warmeng.kernels.rounding import round_rows, scale_sums

# Products of numbers up to 127 and 128 in magnitude, so many of them, add up to less than 2 ** 24: every sum on the way
# is a number of float32.
_EXACT = 1024
_ROWS = (1, 2, 13, 96)
_BLOCK_ROWS = 512
# Makes a byte of a number from -127 to 127.
_SHIFT = 128


_multiply_int8 = product_kernel("int8") if can_multiply("int8") else None


class Sums(Protocol):
    """A weight's whole numbers, which multiply rows of whole numbers."""

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the sums, int32 [n, out]. rows int8 [n, in]."""


class Int8Projection:
    """A weight of int8: ``y = (sum of products of rounded rows * row's scale) * output's scale``, in float32."""

    def __init__(self, w: RowScaled, sums: Sums) -> None:
        """``sums`` multiplies with the weight's values."""
        self.shape = w.shape
        self._scales, self._input_scale = w.scales.contiguous(), w.input_scale
        self._sums = sums

    def multiply(self, x: Tensor, changes: Changes | None = None) -> Tensor:
        """Return ``x @ w.T`` with adapters' changes, which take x as it is.

        Rows are rounded to int8, each by its own scale unless the weight fixes one.
        """
        values, scales = round_rows(x, self._input_scale)
        return add_lora(scale_sums(self._sums(values), scales, self._scales), x, changes)


class ByteProjection:
    """The same by products of four bytes at a time (VNNI), scaled while sums are in registers.

    The instruction takes rows' numbers from 1 to 255, which is ``_SHIFT`` too much; sums start with what that adds.
    """

    def __init__(self, w: RowScaled) -> None:
        self.shape = w.shape
        self._input_scale = w.input_scale
        self._packed = pack(w.values)
        more = len(self._packed) * PANEL - w.shape[0]
        sums = torch.cat([part.sum(1, dtype=torch.int32) for part in torch.split(w.values, _BLOCK_ROWS)])
        self._starts = torch.nn.functional.pad(-_SHIFT * sums, (0, more))
        self._scales = torch.nn.functional.pad(w.scales, (0, more)).contiguous()

    def multiply(self, x: Tensor, changes: Changes | None = None) -> Tensor:
        """Return ``x @ w.T`` with adapters' changes, which take x as it is."""
        assert _multiply_int8 is not None
        out, width = self.shape
        values, scales = round_rows(x, self._input_scale, _SHIFT)
        whole = torch.nn.functional.pad(values, (0, -width % 4)) if width % 4 else values
        of = Scales(self._starts, self._scales, scales)
        return multiply_packed(_multiply_int8, whole, self._packed, out, of, change_words(changes, x, out))


class Fp8Projection:
    """A weight of fp8: rows are rounded to fp8 in the same way, products are summed in float32."""

    def __init__(self, w: RowScaled, sums: Projection) -> None:
        """``sums``: the weight's values in float32, as this machine multiplies them."""
        self.shape = w.shape
        self._dtype, self._scales, self._input_scale = w.values.dtype, w.scales, w.input_scale
        self._sums = sums

    def multiply(self, x: Tensor, changes: Changes | None = None) -> Tensor:
        """Return ``x @ w.T`` with x rounded, and adapters' changes, which take x as it is."""
        values, scales = quantize(x, self._dtype, self._input_scale)
        y = self._sums.multiply(values.float()).mul_(scales[:, None]).mul_(self._scales)
        return add_lora(y, x, changes)


def project(arrangement: Arrangement, weight: Weight) -> Projection:
    """Return a weight of any kind, arranged for products on the CPU."""
    if isinstance(weight, Tensor):
        return arrangement.project(weight)
    if not isinstance(weight, RowScaled):
        return arrangement.project(_dequantized(weight, arrangement.dtype))
    if weight.kind == "int8":
        # oneDNN has the tiles of AMX.
        by_bytes = _multiply_int8 is not None and not has_tiles()
        return ByteProjection(weight) if by_bytes else Int8Projection(weight, _sums(weight.values))
    return Fp8Projection(weight, arrangement.project(weight.values.float()))


def _dequantized(weight: Int4, dtype: torch.dtype) -> Tensor:
    """Return ``weight.dequantized(dtype)``, made in blocks of rows, as it takes several copies."""
    whole = torch.empty(weight.shape, dtype=dtype)
    for start in range(0, len(whole), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        zeros = None if weight.zeros is None else weight.zeros[:, rows]
        part = replace(weight, packed=weight.packed[rows], scales=weight.scales[:, rows], zeros=zeros)
        whole[rows] = part.dequantized(dtype)
    return whole


def _sums(values: Tensor) -> Sums:
    """Return how this processor multiplies whole numbers without kernels of our own."""
    return WholeSums(values) if whole_sums_are_exact(values.shape[1]) else SplitSums(values)


class WholeSums:
    """Values of int8 [out, in], multiplied by oneDNN in int32; they are kept as [in, out], which was faster."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.t().contiguous()

    def __call__(self, rows: Tensor) -> Tensor:
        """See ``Sums``."""
        return torch._int_mm(rows, self._values)


class SplitSums:
    """The same by products of float32 of so few inputs that their sums are exact, for machines without either."""

    def __init__(self, values: Tensor) -> None:
        width = values.shape[1]
        edges = [*range(0, width, _EXACT), width]
        self._parts = [(slice(a, b), Float32Projection(values[:, a:b])) for a, b in pairwise(edges)]

    def __call__(self, rows: Tensor) -> Tensor:
        """See ``Sums``."""
        parts = [part.multiply(rows[:, columns].float().contiguous()) for columns, part in self._parts]
        return torch.stack([part.to(torch.int32) for part in parts]).sum(0, dtype=torch.int32)


@lru_cache
def whole_sums_are_exact(width: int) -> bool:
    """Tell whether oneDNN's products of int8 of this width are right here, by trying it.

    Without instructions for it a product's parts can overflow 16 bits: the largest numbers of all signs are tried.
    """
    generator = torch.Generator().manual_seed(width)
    values = torch.randint(-127, 128, (48, width), dtype=torch.int8, generator=generator)
    values[0], values[1], values[2] = 127, -127, -128
    for rows in _ROWS:
        x = torch.randint(-127, 128, (rows, width), dtype=torch.int8, generator=generator)
        x[0] = 127 if rows % 2 else -127
        # Sums of double precision are exact up to 2 ** 53.
        expected = (x.double() @ values.double().t()).to(torch.int32)
        try:
            if not torch.equal(WholeSums(values)(x), expected):
                return False
        except (RuntimeError, AttributeError):
            # This build of PyTorch has no such product, or one with other arguments.
            return False
    return True
