"""Triton's interpreter for tests: with the roundings of devices, and in less time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch


def prepare() -> None:
    """Change the interpreter of this process."""
    _round_as_devices_do()
    _replace_once()
    _look_types_up()
    _make_types_once()


def _round_as_devices_do() -> None:
    """Compute with bf16 and fp8 as devices do: the interpreter multiplies bf16's bits as integers, and its casts to
    both cut, or round halves away from zero. Products are summed in double precision and rounded once, because the
    interpreter's library adds in an order that depends on the tile's shape, where a device's instruction does not.
    """
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _convert_float

    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl
    eight_bits = (tl.float8e4nv, tl.float8e5)
    convert = InterpreterBuilder.create_fp_to_fp

    def widened(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((np.asarray(x.data, np.uint32) << 16).view(np.float32), tl.float32)

    def numbers(x: Any) -> Any:
        if x.dtype.scalar in eight_bits:
            return _convert_float(x.data, x.dtype, tl.float16, None).view(np.float16)
        return widened(x).data

    def create_dot(self: Any, a: Any, b: Any, d: Any, *others: Any) -> Any:
        if d.dtype.scalar != tl.float32:
            return dot(self, a, b, d, *others)
        product = np.matmul(numbers(a), numbers(b), dtype=np.float64).astype(np.float32)
        return TensorHandle(product + d.data, d.dtype.scalar)

    def cast_impl(self: Any, x: Any, to: Any) -> Any:
        if x.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16:
            rounded = torch.tensor(np.asarray(x.data), device="cpu").bfloat16().view(torch.uint16)
            return TensorHandle(rounded.numpy(), to.scalar)
        if x.dtype.scalar == tl.bfloat16 and to.scalar == tl.float32:
            return widened(x)
        return cast(self, x, to)

    def create_fp_to_fp(self: Any, x: Any, to: Any, rounding: Any) -> Any:
        if x.dtype.scalar == tl.float32 and to.scalar == tl.float8e4nv:
            eight = torch.tensor(np.asarray(x.data), device="cpu").to(torch.float8_e4m3fn).view(torch.uint8)
            return TensorHandle(eight.numpy(), to.scalar)
        return convert(self, x, to, rounding)

    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = create_dot, cast_impl
    InterpreterBuilder.create_fp_to_fp = create_fp_to_fp


def _replace_once() -> None:
    """Replace the language's functions once for each module with kernels, not at each launch and each call between
    kernels, and never put them back: nothing is compiled in a process that interprets.
    """
    from triton.runtime import interpreter

    # Nor is every sum of integers checked for overflow: compiled kernels don't either.
    object.__setattr__(interpreter.interpreter_builder.options, "sanitize_overflow", False)
    replace = interpreter._patch_lang
    replaced: set[int] = set()

    def replace_once(fn: Any) -> Any:
        if id(fn.__globals__) not in replaced:
            replaced.add(id(fn.__globals__))
            replace(fn)
        return interpreter._LangPatchScope()

    interpreter._patch_lang = replace_once


def _look_types_up() -> None:
    """Find numpy's type of a tensor in a table that is made once."""
    import triton.language as tl
    from triton.runtime import interpreter

    find, known = interpreter._get_np_dtype, {}

    def find_once(dtype: Any) -> Any:
        one = dtype.element_ty if isinstance(dtype, tl.block_type) else dtype
        name = "pointer" if isinstance(one, tl.pointer_type) else one.name
        if name not in known:
            known[name] = find(dtype)
        return known[name]

    interpreter._get_np_dtype = find_once


def _make_types_once() -> None:
    """Make each type of a block, and what a tensor says of its type, once; call the language without detours."""
    import triton.language as tl
    from triton.language import core
    from triton.language.semantic import TritonSemantic
    from triton.runtime import interpreter

    make_type, with_element, equal = tl.block_type.__init__, {}, tl.dtype.__eq__
    compatible = TritonSemantic.broadcast_impl_value
    made: dict[Any, dict[str, Any]] = {}
    told: dict[Any, tuple[Any, Any]] = {}

    def key_of(kind: Any) -> Any:
        return kind.name, getattr(kind, "address_space", None)

    def block_type(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple(s.value if type(s) is core.constexpr else s for s in shape)
        key = key_of(element_ty), sizes
        known = made.get(key)
        if known is None:
            make_type(self, element_ty, shape)
            made[key] = dict(self.__dict__)
        else:
            self.__dict__.update(known)

    def with_element_ty(self: Any, scalar: Any) -> Any:
        key = key_of(scalar), self.name
        if key not in with_element:
            with_element[key] = tl.block_type(scalar, self.shape)
        return with_element[key]

    def tensor(self: Any, handle: Any, type: Any) -> None:
        key = type.name if type.is_block() else None
        if key not in told:
            sizes = type.shape if key else ()
            shape = core.tuple([core.constexpr(s) for s in sizes])
            told[key] = shape, core.constexpr(math.prod(sizes))
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = told[key]

    def same(self: Any, other: Any) -> bool:
        return self is other or equal(self, other)

    def replace(obj: Any, name: str, member: Any, builder: Any, scope: Any) -> None:
        function = getattr(member, "__wrapped__", member)

        def call(*args: Any, **kwargs: Any) -> Any:
            kwargs["_semantic"] = interpreter.interpreter_semantic
            return function(*args, **kwargs)

        scope.set_attr(obj, name, call)

    def broadcast(self: Any, left: Any, right: Any) -> Any:
        a, b = left.type, right.type
        if a.is_block() == b.is_block() and (not a.is_block() or a.shape.values == b.shape.values):
            return left, right
        return compatible(self, left, right)

    tl.block_type.__init__, tl.block_type.with_element_ty, tl.tensor.__init__ = block_type, with_element_ty, tensor
    tl.dtype.__eq__ = same
    interpreter._patch_attr = replace
    TritonSemantic.broadcast_impl_value = broadcast
