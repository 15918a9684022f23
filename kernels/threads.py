"""Kernels that Numba compiles, run by PyTorch's own threads.

PyTorch's threads wait for their next work in a busy loop. A second pool would share the cores with that loop, so the
kernels ask the OpenMP library that PyTorch loaded. Where it has none that is known here, one thread runs.
"""

from __future__ import annotations

import ctypes
import hashlib
from array import array
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numba
import numpy as np
import torch

from warmeng.kernels.simd import fence, take

# The first word of a kernel's arguments counts the units of work that threads took, the second the threads.
UNIT, THREAD = 0, 8


@numba.njit(inline="always")
def next_unit(data: int) -> int:
    """Return the next unit of work, by which threads share it: each is taken once, and counts from 0."""
    return take(data + UNIT, 1)  # type: ignore[no-any-return]


@numba.njit(inline="always")
def own_number(data: int) -> int:
    """Return a number from 0 that no other thread of this launch has; may be asked once."""
    return take(data + THREAD, 1)  # type: ignore[no-any-return]


@numba.njit(inline="always")
def finish_unit(counter: int) -> None:
    """Count a unit at an address, and let others read what this thread wrote for it: see ``wait_for_units``."""
    fence()
    take(counter, 1)


@numba.njit(inline="always")
def wait_for_units(counter: int, count: int) -> None:
    """Wait until so many units are finished, each of which a thread that runs has taken."""
    while take(counter, 0) < count:
        pass
    fence()


@lru_cache
def word_of(value: float) -> int:
    """Return a float32's bits as a word of a kernel's arguments: see ``simd.real``."""
    return int(np.float32(value).view(np.int32))


class Kernel:
    """A function of one address, that of its arguments' words (int64), which every thread runs."""

    all: ClassVar[list[Kernel]] = []

    def __init__(self, function: Callable[[int], None]) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        Kernel.all.append(self)

    @cached_property
    def address(self) -> int:
        """The compiled function's address. It is compiled once on a machine, which takes up to a second."""
        # Numba would take code from its cache though an operation that the function is made of had changed.
        self.function.__qualname__ += f"-{_source_hash()}"
        options = {"nopython": True, "error_model": "numpy"}
        of = numba.types.void(numba.types.int64)
        try:
            self._compiled = numba.cfunc(of, cache=True, **options)(self.function)
        except RuntimeError:
            # No folder can be written to.
            self._compiled = numba.cfunc(of, **options)(self.function)
        return int(self._compiled.address)

    def __call__(self, *arguments: int) -> None:
        """Run on as many threads as PyTorch takes."""
        data = array("q", (0, 0, *arguments))
        _run(self.address, data.buffer_info()[0], torch.get_num_threads())


def compile_all() -> None:
    """Compile every kernel of the modules that are imported, so that no request waits for it."""
    for kernel in Kernel.all:
        kernel.address  # noqa: B018


@lru_cache
def _source_hash() -> str:
    """Return a hash of this folder's modules, of which kernels are made."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


@lru_cache
def _openmp() -> Any:
    """PyTorch's ``GOMP_parallel``, which Intel's and LLVM's libraries have too; None where there is none."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        try:
            # A library's symbols are looked for in those that it needs, too.
            found = ctypes.CDLL(str(folder / name)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        found.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        found.restype = None
        return found
    return None


def _run(address: int, data: int, threads: int) -> None:
    parallel = _openmp()
    if parallel is None or threads == 1:
        ctypes.CFUNCTYPE(None, ctypes.c_int64)(address)(data)
    else:
        parallel(address, data, threads, 0)
