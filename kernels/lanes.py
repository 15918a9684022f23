"""Sixteen lanes in LLVM's own language: the types and operations that ``simd`` and ``micro_kernel`` are made of."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

LANES = 16
FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FLOATS, INTS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT32, LANES)
SHORTS, BYTES = ir.VectorType(ir.IntType(16), LANES), ir.VectorType(ir.IntType(8), LANES)
_LANE = ir.Constant(INTS, list(range(LANES)))


def whole(value: int) -> Any:
    """An int64."""
    return ir.Constant(INT64, value)


def number(value: float) -> Any:
    """A float32 in all lanes."""
    return ir.Constant(FLOATS, [value] * LANES)


def at(b: Any, address: Any, of: Any) -> Any:
    """A pointer to a type from an address, int64."""
    return b.inttoptr(address, ir.PointerType(of))


def place(b: Any, address: Any, index: Any, of: Any, size: int) -> Any:
    """A pointer to a type, ``index`` times ``size`` bytes after an address."""
    return at(b, b.add(address, b.mul(index, whole(size))), of)


def same(b: Any, value: Any, of: Any) -> Any:
    """A vector whose lanes all have one value."""
    one = b.insert_element(ir.Constant(of, ir.Undefined), value, ir.Constant(INT32, 0))
    return b.shuffle_vector(one, ir.Constant(of, ir.Undefined), ir.Constant(INTS, [0] * LANES))


def call(b: Any, name: str, result: Any, *values: Any) -> Any:
    """The result of a function of LLVM."""
    kind = ir.FunctionType(result, [value.type for value in values])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), values)


def fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    """``x * y + z`` of float32, rounded once."""
    return call(b, f"llvm.fma.v{LANES}f32", FLOATS, x, y, z)


def fetch(b: Any, address: Any) -> None:
    """Fetch a line of memory to be read, into the second level of the cache."""
    how = [ir.Constant(INT32, number) for number in (0, 2, 1)]
    call(b, "llvm.prefetch.p0", ir.VoidType(), at(b, address, ir.IntType(8)), *how)


def below(b: Any, count: Any) -> Any:
    """Whether each lane's number is less than an int64."""
    return b.icmp_signed("<", _LANE, same(b, b.trunc(count, INT32), INTS))


def load_some(b: Any, pointer: Any, count: Any, of: str, bits: int, nothing: Any) -> Any:
    """The first ``count`` lanes from memory, ``nothing`` in the others. ``of``: LLVM's name of a lane's type."""
    align = ir.Constant(INT32, bits // 8)
    return call(b, f"llvm.masked.load.v{LANES}{of}{bits}.p0", nothing.type, pointer, align, below(b, count), nothing)


def store_some(b: Any, value: Any, pointer: Any, count: Any, of: str, bits: int) -> None:
    """Write the first ``count`` lanes."""
    align = ir.Constant(INT32, bits // 8)
    call(b, f"llvm.masked.store.v{LANES}{of}{bits}.p0", ir.VoidType(), value, pointer, align, below(b, count))


def store_past(b: Any, value: Any, pointer: Any) -> None:
    """Write all lanes past the cache, to an address that is a multiple of their bytes."""
    stored = b.store(value, pointer, align=64)
    stored.set_metadata("nontemporal", b.module.add_metadata([ir.Constant(INT32, 1)]))
