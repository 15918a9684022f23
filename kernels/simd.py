"""Sixteen float32 lanes as a type that Numba compiles, for the CPU's kernels.

LLVM's own vectoriser may not reorder a float's sum, and where it cuts a loop depends on the loop's length. Here the
lanes are explicit, so each number is made by the same operations in the same order, whatever else is in the batch and
whatever vectors the processor has: LLVM cuts sixteen lanes into what there is. Addresses are numbers of bytes, as
``Tensor.data_ptr`` gives them; indices count elements. Nothing is checked: the functions that launch kernels check.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model

LANES = 16
_FLOAT, _INT32, _INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT32, LANES)
_SHORTS = ir.VectorType(ir.IntType(16), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)
_LANE = ir.Constant(_INTS, list(range(LANES)))
# Coefficients of exp(r) = 1 + r + r^2 (...) for |r| <= log(2) / 2, highest power first (Cephes, expf).
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
# log(2) in two parts, the first exact in few bits, so that n times it is exact.
_LOG2_HIGH, _LOG2_LOW = 0.693359375, -2.12194440e-4
# Adding it leaves a float32's integer part in its low bits.
_TO_INTEGER = 1.5 * 2**23

Gen = Callable[[Any, Any, Any, Any], Any]


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__("Vector")


_vector = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, of: Any) -> None:
        super().__init__(manager, of, _FLOATS)


def _place(b: Any, address: Any, index: Any, of: Any, size: int) -> Any:
    return b.inttoptr(b.add(address, b.mul(index, ir.Constant(_INT64, size))), ir.PointerType(of))


def _same(b: Any, value: Any, of: Any) -> Any:
    """A vector of one number."""
    one = b.insert_element(ir.Constant(of, ir.Undefined), value, ir.Constant(_INT32, 0))
    return b.shuffle_vector(one, ir.Constant(of, ir.Undefined), ir.Constant(_INTS, [0] * LANES))


def _number(value: float) -> Any:
    return ir.Constant(_FLOATS, [value] * LANES)


def _call(b: Any, name: str, result: Any, *values: Any) -> Any:
    kind = ir.FunctionType(result, [value.type for value in values])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), values)


def _fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    return _call(b, f"llvm.fma.v{LANES}f32", _FLOATS, x, y, z)


def _below(b: Any, count: Any) -> Any:
    return b.icmp_signed("<", _LANE, _same(b, b.trunc(count, _INT32), _INTS))


@intrinsic(prefer_literal=True)
def words(context: Any, address: Any, count: Any) -> tuple[Any, Gen]:
    """Return the first ``count`` (a literal) int64 at an address, as a tuple."""
    of = types.UniTuple(types.int64, count.literal_value)

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        read = [b.load(_place(b, a[0], ir.Constant(_INT64, i), _INT64, 8)) for i in range(of.count)]
        return c.make_tuple(b, of, read)

    return of(types.int64, count), gen


@intrinsic
def load_int(context: Any, address: Any, index: Any) -> tuple[Any, Gen]:
    """Return one int64."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return b.load(_place(b, a[0], a[1], _INT64, 8))

    return types.int64(types.int64, types.int64), gen


@intrinsic
def real(context: Any, word: Any) -> tuple[Any, Gen]:
    """Return the float32 whose bits are a word's low half: see ``threads.word_of``."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return b.bitcast(b.trunc(a[0], _INT32), _FLOAT)

    return types.float32(types.int64), gen


@intrinsic
def load_one(context: Any, address: Any, index: Any) -> tuple[Any, Gen]:
    """Return one float32."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return b.load(_place(b, a[0], a[1], _FLOAT, 4))

    return types.float32(types.int64, types.int64), gen


@intrinsic
def store_one(context: Any, address: Any, index: Any, value: Any) -> tuple[Any, Gen]:
    """Write one float32."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        b.store(a[2], _place(b, a[0], a[1], _FLOAT, 4))
        return c.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), gen


@intrinsic
def load(context: Any, address: Any, index: Any) -> tuple[Any, Gen]:
    """Return sixteen float32 that lie one after the other."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return b.load(_place(b, a[0], a[1], _FLOATS, 4), align=4)

    return _vector(types.int64, types.int64), gen


@intrinsic
def load_some(context: Any, address: Any, index: Any, count: Any) -> tuple[Any, Gen]:
    """Return the first ``count`` of sixteen float32, and 0 for the others, which are not read."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        place = _place(b, a[0], a[1], _FLOATS, 4)
        name = f"llvm.masked.load.v{LANES}f32.p0"
        return _call(b, name, _FLOATS, place, ir.Constant(_INT32, 4), _below(b, a[2]), _number(0.0))

    return _vector(types.int64, types.int64, types.int64), gen


@intrinsic
def store(context: Any, address: Any, index: Any, value: Any) -> tuple[Any, Gen]:
    """Write sixteen float32 one after the other."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        b.store(a[2], _place(b, a[0], a[1], _FLOATS, 4), align=4)
        return c.get_dummy_value()

    return types.void(types.int64, types.int64, _vector), gen


@intrinsic
def store_some(context: Any, address: Any, index: Any, value: Any, count: Any) -> tuple[Any, Gen]:
    """Write the first ``count`` lanes."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        place = _place(b, a[0], a[1], _FLOATS, 4)
        name = f"llvm.masked.store.v{LANES}f32.p0"
        _call(b, name, ir.VoidType(), a[2], place, ir.Constant(_INT32, 4), _below(b, a[3]))
        return c.get_dummy_value()

    return types.void(types.int64, types.int64, _vector, types.int64), gen


@intrinsic
def load_narrow(context: Any, address: Any, index: Any, count: Any) -> tuple[Any, Gen]:
    """Return the first ``count`` of sixteen bfloat16, and 0 for the others, which are not read."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        place, nothing = _place(b, a[0], a[1], _SHORTS, 2), ir.Constant(_SHORTS, [0] * LANES)
        name = f"llvm.masked.load.v{LANES}i16.p0"
        halves = _call(b, name, _SHORTS, place, ir.Constant(_INT32, 2), _below(b, a[2]), nothing)
        return b.bitcast(b.shl(b.zext(halves, _INTS), ir.Constant(_INTS, [16] * LANES)), _FLOATS)

    return _vector(types.int64, types.int64, types.int64), gen


@intrinsic
def store_narrow(context: Any, address: Any, index: Any, value: Any, count: Any) -> tuple[Any, Gen]:
    """Write the first ``count`` lanes as bfloat16, rounded to the nearest, halves to even."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        name = f"llvm.masked.store.v{LANES}i16.p0"
        place = _place(b, a[0], a[1], _SHORTS, 2)
        _call(b, name, ir.VoidType(), _narrow(b, a[2]), place, ir.Constant(_INT32, 2), _below(b, a[3]))
        return c.get_dummy_value()

    return types.void(types.int64, types.int64, _vector, types.int64), gen


def _narrow(b: Any, value: Any) -> Any:
    """Round to bfloat16 with integers: processors' own instructions flush small numbers to zero."""

    def same(number: int) -> Any:
        return ir.Constant(_INTS, [number] * LANES)

    bits = b.bitcast(value, _INTS)
    odd = b.and_(b.lshr(bits, same(16)), same(1))
    rounded = b.lshr(b.add(bits, b.add(odd, same(0x7FFF))), same(16))
    return b.trunc(b.select(b.fcmp_ordered("ord", value, value), rounded, same(0x7FC0)), _SHORTS)


@intrinsic
def store_narrow_one(context: Any, address: Any, index: Any, value: Any) -> tuple[Any, Gen]:
    """Write one float32 as bfloat16."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        one = b.extract_element(_narrow(b, _same(b, a[2], _FLOATS)), ir.Constant(_INT32, 0))
        b.store(one, _place(b, a[0], a[1], ir.IntType(16), 2))
        return c.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), gen


@intrinsic
def load_whole(context: Any, address: Any, index: Any, count: Any) -> tuple[Any, Gen]:
    """Return the first ``count`` of sixteen int32 as float32, rounded once."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        place = _place(b, a[0], a[1], _INTS, 4)
        nothing = ir.Constant(_INTS, [0] * LANES)
        name = f"llvm.masked.load.v{LANES}i32.p0"
        return b.sitofp(_call(b, name, _INTS, place, ir.Constant(_INT32, 4), _below(b, a[2]), nothing), _FLOATS)

    return _vector(types.int64, types.int64, types.int64), gen


@intrinsic
def store_bytes(context: Any, address: Any, index: Any, value: Any, count: Any) -> tuple[Any, Gen]:
    """Write the first ``count`` lanes, which are whole numbers from -128 to 127 or NaN (as 0), as int8."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        numbers = b.select(b.fcmp_ordered("ord", a[2], a[2]), a[2], _number(0.0))
        whole = b.trunc(b.fptosi(numbers, _INTS), _BYTES)
        place = _place(b, a[0], a[1], _BYTES, 1)
        name = f"llvm.masked.store.v{LANES}i8.p0"
        _call(b, name, ir.VoidType(), whole, place, ir.Constant(_INT32, 1), _below(b, a[3]))
        return c.get_dummy_value()

    return types.void(types.int64, types.int64, _vector, types.int64), gen


@intrinsic
def spread(context: Any, address: Any, index: Any) -> tuple[Any, Gen]:
    """Return one float32 from memory in all lanes."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return _same(b, b.load(_place(b, a[0], a[1], _FLOAT, 4)), _FLOATS)

    return _vector(types.int64, types.int64), gen


@intrinsic
def fill(context: Any, value: Any) -> tuple[Any, Gen]:
    """Return a number in all lanes."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return _same(b, a[0], _FLOATS)

    return _vector(types.float32), gen


@intrinsic
def fma(context: Any, x: Any, y: Any, z: Any) -> tuple[Any, Gen]:
    """Return ``x * y + z``, rounded once."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return _fma(b, *a)

    return _vector(_vector, _vector, _vector), gen


@intrinsic
def maximum(context: Any, x: Any, y: Any) -> tuple[Any, Gen]:
    """Return the larger numbers; y's where one of both is NaN."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return b.select(b.fcmp_ordered(">", *a), *a)

    return _vector(_vector, _vector), gen


@intrinsic
def minimum(context: Any, x: Any, y: Any) -> tuple[Any, Gen]:
    """Return the smaller numbers; y's where one of both is NaN."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return b.select(b.fcmp_ordered("<", *a), *a)

    return _vector(_vector, _vector), gen


@intrinsic
def before(context: Any, x: Any, count: Any, other: Any) -> tuple[Any, Gen]:
    """Return the first ``count`` lanes of x, and ``other`` in those after them."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return b.select(_below(b, a[1]), a[0], _same(b, a[2], _FLOATS))

    return _vector(_vector, types.int64, types.float32), gen


@intrinsic
def exp(context: Any, x: Any) -> tuple[Any, Gen]:
    """Return e^x to about 1e-7 of its size: 0 below -87, infinity above 88, NaN of NaN."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        (x,) = a
        shifted = _fma(b, x, _number(1.4426950408889634), _number(_TO_INTEGER))
        n = b.fsub(shifted, _number(_TO_INTEGER))
        r = _fma(b, n, _number(-_LOG2_LOW), _fma(b, n, _number(-_LOG2_HIGH), x))
        p = _number(_EXP[0])
        for coefficient in _EXP[1:]:
            p = _fma(b, p, r, _number(coefficient))
        p = _fma(b, p, b.fmul(r, r), b.fadd(r, _number(1.0)))
        # 2^n, made of the bits of 1 and of n, which lies in the low bits of ``shifted``.
        exponent = b.shl(b.bitcast(shifted, _INTS), ir.Constant(_INTS, [23] * LANES))
        power = b.bitcast(b.add(exponent, ir.Constant(_INTS, [0x3F800000] * LANES)), _FLOATS)
        y = b.select(b.fcmp_ordered(">", x, _number(88.0)), _number(float("inf")), b.fmul(p, power))
        return b.select(b.fcmp_ordered("<", x, _number(-87.0)), _number(0.0), y)

    return _vector(_vector), gen


def _reduce(b: Any, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """Join lanes i and i + 8, then i and i + 4, and so on."""
    count = LANES // 2
    while count:
        of = ir.VectorType(_INT32, count)
        halves = (ir.Constant(of, list(range(start, start + count))) for start in (0, count))
        value = join(*(b.shuffle_vector(value, value, half) for half in halves))
        count //= 2
    return b.extract_element(value, ir.Constant(_INT32, 0))


@intrinsic
def total(context: Any, x: Any) -> tuple[Any, Gen]:
    """Return the sum of the lanes."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return _reduce(b, a[0], b.fadd)

    return types.float32(_vector), gen


@intrinsic
def largest(context: Any, x: Any) -> tuple[Any, Gen]:
    """Return the largest lane."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return _reduce(b, a[0], lambda x, y: b.select(b.fcmp_ordered(">", x, y), x, y))

    return types.float32(_vector), gen


@intrinsic
def take(context: Any, address: Any, count: Any) -> tuple[Any, Gen]:
    """Add ``count`` to the int64 at an address, which other threads change too, and return what it was."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return b.atomic_rmw("add", b.inttoptr(a[0], ir.PointerType(_INT64)), a[1], "monotonic")

    return types.int64(types.int64, types.int64), gen


@intrinsic
def _add(context: Any, x: Any, y: Any) -> tuple[Any, Gen]:
    return _vector(_vector, _vector), lambda c, b, signature, a: b.fadd(*a)


@intrinsic
def _sub(context: Any, x: Any, y: Any) -> tuple[Any, Gen]:
    return _vector(_vector, _vector), lambda c, b, signature, a: b.fsub(*a)


@intrinsic
def _mul(context: Any, x: Any, y: Any) -> tuple[Any, Gen]:
    return _vector(_vector, _vector), lambda c, b, signature, a: b.fmul(*a)


@intrinsic
def _div(context: Any, x: Any, y: Any) -> tuple[Any, Gen]:
    return _vector(_vector, _vector), lambda c, b, signature, a: b.fdiv(*a)


@overload(operator.add, strict=False)
def _overload_add(x: Any, y: Any) -> Any:
    return (lambda x, y: _add(x, y)) if _vector in (x, y) else None


@overload(operator.sub, strict=False)
def _overload_sub(x: Any, y: Any) -> Any:
    return (lambda x, y: _sub(x, y)) if _vector in (x, y) else None


@overload(operator.mul, strict=False)
def _overload_mul(x: Any, y: Any) -> Any:
    return (lambda x, y: _mul(x, y)) if _vector in (x, y) else None


@overload(operator.truediv, strict=False)
def _overload_div(x: Any, y: Any) -> Any:
    return (lambda x, y: _div(x, y)) if _vector in (x, y) else None
