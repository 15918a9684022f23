"""Compiles what the launchers launch, for a GPU that isn't here, and reads the result: run as a script, once a target.

The driver below answers Triton's questions as a device of the target would and launches nothing, so the
kernels are compiled in exactly the configurations that the code under test asks for, on tensors without data.

    python compile_only.py 90 kernels     prints one JSON line for each compiled kernel
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

assert os.environ.get("TRITON_INTERPRET", "0") == "0", "kernels are interpreted in this process, not compiled"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

SHARED_MEMORY = {80: 166_912, 90: 232_448, 100: 232_448}  # bytes that one block may use
_BIN = Path(triton.__file__).parent / "backends/nvidia/bin"
_MATRIX = {80: ("HMMA",), 90: ("HGMMA", "HMMA"), 100: ("UTCHMMA", "UTCQMMA", "UTCMMA", "UTCOMMA", "HMMA")}


class _Utils:
    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_MEMORY[self.arch], "multiprocessor_count": 132, "warpSize": 32}

    def load_binary(self, *args: object) -> tuple[int, int, int, int, int]:
        return 0, 0, 0, 0, 1024

    def unload_module(self, module: object) -> None:
        """Nothing was loaded."""


class NoDevice:
    """Answers as a device of the architecture would; launches nothing."""

    def __init__(self, arch: int) -> None:
        self.target = GPUTarget("cuda", arch, 32)
        self.utils = _Utils(arch)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")

    def launcher_cls(self, src: object, metadata: object) -> object:
        return lambda *args: None


@contextmanager
def compiled_for(arch: int) -> Iterator[list[triton.compiler.CompiledKernel]]:
    """Within, launches compile for the architecture and launch nothing; yields the kernels they made."""
    found: list[triton.compiler.CompiledKernel] = []
    plain = triton.compiler.CompiledKernel._init_handles

    def note(self: triton.compiler.CompiledKernel) -> None:
        if self.module is None:
            found.append(self)
        plain(self)

    driver.set_active(NoDevice(arch))
    triton.compiler.CompiledKernel._init_handles = note
    try:
        yield found
    finally:
        triton.compiler.CompiledKernel._init_handles = plain


def describe(kernel: triton.compiler.CompiledKernel, arch: int) -> dict[str, object]:
    """Return registers, spilled bytes, shared memory and the matrix instructions of a compiled kernel."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage = _run("cuobjdump", "-res-usage", str(cubin))
        sass = _run("nvdisasm", str(cubin))
    numbers = dict(re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", usage))
    assert numbers, usage
    spills = len(re.findall(r"\b(?:STL|LDL)\b", sass))
    matrix = {name: n for name in _MATRIX[arch] if (n := len(re.findall(rf"\b{name}\b", sass)))}
    constants = {k: v for k, v in kernel.src.constants.items() if not isinstance(v, str)}
    names = [kernel.src.fn.arg_names[k[0]] for k in constants]
    return {
        "kernel": kernel.name,
        "arch": arch,
        "constants": dict(zip(names, constants.values(), strict=True)),
        "warps": kernel.metadata.num_warps,
        "stages": kernel.metadata.num_stages,
        "registers": int(numbers["REG"]),
        "stack": int(numbers["STACK"]),
        "local_accesses": spills,
        "shared": kernel.metadata.shared,
        "matrix": matrix,
    }


def _run(tool: str, *args: str) -> str:
    return subprocess.run([str(_BIN / tool), *args], check=True, capture_output=True, text=True).stdout
