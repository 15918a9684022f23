"""The innermost loop of a matrix product on the CPU: a few rows times a panel of a weight, kept in registers.

Sums of a few rows with two vectors of outputs stay in registers while the inputs go by, a group of one row's at a time
in all lanes, times vectors of the weight (Goto and van de Geijn 2008; Van Zee and van de Geijn 2015). Each output is
summed over the inputs in their order, one instruction a group, so its bits depend neither on how many rows there are,
nor on which of them are computed together, nor on the width of the processor's vectors.
"""

from __future__ import annotations

from typing import Any

import torch
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import config, types
from numba.extending import intrinsic

from warmeng.kernels.lanes import FLOATS, INT32, INTS, LANES, at, call, fma, load_some, same, store_some, whole
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


def _loop(b: Any, kind: str, rows: list[Any], unrolled: int, end: Any, state: list[Any]) -> list[Any]:
    """Multiply groups while a whole ``unrolled`` of them lies before ``end``.

    rows: where each row's groups begin. state: the next group, the address of its vectors, that of a line to fetch,
    and the sums; returns what they are afterwards.
    """
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
    # To read, into the second level of the cache.
    how = [ir.Constant(INT32, number) for number in (0, 2, 1)]
    for k in range(FETCHED):
        call(b, "llvm.prefetch.p0", ir.VoidType(), at(b, b.add(line, whole(k * VECTOR_BYTES)), ir.IntType(8)), *how)
    for turn in range(unrolled):
        places = (b.add(vectors, whole((turn * VECTORS + j) * VECTOR_BYTES)) for j in range(VECTORS))
        w = [b.load(at(b, place, INTS), align=VECTOR_BYTES) for place in places]
        for i, row in enumerate(rows):
            place = b.add(b.add(row, b.mul(group, whole(GROUP_BYTES))), whole(turn * GROUP_BYTES))
            x = same(b, b.load(at(b, place, INT32), align=1), INTS)
            for j in range(VECTORS):
                sums[i * VECTORS + j] = _multiply_add(b, kind, x, w[j], sums[i * VECTORS + j])
    vectors = b.add(vectors, whole(unrolled * VECTORS * VECTOR_BYTES))
    for phi, value in zip(phis, (following, vectors, b.add(line, whole(FETCHED * VECTOR_BYTES)), *sums), strict=True):
        phi.add_incoming(value, b.block)
    b.branch(head)
    b.position_at_end(after)
    return phis


@intrinsic(prefer_literal=True)
def multiply_rows(
    context: Any, kind: Any, x: Any, stride: Any, count: Any, w: Any, groups: Any, y: Any, pitch: Any, columns: Any,
    starts: Any, added: Any, streamed: Any, ahead: Any,
) -> tuple[Any, Gen]:  # fmt: skip
    """Multiply ``count`` rows, at most ``HEIGHT``, with a panel, and write the first ``columns`` outputs of each.

    kind: a literal of ``PRODUCTS``. x, stride: address of the first row and bytes from one to the next; w: address of
    the panel's vectors, a multiple of 64; groups: how many; y, pitch: address of the outputs, four bytes each, and
    bytes from one row's to the next. starts: address of what sums of int8 start with; added: whether they are instead
    added to what is there; streamed: whether they pass the cache by, which takes a whole panel and addresses that are
    multiples of 64. ahead: an address from which lines are fetched.
    """
    of = kind.literal_value

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        _, x, stride, count, *more = a
        end = b.function.append_basic_block()
        for height in HEIGHTS:
            fits, others = b.function.append_basic_block(), b.function.append_basic_block()
            b.cbranch(b.icmp_signed("<=", count, whole(height)), fits, others)
            b.position_at_end(fits)
            # Rows that are not there are the last one again.
            last = b.sub(count, whole(1))
            numbers = [b.select(b.icmp_signed("<", whole(i), last), whole(i), last) for i in range(height)]
            _multiply(b, of, [b.add(x, b.mul(number, stride)) for number in numbers], count, *more)
            b.branch(end)
            b.position_at_end(others)
        b.branch(end)
        b.position_at_end(end)
        return c.get_dummy_value()

    return types.void(kind, *[types.int64] * 12), gen


def _multiply(
    b: Any, kind: str, rows: list[Any], count: Any, w: Any, groups: Any, y: Any, pitch: Any, columns: Any, starts: Any,
    added: Any, streamed: Any, ahead: Any,
) -> None:  # fmt: skip
    """Multiply all ``rows`` and write the outputs of the first ``count``."""
    lane = INTS if kind == "int8" else FLOATS
    state = [whole(0), w, ahead, *(_start(b, lane, starts, added) * len(rows))]
    state = _loop(b, kind, rows, UNROLLED, groups, state)
    _, _, _, *sums = _loop(b, kind, rows, 1, groups, state)
    for i in range(len(rows)):
        with b.if_then(b.icmp_signed("<", whole(i), count)):
            first = b.add(y, b.mul(pitch, whole(i)))
            for j in range(VECTORS):
                place = at(b, b.add(first, whole(j * VECTOR_BYTES)), lane)
                _write(b, sums[i * VECTORS + j], place, b.sub(columns, whole(j * LANES)), added, streamed)


def _start(b: Any, lane: Any, starts: Any, added: Any) -> list[Any]:
    """Return what the sums of one row start with."""
    zero = ir.Constant(lane, [0] * LANES)
    if lane == FLOATS:
        return [zero] * VECTORS
    there = b.icmp_signed("==", added, whole(0))
    found = []
    for j in range(VECTORS):
        found.append(b.select(there, b.load(at(b, b.add(starts, whole(j * VECTOR_BYTES)), INTS), align=4), zero))
    return found


def _write(b: Any, total: Any, place: Any, columns: Any, added: Any, streamed: Any) -> None:
    name, nothing = ("i", 0) if total.type == INTS else ("f", 0.0)
    with b.if_else(b.icmp_signed("!=", streamed, whole(0))) as (past, through):
        with past:
            stored = b.store(total, place, align=VECTOR_BYTES)
            stored.set_metadata("nontemporal", b.module.add_metadata([ir.Constant(INT32, 1)]))
        with through:
            before = load_some(b, place, columns, name, 32, ir.Constant(total.type, [nothing] * LANES))
            both = b.add(before, total) if name == "i" else b.fadd(before, total)
            store_some(b, b.select(b.icmp_signed("!=", added, whole(0)), both, total), place, columns, name, 32)
