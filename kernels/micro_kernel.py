"""The innermost loop of a matrix product on the CPU: a few rows times a panel of a weight, kept in registers.

Sums of a few rows with two vectors of outputs stay in registers while the inputs go by, a group of one row's at a time
in all lanes, times vectors of the weight (Goto and van de Geijn 2008; Van Zee and van de Geijn 2015). Each output is
summed over the inputs in their order, one instruction a group, so its bits depend neither on how many rows there are,
nor on which of them are computed together, nor on the width of the processor's vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from llvmlite.binding import get_host_cpu_features
from numba import config, types
from numba.extending import intrinsic

from warmeng.kernels.lanes import (
    FLOAT,
    FLOATS,
    INT32,
    INT64,
    INTS,
    LANES,
    at,
    call,
    fetch,
    fma,
    load_some,
    number,
    same,
    store_past,
    store_some,
    whole,
)
from warmeng.kernels.simd import Gen

# Of the processor that Numba compiles for, which also names its cache: PyTorch may be told to use less.
_WIDE = config.CPU_NAME is None and bool(get_host_cpu_features().get("avx512f"))
# Vectors of outputs in a panel, and how many rows are multiplied at once: the last fills the processor's registers.
VECTORS, HEIGHTS = (2, (1, 4, 8, 12)) if _WIDE else (1, (1, 2, 4, 6))
HEIGHT = HEIGHTS[-1]
PANEL = VECTORS * LANES
# A group of inputs of one row has four bytes, in the weight as in the rows: the vectors of one group have 64.
GROUP_BYTES, VECTOR_BYTES = 4, 64
# Groups between two branches, and lines of 64 bytes that are fetched ahead meanwhile: few rows wait for memory.
UNROLLED, FETCHED = 4, 4
# What one instruction adds to sixteen sums: the products of one float32, of two bfloat16, or of four whole numbers of
# one byte, the row's from 0 to 255 and the weight's from -128 to 127.
PRODUCTS = {
    "float32": "",
    "bfloat16": "llvm.x86.avx512bf16.dpbf16ps.512",
    "int8": "llvm.x86.avx512.vpdpbusd.512",
}


def can_multiply(kind: str) -> bool:
    """Tell whether this processor has the instruction of a kind: one that it lacks would end the process."""
    if kind == "float32":
        return True
    there = torch.cpu._is_avx512_bf16_supported() if kind == "bfloat16" else torch.cpu._is_vnni_supported()
    # Nor where Numba is told to compile for another processor.
    return there and config.CPU_NAME is None


def _multiply_add(b: Any, kind: str, x: Any, w: Any, total: Any) -> Any:
    """Add the products of one group, ``x`` in all lanes and ``w``, to sixteen sums."""
    if kind == "float32":
        return fma(b, b.bitcast(x, FLOATS), b.bitcast(w, FLOATS), total)
    return call(b, PRODUCTS[kind], total.type, total, x, w)


def _loop(
    b: Any, kind: str, rows: list[Any], step: Any, align: int, unrolled: int, end: Any, state: list[Any]
) -> list[Any]:
    """Multiply groups while a whole ``unrolled`` of them lies before ``end``.

    rows: where each row's groups begin. step: bytes from one group's vectors to the next one's, whose addresses are
    multiples of ``align``. state: the next group, the address of its vectors, that of a line to fetch, and the sums, as
    many of each row; returns what they are afterwards.
    """
    count = (len(state) - 3) // len(rows)
    head, body, after = (b.function.append_basic_block() for _ in range(3))
    entry = b.block
    b.branch(head)
    b.position_at_end(head)
    phis = [b.phi(value.type) for value in state]
    for phi, value in zip(phis, state, strict=True):
        phi.add_incoming(value, entry)
    group, vectors, line, *sums = phis
    following = b.add(group, whole(unrolled))
    b.cbranch(b.icmp_signed("<=", following, end), body, after)
    b.position_at_end(body)
    for k in range(FETCHED):
        fetch(b, b.add(line, whole(k * VECTOR_BYTES)))
    for turn in range(unrolled):
        places = (b.add(vectors, whole(j * VECTOR_BYTES)) for j in range(count))
        w = [b.load(at(b, place, INTS), align=align) for place in places]
        vectors = b.add(vectors, step)
        for i, row in enumerate(rows):
            place = b.add(b.add(row, b.mul(group, whole(GROUP_BYTES))), whole(turn * GROUP_BYTES))
            x = same(b, b.load(at(b, place, INT32), align=1), INTS)
            for j in range(count):
                sums[i * count + j] = _multiply_add(b, kind, x, w[j], sums[i * count + j])
    for phi, value in zip(phis, (following, vectors, b.add(line, whole(FETCHED * VECTOR_BYTES)), *sums), strict=True):
        phi.add_incoming(value, b.block)
    b.branch(head)
    b.position_at_end(after)
    return phis


@intrinsic(prefer_literal=True)
def multiply_rows(
    context: Any, kind: Any, x: Any, stride: Any, count: Any, w: Any, groups: Any, y: Any, pitch: Any, columns: Any,
    starts: Any, row_scales: Any, scales: Any, added: Any, streamed: Any, ahead: Any, terms: Any, carried: Any,
) -> tuple[Any, Gen]:  # fmt: skip
    """Multiply ``count`` rows, at most ``HEIGHT``, with a panel, and write the first ``columns`` outputs of each.

    kind: a literal of ``PRODUCTS``. x, stride: address of the first row and bytes from one to the next; w: address of
    the panel's vectors, a multiple of 64; groups: how many; y, pitch: address of the outputs, float32, and bytes from
    one row's to the next. Of int8: starts: address of what the sums start with, int32; row_scales, scales: addresses of
    what they are multiplied with, float32, each row's and each output's. Of others: added: whether the sums are added
    to what is there. streamed: whether the outputs pass the cache by, which takes a whole panel and addresses that are
    multiples of 64. ahead: an address from which lines are fetched. terms: address of ``carried`` further products that
    are added then, four words each: address of the first row's numbers, float32, bytes from one row's to the next
    one's, address of the vectors, how many groups.
    """

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        _, x, stride, count, w, groups, y, pitch, columns, *more, added, streamed, ahead, terms, carried = a
        panel = w, whole(VECTORS * VECTOR_BYTES), VECTORS, VECTOR_BYTES

        def multiply(numbers: list[Any]) -> None:
            rows, outputs = _strided(b, x, stride, numbers), _strided(b, y, pitch, numbers)
            starts, row_scales, scales = more
            whole_numbers = (starts, _strided(b, row_scales, whole(4), numbers), scales)
            _multiply(
                b, kind.literal_value, rows, outputs, count, panel, groups, columns, added, streamed, ahead,
                whole_numbers, (terms, carried, numbers),
            )  # fmt: skip

        _by_height(b, count, multiply)
        return c.get_dummy_value()

    return types.void(kind, *[types.int64] * 16), gen


@intrinsic
def multiply_chosen_rows(
    context: Any, x: Any, stride: Any, rows: Any, count: Any, w: Any, step: Any, inputs: Any, y: Any, pitch: Any,
    places: Any, columns: Any,
) -> tuple[Any, Gen]:  # fmt: skip
    """Multiply rows of float32 with up to sixteen outputs, as ``multiply_rows`` does.

    rows, places: addresses of the numbers, int64, that these rows have in x and in y. w, step: address of the weight's
    first vector, a multiple of 4, and bytes from one input's to the next one's: a vector is read whole.
    """

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        x, stride, rows, count, w, step, inputs, y, pitch, places, columns = a
        no = whole(0)

        def multiply(numbers: list[Any]) -> None:
            found, outputs = _chosen(b, x, stride, rows, numbers), _chosen(b, y, pitch, places, numbers)
            _multiply(b, "float32", found, outputs, count, (w, step, 1, 4), inputs, columns, no, no, w)

        _by_height(b, count, multiply)
        return c.get_dummy_value()

    return types.void(*[types.int64] * 11), gen


def _strided(b: Any, first: Any, stride: Any, numbers: list[Any]) -> list[Any]:
    return [b.add(first, b.mul(number, stride)) for number in numbers]


def _chosen(b: Any, first: Any, stride: Any, indices: Any, numbers: list[Any]) -> list[Any]:
    """Return the places of rows whose numbers lie at an address."""
    found = [b.load(at(b, place, INT64), align=8) for place in _strided(b, indices, whole(8), numbers)]
    return _strided(b, first, stride, found)


def _by_height(b: Any, count: Any, multiply: Callable[[list[Any]], None]) -> None:
    """Let ``multiply`` have the numbers of ``count`` rows, as many as the next height."""
    end = b.function.append_basic_block()
    for height in HEIGHTS:
        fits, others = b.function.append_basic_block(), b.function.append_basic_block()
        b.cbranch(b.icmp_signed("<=", count, whole(height)), fits, others)
        b.position_at_end(fits)
        # Rows that are not there are the last one again.
        last = b.sub(count, whole(1))
        multiply([b.select(b.icmp_signed("<", whole(i), last), whole(i), last) for i in range(height)])
        b.branch(end)
        b.position_at_end(others)
    b.branch(end)
    b.position_at_end(end)


def _multiply(
    b: Any, kind: str, rows: list[Any], outputs: list[Any], count: Any, panel: tuple[Any, Any, int, int], groups: Any,
    columns: Any, added: Any, streamed: Any, ahead: Any, whole_numbers: tuple[Any, list[Any], Any] | None = None,
    further: tuple[Any, Any, list[Any]] | None = None,
) -> None:  # fmt: skip
    """Multiply all ``rows`` and write the ``outputs`` of the first ``count``.

    panel: address, bytes from one group's vectors to the next one's, how many these are, and how they are aligned.
    whole_numbers: of int8, where what sums start with lies, each row's scale, and the outputs' scales. further: the
    other products' address and count, and the rows' numbers.
    """
    w, step, vectors, align = panel
    widths = [b.sub(columns, whole(j * LANES)) for j in range(vectors)] * len(rows)
    starts = [number(0.0)] * vectors
    if kind == "int8":
        assert whole_numbers is not None
        first, row_scales, scales = whole_numbers
        starts = [b.load(at(b, place, INTS), align=4) for place in _vectors(b, first, vectors)]
    state = [whole(0), w, ahead, *(starts * len(rows))]
    state = _loop(b, kind, rows, step, align, UNROLLED, groups, state)
    _, _, _, *sums = _loop(b, kind, rows, step, align, 1, groups, state)
    places = [at(b, place, FLOATS) for row in outputs for place in _vectors(b, row, vectors)]
    if kind == "int8":
        each = [b.load(at(b, place, FLOATS), align=4) for place in _vectors(b, scales, vectors)]
        of_rows = [same(b, b.load(at(b, place, FLOAT), align=4), FLOATS) for place in row_scales]
        sums = [
            b.fmul(b.fmul(b.sitofp(total, FLOATS), of_rows[i // vectors]), each[i % vectors])
            for i, total in enumerate(sums)
        ]
    else:
        sums = _add_outputs(b, sums, places, widths, added)
    if further is not None:
        sums = _add_products(b, sums, *further)
    for i, (total, place, width) in enumerate(zip(sums, places, widths, strict=True)):
        with b.if_then(b.icmp_signed("<", whole(i // vectors), count)):
            _write(b, total, place, width, streamed)


def _vectors(b: Any, first: Any, count: int) -> list[Any]:
    return [b.add(first, whole(j * VECTOR_BYTES)) for j in range(count)]


def _add_outputs(b: Any, sums: list[Any], places: list[Any], widths: list[Any], added: Any) -> list[Any]:
    """Add what the outputs hold, where it is asked for."""
    before, then, after = b.block, b.function.append_basic_block(), b.function.append_basic_block()
    b.cbranch(b.icmp_signed("!=", added, whole(0)), then, after)
    b.position_at_end(then)
    held = [load_some(b, place, width, "f", 32, number(0.0)) for place, width in zip(places, widths, strict=True)]
    both = [b.fadd(one, total) for one, total in zip(held, sums, strict=True)]
    b.branch(after)
    b.position_at_end(after)
    found = [b.phi(total.type) for total in sums]
    for phi, total, more in zip(found, sums, both, strict=True):
        phi.add_incoming(total, before)
        phi.add_incoming(more, then)
    return found


def _add_products(b: Any, sums: list[Any], terms: Any, count: Any, numbers: list[Any]) -> list[Any]:
    """Add ``count`` further products of the same rows: see ``multiply_rows``."""
    entry, head, body, after = b.block, *(b.function.append_basic_block() for _ in range(3))
    b.branch(head)
    b.position_at_end(head)
    term, *found = [b.phi(value.type) for value in (count, *sums)]
    for phi, value in zip((term, *found), (whole(0), *sums), strict=True):
        phi.add_incoming(value, entry)
    b.cbranch(b.icmp_signed("<", term, count), body, after)
    b.position_at_end(body)
    first = b.add(terms, b.mul(term, whole(32)))
    row, stride, w, groups = (b.load(at(b, b.add(first, whole(8 * k)), INT64), align=8) for k in range(4))
    step = whole(len(sums) // len(numbers) * VECTOR_BYTES)
    rows = _strided(b, row, stride, numbers)
    _, _, _, *more = _loop(b, "float32", rows, step, VECTOR_BYTES, 1, groups, [whole(0), w, w, *found])
    for phi, value in zip((term, *found), (b.add(term, whole(1)), *more), strict=True):
        phi.add_incoming(value, b.block)
    b.branch(head)
    b.position_at_end(after)
    return found


def _write(b: Any, total: Any, place: Any, columns: Any, streamed: Any) -> None:
    with b.if_else(b.icmp_signed("!=", streamed, whole(0))) as (past, through):
        with past:
            store_past(b, total, place)
        with through:
            store_some(b, total, place, columns, "f", 32)
