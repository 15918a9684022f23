"""Triton's interpreter for tests: with the roundings of devices, and in half the time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def prepare() -> None:
    """Change the interpreter of this process."""
    _round_as_devices_do()
    _replace_once()
    _look_types_up()


def _round_as_devices_do() -> None:
    """Compute with bf16 and fp8 as devices do: the interpreter multiplies bf16's bits as integers, and its casts to
    both cut, or round halves away from zero.
    """
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl
    convert = InterpreterBuilder.create_fp_to_fp

    def widened(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((np.asarray(x.data, np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return dot(self, widened(a), widened(b), *others)

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
