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
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model

from warmeng.kernels import lanes
from warmeng.kernels.lanes import BYTES, FLOAT, FLOATS, INT32, INT64, INTS, LANES, SHORTS

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
        super().__init__(manager, of, FLOATS)


@intrinsic(prefer_literal=True)
def words(context: Any, address: Any, count: Any) -> tuple[Any, Gen]:
    """Return the first ``count`` (a literal) int64 at an address, as a tuple."""
    of = types.UniTuple(types.int64, count.literal_value)

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        read = [b.load(lanes.place(b, a[0], ir.Constant(INT64, i), INT64, 8)) for i in range(of.count)]
        return c.make_tuple(b, of, read)

    return of(types.int64, count), gen


@intrinsic
def load_int(context: Any, address: Any, index: Any) -> tuple[Any, Gen]:
    """Return one int64."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return b.load(lanes.place(b, a[0], a[1], INT64, 8))

    return types.int64(types.int64, types.int64), gen


@intrinsic
def store_int(context: Any, address: Any, index: Any, value: Any) -> tuple[Any, Gen]:
    """Write one int64."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        b.store(a[2], lanes.place(b, a[0], a[1], INT64, 8))
        return c.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), gen


@intrinsic
def real(context: Any, word: Any) -> tuple[Any, Gen]:
    """Return the float32 whose bits are a word's low half: see ``threads.word_of``."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return b.bitcast(b.trunc(a[0], INT32), FLOAT)

    return types.float32(types.int64), gen


@intrinsic
def load_one(context: Any, address: Any, index: Any) -> tuple[Any, Gen]:
    """Return one float32."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return b.load(lanes.place(b, a[0], a[1], FLOAT, 4))

    return types.float32(types.int64, types.int64), gen


@intrinsic
def store_one(context: Any, address: Any, index: Any, value: Any) -> tuple[Any, Gen]:
    """Write one float32."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        b.store(a[2], lanes.place(b, a[0], a[1], FLOAT, 4))
        return c.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), gen


@intrinsic
def load(context: Any, address: Any, index: Any) -> tuple[Any, Gen]:
    """Return sixteen float32 that lie one after the other."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return b.load(lanes.place(b, a[0], a[1], FLOATS, 4), align=4)

    return _vector(types.int64, types.int64), gen


@intrinsic
def fetch(context: Any, address: Any, index: Any) -> tuple[Any, Gen]:
    """Fetch the line of memory where a float32 lies, to be read."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        lanes.fetch(b, b.add(a[0], b.mul(a[1], ir.Constant(INT64, 4))))
        return c.get_dummy_value()

    return types.void(types.int64, types.int64), gen


@intrinsic
def load_some(context: Any, address: Any, index: Any, count: Any) -> tuple[Any, Gen]:
    """Return the first ``count`` of sixteen float32, and 0 for the others, which are not read."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return lanes.load_some(b, lanes.place(b, a[0], a[1], FLOATS, 4), a[2], "f", 32, lanes.number(0.0))

    return _vector(types.int64, types.int64, types.int64), gen


@intrinsic
def store(context: Any, address: Any, index: Any, value: Any) -> tuple[Any, Gen]:
    """Write sixteen float32 one after the other."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        b.store(a[2], lanes.place(b, a[0], a[1], FLOATS, 4), align=4)
        return c.get_dummy_value()

    return types.void(types.int64, types.int64, _vector), gen


@intrinsic
def store_some(context: Any, address: Any, index: Any, value: Any, count: Any) -> tuple[Any, Gen]:
    """Write the first ``count`` lanes."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        lanes.store_some(b, a[2], lanes.place(b, a[0], a[1], FLOATS, 4), a[3], "f", 32)
        return c.get_dummy_value()

    return types.void(types.int64, types.int64, _vector, types.int64), gen


@intrinsic
def load_narrow(context: Any, address: Any, index: Any, count: Any) -> tuple[Any, Gen]:
    """Return the first ``count`` of sixteen bfloat16, and 0 for the others, which are not read."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        nothing = ir.Constant(SHORTS, [0] * LANES)
        halves = lanes.load_some(b, lanes.place(b, a[0], a[1], SHORTS, 2), a[2], "i", 16, nothing)
        return b.bitcast(b.shl(b.zext(halves, INTS), ir.Constant(INTS, [16] * LANES)), FLOATS)

    return _vector(types.int64, types.int64, types.int64), gen


@intrinsic
def store_narrow(context: Any, address: Any, index: Any, value: Any, count: Any) -> tuple[Any, Gen]:
    """Write the first ``count`` lanes as bfloat16, rounded to the nearest, halves to even."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        lanes.store_some(b, _narrow(b, a[2]), lanes.place(b, a[0], a[1], SHORTS, 2), a[3], "i", 16)
        return c.get_dummy_value()

    return types.void(types.int64, types.int64, _vector, types.int64), gen


def _narrow(b: Any, value: Any) -> Any:
    """Round to bfloat16 with integers: processors' own instructions flush small numbers to zero."""

    def same(number: int) -> Any:
        return ir.Constant(INTS, [number] * LANES)

    bits = b.bitcast(value, INTS)
    odd = b.and_(b.lshr(bits, same(16)), same(1))
    rounded = b.lshr(b.add(bits, b.add(odd, same(0x7FFF))), same(16))
    return b.trunc(b.select(b.fcmp_ordered("ord", value, value), rounded, same(0x7FC0)), SHORTS)


@intrinsic
def store_narrow_one(context: Any, address: Any, index: Any, value: Any) -> tuple[Any, Gen]:
    """Write one float32 as bfloat16."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        one = b.extract_element(_narrow(b, lanes.same(b, a[2], FLOATS)), ir.Constant(INT32, 0))
        b.store(one, lanes.place(b, a[0], a[1], ir.IntType(16), 2))
        return c.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), gen


@intrinsic
def load_whole(context: Any, address: Any, index: Any, count: Any) -> tuple[Any, Gen]:
    """Return the first ``count`` of sixteen int32 as float32, rounded once."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        nothing = ir.Constant(INTS, [0] * LANES)
        read = lanes.load_some(b, lanes.place(b, a[0], a[1], INTS, 4), a[2], "i", 32, nothing)
        return b.sitofp(read, FLOATS)

    return _vector(types.int64, types.int64, types.int64), gen


@intrinsic
def store_bytes(context: Any, address: Any, index: Any, value: Any, count: Any) -> tuple[Any, Gen]:
    """Write the first ``count`` lanes, which are whole numbers or NaN (as 0), as the lowest byte of each."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        numbers = b.select(b.fcmp_ordered("ord", a[2], a[2]), a[2], lanes.number(0.0))
        whole = b.trunc(b.fptosi(numbers, INTS), BYTES)
        lanes.store_some(b, whole, lanes.place(b, a[0], a[1], BYTES, 1), a[3], "i", 8)
        return c.get_dummy_value()

    return types.void(types.int64, types.int64, _vector, types.int64), gen


@intrinsic
def spread(context: Any, address: Any, index: Any) -> tuple[Any, Gen]:
    """Return one float32 from memory in all lanes."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return lanes.same(b, b.load(lanes.place(b, a[0], a[1], FLOAT, 4)), FLOATS)

    return _vector(types.int64, types.int64), gen


@intrinsic
def fill(context: Any, value: Any) -> tuple[Any, Gen]:
    """Return a number in all lanes."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return lanes.same(b, a[0], FLOATS)

    return _vector(types.float32), gen


@intrinsic
def fma(context: Any, x: Any, y: Any, z: Any) -> tuple[Any, Gen]:
    """Return ``x * y + z``, rounded once."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        return lanes.fma(b, *a)

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
        return b.select(lanes.below(b, a[1]), a[0], lanes.same(b, a[2], FLOATS))

    return _vector(_vector, types.int64, types.float32), gen


@intrinsic
def exp(context: Any, x: Any) -> tuple[Any, Gen]:
    """Return e^x to about 1e-7 of its size: 0 below -87, infinity above 88, NaN of NaN."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        (x,) = a
        shifted = lanes.fma(b, x, lanes.number(1.4426950408889634), lanes.number(_TO_INTEGER))
        n = b.fsub(shifted, lanes.number(_TO_INTEGER))
        r = lanes.fma(b, n, lanes.number(-_LOG2_LOW), lanes.fma(b, n, lanes.number(-_LOG2_HIGH), x))
        p = lanes.number(_EXP[0])
        for coefficient in _EXP[1:]:
            p = lanes.fma(b, p, r, lanes.number(coefficient))
        p = lanes.fma(b, p, b.fmul(r, r), b.fadd(r, lanes.number(1.0)))
        # 2^n, made of the bits of 1 and of n, which lies in the low bits of ``shifted``.
        exponent = b.shl(b.bitcast(shifted, INTS), ir.Constant(INTS, [23] * LANES))
        power = b.bitcast(b.add(exponent, ir.Constant(INTS, [0x3F800000] * LANES)), FLOATS)
        y = b.select(b.fcmp_ordered(">", x, lanes.number(88.0)), lanes.number(float("inf")), b.fmul(p, power))
        return b.select(b.fcmp_ordered("<", x, lanes.number(-87.0)), lanes.number(0.0), y)

    return _vector(_vector), gen


def _reduce(b: Any, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """Join lanes i and i + 8, then i and i + 4, and so on."""
    count = LANES // 2
    while count:
        of = ir.VectorType(INT32, count)
        halves = (ir.Constant(of, list(range(start, start + count))) for start in (0, count))
        value = join(*(b.shuffle_vector(value, value, half) for half in halves))
        count //= 2
    return b.extract_element(value, ir.Constant(INT32, 0))


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
        return b.atomic_rmw("add", b.inttoptr(a[0], ir.PointerType(INT64)), a[1], "monotonic")

    return types.int64(types.int64, types.int64), gen


@intrinsic
def fence(context: Any) -> tuple[Any, Gen]:
    """Let all that was written be seen by threads that go on later, what passed the cache by included."""

    def gen(c: Any, b: Any, signature: Any, a: Any) -> Any:
        b.fence("seq_cst")
        return c.get_dummy_value()

    return types.void(), gen


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
