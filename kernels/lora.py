"""LoRA adapters on top of products (Hu et al. 2022), on the CPU: rows of a batch carry different ones, or none.

A row's change is summed over the inputs, then over the ranks, in their order, so its bits depend on neither the other
rows nor the other adapters. Rows that carry no adapter are not touched.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from warmeng.kernels.lanes import LANES
from warmeng.kernels.simd import (
    fill,
    fma,
    load,
    load_int,
    load_one,
    load_some,
    spread,
    store,
    store_some,
    words,
)  # fmt: skip
from warmeng.kernels.threads import Kernel, next_unit, own_number

# Rows of one unit of work, each with a sum of its own while a matrix is read once for all.
_ROWS = 8
# Words of an adapter and the rows that carry it: the first unit of work, ``Lora.words`` and ``CarriedRows.words``.
_CHANGE = 9
# Words of a part: its first column of the output, its columns, its first rank, its ranks, where its matrix begins.
_PART = 5


class Lora:
    """An adapter's matrices for one product, perhaps a fused one: it adds ``x @ a.T @ b.T * scale`` part by part."""

    def __init__(self, parts: list[tuple[tuple[Tensor, Tensor] | None, int]], scale: float) -> None:
        """``parts``: (A [rank, in], B [columns, rank]) or None, and the columns, of each part of the output."""
        table, column, rank, place = [], 0, 0, 0
        for pair, columns in parts:
            if pair is not None:
                ranks = pair[0].shape[0]
                table.append((column, columns, rank, ranks, place))
                rank += ranks
                place += ranks * columns
            column += columns
        present = [pair for pair, _ in parts if pair is not None]
        # [in, ranks of all parts, padded to whole vectors]; so a vector's lanes are ranks.
        a = torch.cat([pair[0] for pair in present]).float().t()
        self.a = torch.nn.functional.pad(a, (0, -rank % LANES)).contiguous()
        # [rank, columns] of each part, one after the other.
        self.b = torch.cat([(pair[1] * scale).float().t().reshape(-1) for pair in present])
        self.parts = torch.tensor(table, dtype=torch.int64)
        self.columns = column
        # What the kernel reads of it: ranks of all parts, parts, and addresses.
        self.words = self.a.shape[1], len(table), self.a.data_ptr(), self.b.data_ptr(), self.parts.data_ptr()


@dataclass(frozen=True)
class CarriedRows:
    """The rows that carry an adapter."""

    # int64 [n].
    rows: Tensor
    # fp32 [n]: what the change is multiplied by in each.
    coefficients: Tensor

    @cached_property
    def words(self) -> tuple[int, int, int]:
        """What the kernel reads of it."""
        return len(self.rows), self.rows.data_ptr(), self.coefficients.data_ptr()


def add_lora(y: Tensor, x: Tensor, changes: Sequence[tuple[Lora, CarriedRows]]) -> None:
    """Add adapters' changes to the rows of ``y`` that carry them, in place. x [rows, in]; y [rows, out]; fp32.

    No row may carry two of them: those are added by one call after the other.
    """
    if not (x.is_contiguous() and y.is_contiguous()) or {x.dtype, y.dtype} != {torch.float32}:
        raise ValueError("add_lora takes contiguous tensors of float32")
    inputs, outputs = x.shape[1], y.shape[1]
    table, units, widest = array("q"), 0, 0
    for change, carried in changes:
        if inputs != change.a.shape[0] or outputs != change.columns or len(x) != len(y):
            raise ValueError(f"add_lora takes {change.a.shape[0]} inputs and {change.columns} outputs a row")
        table.extend((units, *change.words, *carried.words))
        units += -(-carried.words[0] // _ROWS)
        widest = max(widest, change.words[0])
    scratch = torch.empty(torch.get_num_threads(), _ROWS, widest)
    _add_lora(
        units, len(changes), inputs, outputs, widest, x.data_ptr(), y.data_ptr(), table.buffer_info()[0],
        scratch.data_ptr(),
    )  # fmt: skip


@Kernel
def _add_lora(data: int) -> None:
    _, _, units, changes, inputs, outputs, widest, x, y, all_changes, scratch = words(data, 11)
    scratch += 4 * _ROWS * widest * own_number(data)
    while True:
        unit = next_unit(data)
        if unit >= units:
            break
        entry = all_changes
        for _ in range(changes - 1):
            if unit >= load_int(entry, _CHANGE):
                entry += 8 * _CHANGE
        begun, ranks, parts, a, b, table, count, rows, coefficients = words(entry, _CHANGE)
        first = (unit - begun) * _ROWS
        last = count - 1
        # Where there are fewer rows, the last one is computed several times.
        i0, i1, i2, i3 = first, min(first + 1, last), min(first + 2, last), min(first + 3, last)
        i4, i5, i6, i7 = min(first + 4, last), min(first + 5, last), min(first + 6, last), min(first + 7, last)
        r0, r1, r2, r3 = load_int(rows, i0), load_int(rows, i1), load_int(rows, i2), load_int(rows, i3)
        r4, r5, r6, r7 = load_int(rows, i4), load_int(rows, i5), load_int(rows, i6), load_int(rows, i7)
        for at in range(0, ranks, LANES):
            s0 = fill(np.float32(0))
            s1, s2, s3, s4, s5, s6, s7 = s0, s0, s0, s0, s0, s0, s0
            for i in range(inputs):
                weight = load(a, i * ranks + at)
                s0 = fma(spread(x, r0 * inputs + i), weight, s0)
                s1 = fma(spread(x, r1 * inputs + i), weight, s1)
                s2 = fma(spread(x, r2 * inputs + i), weight, s2)
                s3 = fma(spread(x, r3 * inputs + i), weight, s3)
                s4 = fma(spread(x, r4 * inputs + i), weight, s4)
                s5 = fma(spread(x, r5 * inputs + i), weight, s5)
                s6 = fma(spread(x, r6 * inputs + i), weight, s6)
                s7 = fma(spread(x, r7 * inputs + i), weight, s7)
            store(scratch, at, s0 * fill(load_one(coefficients, i0)))
            store(scratch, ranks + at, s1 * fill(load_one(coefficients, i1)))
            store(scratch, 2 * ranks + at, s2 * fill(load_one(coefficients, i2)))
            store(scratch, 3 * ranks + at, s3 * fill(load_one(coefficients, i3)))
            store(scratch, 4 * ranks + at, s4 * fill(load_one(coefficients, i4)))
            store(scratch, 5 * ranks + at, s5 * fill(load_one(coefficients, i5)))
            store(scratch, 6 * ranks + at, s6 * fill(load_one(coefficients, i6)))
            store(scratch, 7 * ranks + at, s7 * fill(load_one(coefficients, i7)))
        for part in range(parts):
            start, columns, low, depth, place = words(table + 8 * _PART * part, 5)
            for at in range(0, columns, LANES):
                width = min(columns - at, LANES)
                to = start + at
                s0, s1 = load_some(y, r0 * outputs + to, width), load_some(y, r1 * outputs + to, width)
                s2, s3 = load_some(y, r2 * outputs + to, width), load_some(y, r3 * outputs + to, width)
                s4, s5 = load_some(y, r4 * outputs + to, width), load_some(y, r5 * outputs + to, width)
                s6, s7 = load_some(y, r6 * outputs + to, width), load_some(y, r7 * outputs + to, width)
                for rank in range(depth):
                    weight = load_some(b, place + rank * columns + at, width)
                    h = low + rank
                    s0 = fma(spread(scratch, h), weight, s0)
                    s1 = fma(spread(scratch, ranks + h), weight, s1)
                    s2 = fma(spread(scratch, 2 * ranks + h), weight, s2)
                    s3 = fma(spread(scratch, 3 * ranks + h), weight, s3)
                    s4 = fma(spread(scratch, 4 * ranks + h), weight, s4)
                    s5 = fma(spread(scratch, 5 * ranks + h), weight, s5)
                    s6 = fma(spread(scratch, 6 * ranks + h), weight, s6)
                    s7 = fma(spread(scratch, 7 * ranks + h), weight, s7)
                store_some(y, r0 * outputs + to, s0, width)
                store_some(y, r1 * outputs + to, s1, width)
                store_some(y, r2 * outputs + to, s2, width)
                store_some(y, r3 * outputs + to, s3, width)
                store_some(y, r4 * outputs + to, s4, width)
                store_some(y, r5 * outputs + to, s5, width)
                store_some(y, r6 * outputs + to, s6, width)
                store_some(y, r7 * outputs + to, s7, width)
