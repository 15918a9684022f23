"""LoRA adapters on top of products (Hu et al. 2022), on the CPU: rows of a batch carry different ones, or none.

A row's change is summed over the inputs, then over the ranks, in their order, so its bits depend on neither the other
rows nor the other adapters. Rows that carry no adapter keep their numbers. ``linear`` makes the changes in the launch
that multiplies: first all rows' products with A, which are few numbers (the shrink), then those with B (the expand),
which are added to a tile's sums while they are in registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
import torch
from torch import Tensor

from warmeng.kernels.lanes import LANES
from warmeng.kernels.micro_kernel import HEIGHT, PANEL, multiply_chosen_rows
from warmeng.kernels.simd import fetch, fill, load_int, load_one, load_some, store_int, store_some, words

# ``Lora.words``; the first unit of work of an adapter's rows, ``CarriedRows.words``, and the rows' places.
_LORA, _CARRIED = 4, 5
# Words of a product that a tile's rows carry.
_TERM = 4
TERM_BYTES = 8 * _TERM
# Words of a panel: its first rank, its ranks, where their numbers begin in B.
_PANEL = 3


class Lora:
    """An adapter's matrices for one product, perhaps a fused one: it adds ``x @ a.T @ b.T * scale`` part by part."""

    def __init__(self, parts: list[tuple[tuple[Tensor, Tensor] | None, int]], scale: float) -> None:
        """``parts``: (A [rank, in], B [columns, rank]) or None, and the columns, of each part of the output."""
        self.columns = sum(columns for _, columns in parts)
        depths = [0 if pair is None else len(pair[0]) for pair, _ in parts]
        self.ranks = ranks = sum(depths)
        self.inputs = next(pair[0].shape[1] for pair, _ in parts if pair is not None)
        a, b = torch.zeros(ranks, self.inputs), torch.zeros(ranks, -(-self.columns // PANEL) * PANEL)
        spans, rank, column = [], 0, 0
        for (pair, columns), depth in zip(parts, depths, strict=True):
            if pair is not None:
                here = slice(rank, rank + depth)
                a[here] = pair[0]
                b[here, column : column + columns] = (pair[1] * scale).float().t()
                spans.append((column, column + columns, rank, rank + depth))
            rank, column = rank + depth, column + columns
        table, blocks, place = [], [], 0
        for left in range(0, self.columns, PANEL):
            # The ranks that the panel's columns have; where a part ends in it, zeros in the others' columns.
            within = [(low, high) for start, end, low, high in spans if start < left + PANEL and end > left]
            low, high = (within[0][0], within[-1][1]) if within else (0, 0)
            blocks.append(b[low:high, left : left + PANEL].reshape(-1))
            table.append((low, high - low, place))
            place += len(blocks[-1])
        # [in, ranks], then what a vector that begins at the last of them reads.
        self.a = torch.nn.functional.pad(a.t().reshape(-1), (0, LANES))
        # Each panel's ranks [ranks, PANEL], one panel after the other.
        self.b = torch.cat(blocks)
        self.panels = torch.tensor(table, dtype=torch.int64)
        # What the kernel reads of it: ranks of all parts, and addresses.
        self.words = ranks, self.a.data_ptr(), self.b.data_ptr(), self.panels.data_ptr()


@dataclass(frozen=True)
class CarriedRows:
    """The rows that carry an adapter."""

    # int64 [n], ascending.
    rows: Tensor
    # fp32 [n]: what the change is multiplied by in each.
    coefficients: Tensor

    def __post_init__(self) -> None:
        """Raises ValueError where a kernel would write elsewhere."""
        if not bool((self.rows.diff(prepend=torch.tensor([-1])) > 0).all()):
            raise ValueError("rows that carry an adapter are given in ascending order, each once")

    @cached_property
    def end(self) -> int:
        """A number above those of all rows."""
        return int(self.rows[-1]) + 1 if len(self.rows) else 0

    @cached_property
    def words(self) -> tuple[int, int, int]:
        """What the kernel reads of it."""
        return len(self.rows), self.rows.data_ptr(), self.coefficients.data_ptr()


class Loras:
    """What several adapters add to one product: ``Lora`` or None of each, in the order in which a row's are added."""

    def __init__(self, loras: Sequence[Lora | None]) -> None:
        """Raises ValueError unless all are of products of one shape, and there is one."""
        shapes = {(lora.inputs, lora.columns) for lora in loras if lora is not None}
        if len(shapes) != 1:
            raise ValueError(f"adapters of one product have one shape (inputs, outputs), got {sorted(shapes)}")
        ((self.inputs, self.columns),) = shapes
        self.ranks = max(lora.ranks for lora in loras if lora is not None)
        # The matrices are kept as long as their addresses.
        self._loras = tuple(loras)
        self.table = torch.tensor([(0,) * _LORA if lora is None else lora.words for lora in loras])


class CarriedAdapters:
    """The rows of a batch that carry each of several adapters, for all products of a step, one after the other."""

    def __init__(self, rows: int, carried: Sequence[CarriedRows], ranks: int) -> None:
        """rows: of the batch; carried: of each adapter; ranks: the most that an adapter's matrices have together."""
        if any(one.end > rows for one in carried):
            raise ValueError(f"an adapter is carried by rows beyond the {rows} that there are")
        self.rows, self.count, self.ranks = rows, len(carried), ranks
        self._carried = tuple(carried)
        units = np.cumsum([0, *(-(-len(one.rows) // HEIGHT) for one in carried)])
        self.units = int(units[-1])
        # Pairs of a tile and an adapter that some of its rows carry, by tile.
        tiles = [torch.unique_consecutive(one.rows // HEIGHT) for one in carried]
        numbers = torch.arange(self.count).repeat_interleave(torch.tensor([len(some) for some in tiles]))
        pairs = (torch.cat(tiles) * self.count + numbers).sort().values
        # Where each tile's begin, then each one's adapter.
        starts = torch.searchsorted(pairs, torch.arange(-(-rows // HEIGHT) + 1) * self.count)
        self.starts, self.numbers = starts, pairs % self.count
        # Of each pair and row the products with A, times the coefficient. Where a row doesn't carry the adapter they
        # are 0, which leaves any sum as it is, but for the sign of zero.
        self.shrunk = torch.zeros(len(pairs), HEIGHT, ranks, dtype=torch.float32)
        # The rows of ``shrunk`` that an adapter's rows have.
        self._places = [
            torch.searchsorted(pairs, one.rows // HEIGHT * self.count + number) * HEIGHT + one.rows % HEIGHT
            for number, one in enumerate(carried)
        ]
        entries = zip(units.tolist(), carried, self._places, strict=False)
        self.table = torch.tensor([(unit, *one.words, places.data_ptr()) for unit, one, places in entries])
        # Of each thread, what its tile's rows carry.
        self.terms = torch.empty(torch.get_num_threads(), self.count, _TERM, dtype=torch.int64)


@dataclass(frozen=True)
class Changes:
    """What adapters add to a product of a batch."""

    loras: Loras
    carried: CarriedAdapters

    def words(self, x: Tensor, outputs: int) -> tuple[int, ...]:
        """What a kernel reads of them, to add them to a product of x [rows, in] with so many outputs."""
        loras, carried = self.loras, self.carried
        if not x.is_contiguous() or x.dtype != torch.float32:
            raise ValueError("adapters take contiguous rows of float32")
        if (*x.shape, outputs) != (carried.rows, loras.inputs, loras.columns):
            expected = f"{carried.rows} rows of {loras.inputs} inputs and {loras.columns} outputs"
            raise ValueError(f"adapters take {expected}, got {len(x)} of {x.shape[1]} and {outputs}")
        if torch.get_num_threads() > len(carried.terms):
            raise ValueError(f"the rows were counted for {len(carried.terms)} threads, got {torch.get_num_threads()}")
        # The kernel counts in the fifth the units that are finished.
        return (
            carried.count, loras.table.data_ptr(), carried.table.data_ptr(), carried.units, 0,
            carried.starts.data_ptr(), carried.numbers.data_ptr(), carried.shrunk.data_ptr(), carried.ranks,
            carried.terms.data_ptr(), x.data_ptr(), loras.inputs,
        )  # fmt: skip


# ``Changes.words`` of none, and where the finished units are counted in it.
UNCHANGED, FINISHED = (0,) * 12, 4


def change_words(changes: Changes | None, x: Tensor, outputs: int) -> tuple[int, ...]:
    """Return ``Changes.words``, or those of none."""
    return UNCHANGED if changes is None else changes.words(x, outputs)


@numba.njit
def shrink(unit: int, changes: int, loras: int, carried: int, shrunk: int, pitch: int, x: int, inputs: int) -> None:
    """Multiply some rows with their adapter's A: one unit of work of ``CarriedAdapters``."""
    number = 0
    while number < changes - 1 and unit >= load_int(carried, (number + 1) * _CARRIED):
        number += 1
    begun, count, rows, coefficients, places = words(carried + 8 * _CARRIED * number, _CARRIED)
    ranks, a, _, _ = words(loras + 8 * _LORA * number, _LORA)
    first = (unit - begun) * HEIGHT
    found = min(count - first, HEIGHT)
    for at in range(0, ranks, LANES):
        width = min(ranks - at, LANES)
        multiply_chosen_rows(
            x, inputs * 4, rows + first * 8, found, a + at * 4, ranks * 4, inputs, shrunk + at * 4, pitch * 4,
            places + first * 8, width,
        )  # fmt: skip
        for i in range(first, first + found):
            here = load_int(places, i) * pitch + at
            scaled = load_some(shrunk, here, width) * fill(load_one(coefficients, i))
            store_some(shrunk, here, scaled, width)


@numba.njit
def fetch_panel(panel: int, changes: int, loras: int) -> None:
    """Fetch a panel's parts of B, which are too few numbers for the processor to foresee."""
    for number in range(changes):
        ranks, _, b, panels = words(loras + 8 * _LORA * number, _LORA)
        if ranks > 0:
            _, depth, begin = words(panels + 8 * _PANEL * panel, _PANEL)
            for at in range(0, depth * PANEL, LANES):
                fetch(b, begin + at)


@numba.njit
def list_terms(
    panel: int, tile: int, loras: int, starts: int, numbers: int, shrunk: int, pitch: int, terms: int
) -> int:
    """Write what ``multiply_rows`` adds to a tile's sums of a panel, and return how many products these are."""
    found = 0
    for pair in range(load_int(starts, tile), load_int(starts, tile + 1)):
        ranks, _, b, panels = words(loras + 8 * _LORA * load_int(numbers, pair), _LORA)
        if ranks > 0:
            low, depth, begin = words(panels + 8 * _PANEL * panel, _PANEL)
            store_int(terms, found * _TERM, shrunk + 4 * (pair * HEIGHT * pitch + low))
            store_int(terms, found * _TERM + 1, pitch * 4)
            store_int(terms, found * _TERM + 2, b + begin * 4)
            store_int(terms, found * _TERM + 3, depth)
            found += int(depth > 0)
    return found
