"""Compiles what the launchers launch, for a GPU that isn't here, and reads the result: run as a script, once a target.

The driver below answers Triton's questions as a device of the target would and launches nothing, so the
kernels are compiled in exactly the configurations that the code under test asks for, on tensors without data.

    python compile_only.py 90               prints one JSON line for each compiled kernel
    python compile_only.py 90 --table       prints a table
    python compile_only.py 90 --part        compiles for the usual model
    python compile_only.py 90 --shard 3/8   compiles an eighth of what the usual model launches, and describes nothing
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from warmeng.kernels.gpu import activation, along, attention, matmul, norm, rope, sampling
from warmeng.kernels.gpu.lora import ROW_TILE, AdapterRows, LoraWeights, Product
from warmeng.kernels.gpu.tiles import Tile, tiles_for
from warmeng.kernels.quantized import Int4, RowScaled, Weight, kind_of
from warmeng.kernels.sizes import RANK_TILE

assert os.environ.get("TRITON_INTERPRET", "0") == "0", "kernels are interpreted in this process, not compiled"

SHARED_MEMORY = {80: 166_912, 90: 232_448, 100: 232_448}  # bytes that one block may use
_BIN = Path(triton.__file__).parent / "backends/nvidia/bin"
_MATRIX = {
    80: ("HMMA", "IMMA"),
    90: ("HGMMA", "QGMMA", "IGMMA", "HMMA"),
    100: ("UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCMMA", "UTCOMMA", "HMMA", "IMMA"),
}


class _Utils:
    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_MEMORY[self.arch], "multiprocessor_count": 132, "warpSize": 32}

    def load_binary(self, *args: object) -> tuple[int, int, int, int, int]:
        return 0, 0, 0, 0, 1024

    def fill_tma_descriptor(self, *args: object) -> int:
        return 0

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


def describe(kernel: triton.compiler.CompiledKernel, arch: int) -> dict[str, Any]:
    """Return registers, spilled bytes, shared memory and the matrix instructions of a compiled kernel."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage = _run("cuobjdump", "-res-usage", str(cubin))
        sass = _run("nvdisasm", str(cubin))
    numbers = dict(re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", usage))
    assert numbers, usage

    def count(pattern: str) -> dict[str, int]:
        return dict(sorted(Counter(re.findall(rf"\b({pattern})(?=[\s;])", sass)).items()))

    constants = {kernel.src.fn.arg_names[k[0]]: v for k, v in kernel.src.constants.items() if isinstance(v, int)}
    return {
        "kernel": kernel.name,
        "arch": arch,
        "constants": {name: v for name, v in constants.items() if name.isupper()},
        "warps": kernel.metadata.num_warps,
        "stages": kernel.metadata.num_stages,
        "registers": int(numbers["REG"]),
        "stack": int(numbers["STACK"]),
        "local_accesses": sum(count(r"(?:STL|LDL)[.\w]*").values()),
        "shared": kernel.metadata.shared,
        "fused": len(re.findall(r"\bfma\.rn[.\w]*f32", kernel.asm["ptx"])),  # multiply-adds of one rounding
        "matrix": count("|".join(rf"{name}[.\w]*" for name in _MATRIX[arch])),
        "copies": count(r"(?:LDGSTS|UTMALDG)[.\w]*"),  # from global memory to shared memory without registers between
    }


def _run(tool: str, *args: str) -> str:
    return subprocess.run([str(_BIN / tool), *args], check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Model:
    """The shapes of a decoder."""

    hidden: int
    heads: rope.Heads
    inter: int
    vocab: int
    bias: bool = False
    norms: bool = False


MODELS = {
    "Llama-3.1-8B": Model(4096, rope.Heads(32, 8, 128), 14336, 128256),
    "SmolLM2-135M": Model(576, rope.Heads(9, 3, 64), 1536, 49152),
    "Mistral-Small-22B": Model(6144, rope.Heads(48, 8, 128), 16384, 32768),
    "Qwen2.5-32B": Model(5120, rope.Heads(40, 8, 128), 27648, 152064, bias=True),
    "Qwen3-8B": Model(4096, rope.Heads(32, 8, 128), 12288, 151936, norms=True),
    "head size 96": Model(3072, rope.Heads(32, 32, 96), 8192, 32064),
    "head size 256": Model(3072, rope.Heads(16, 4, 256), 24576, 256000, bias=True, norms=True),
}
PART = ("Llama-3.1-8B",)  # the usual tiles
ROWS = 513  # of a step: a number that promises nothing about alignment
OTHER_ROWS = (1, 2, 16, 64)  # must take the same kernels
_BLOCKS, _BLOCK_SIZE = 1000, 16


def launch(
    model: Model, arch: int, count: int = ROWS, tiles: tuple[Tile, ...] | None = None, every: bool = True
) -> None:  # fmt: skip
    """Launch what the engine does for a step of ``count`` rows, with and without adapters, deterministic and fast.

    ``tiles``: of the products; None takes all. Not ``every``: products without adapters, which take fewer registers
    than those with them, have the first tile alone.
    """
    tiles = tiles_for(arch) if tiles is None else tiles
    heads = model.heads
    q, kv = heads.queries * heads.size, heads.keys * heads.size
    rows = AdapterRows(_ints(count), _floats(3, 2 * RANK_TILE), _ints(-(-count // ROW_TILE), 2))
    hidden, residual, weight = _bf16(count, model.hidden), _bf16(count, model.hidden), _bf16(model.hidden)

    def products(depth: int, widths: tuple[int, ...]) -> list[Product]:
        lora = LoraWeights(_bf16(len(widths) * 2 * RANK_TILE, depth), _bf16(sum(widths), 2 * RANK_TILE), widths)
        x, w = _bf16(count, depth), _bf16(sum(widths), depth)
        found = []
        for tile in tiles:
            changes = (None, lora) if every or tile == tiles[0] else (lora,)
            found = [matmul.project(x, w, c, rows, tiles=(tile,)) for c in changes]
        return found

    for tile in tiles:
        matmul.project(hidden, _bf16(model.vocab, model.hidden), out_dtype=torch.float32, tiles=(tile,))
    norm.add_rms_norm(None, residual, weight, 1e-5)
    along.along(residual, _floats(model.hidden))
    for product in products(q, (model.hidden,)) + products(model.inter, (model.hidden,)):
        norm.add_rms_norm(product, residual, weight, 1e-5)
    for product in products(model.hidden, (model.inter, model.inter)):
        activation.silu_mul(product)
    cache = [_bf16(_BLOCKS, heads.keys, _BLOCK_SIZE, heads.size) for _ in range(2)]
    rotation = tuple(torch.empty(8192, heads.size // 2, dtype=torch.float32, device="meta") for _ in range(2))
    bias = _bf16(heads.total * heads.size) if model.bias else None
    norms = (_bf16(heads.size), _bf16(heads.size)) if model.norms else None
    for product in products(model.hidden, (q, kv, kv)):
        rope.rotate_and_write(
            product, heads, bias, norms, 1e-5, (rotation[0], rotation[1]), _ints(count), _ints(count), *cache
        )
    for fast in (False, True):
        tiles = attention.tiling_for(heads.size, fast, arch)
        for chunks in (1, 3 + count):
            plan = attention.PagedPlan(
                _ints(40, attention.SEGMENT_FIELDS), _ints(40, count), _ints(33, 2), _ints(7, 2), chunks
            )
            queries = _bf16(count, heads.queries, heads.size)
            attention.attention(queries, *cache, plan, _ints(count), heads.size**-0.5, tiles)
    logits = torch.empty(count, model.vocab, dtype=torch.float32, device="meta")
    masks = _ints(3, -(-model.vocab // 32))
    sampling.sample(
        logits, sampling.SamplingRows(_ints(count, sampling.INTS), _floats(count, sampling.FLOATS), masks), model.vocab
    )
    sampling.log_normaliser(logits, model.vocab)


def launch_fp8_cache(model: Model, arch: int, count: int = ROWS) -> None:
    """Launch what writes and reads a cache of fp8."""
    heads = model.heads
    eight = torch.float8_e4m3fn
    cache = [torch.empty(_BLOCKS, heads.keys, 32, heads.size, dtype=eight, device="meta") for _ in range(2)]
    rotation = tuple(torch.empty(8192, heads.size // 2, dtype=torch.float32, device="meta") for _ in range(2))
    product = Product(_bf16(count, heads.total * heads.size))
    rope.rotate_and_write(
        product, heads, None, None, 1e-5, (rotation[0], rotation[1]), _ints(count), _ints(count), *cache
    )
    plan = attention.PagedPlan(
        _ints(40, attention.SEGMENT_FIELDS), _ints(40, count), _ints(33, 2), _ints(7, 2), 3 + count
    )  # fmt: skip
    tiling = attention.tiling_for(heads.size, False, arch)
    queries = _bf16(count, heads.queries, heads.size)
    attention.attention(queries, *cache, plan, _ints(count), heads.size**-0.5, tiling)


def launch_quantized(model: Model, arch: int, every: bool, count: int = ROWS) -> None:
    """Launch the products of quantised weights and the rounding of their rows: ``every`` tile, with adapters and
    without, or the largest with adapters, which takes most registers.
    """
    depth, outs, rank = model.hidden, 2 * model.inter, 2 * RANK_TILE
    x, lora = _bf16(count, depth), LoraWeights(_bf16(2 * rank, depth), _bf16(outs, rank), (outs // 2,) * 2)
    rows = AdapterRows(_ints(count), _floats(3, rank), _ints(-(-count // ROW_TILE), 2))

    def products(w: Weight) -> None:
        tiles = tiles_for(arch, kind_of(w))
        for tile in tiles if every else tiles[-1:]:
            for changes in (None, lora) if every else (lora,):
                matmul.project(x, w, changes, rows, tiles=(tile,))

    # Tensor cores take fp8 from Ada and Hopper on.
    for eight in (torch.int8, torch.float8_e4m3fn) if arch > 80 else (torch.int8,):
        products(RowScaled(torch.empty(outs, depth, dtype=eight, device="meta"), _floats(outs)))
    packed = torch.empty(outs, depth // 2, dtype=torch.uint8, device="meta")
    bf16 = _bf16(depth // 128, outs)
    zeros = torch.empty(depth // 128, outs, dtype=torch.uint8, device="meta")
    for scales, zero in ((bf16, None), (bf16.half(), zeros)):
        products(Int4(packed, scales, zero, 128, depth))


def _bf16(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, dtype=torch.bfloat16, device="meta")


def _ints(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, dtype=torch.int32, device="meta")


def _floats(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, dtype=torch.float32, device="meta")


def main() -> None:
    """Compile for the architecture given and print what came of it."""
    arch, options = int(sys.argv[1]), sys.argv[2:]
    if "--shard" in options:
        shard, of = map(int, options[-1].split("/"))
        with compiled_for(arch) as found:
            tiles = tiles_for(arch)[shard::of]
            launch(MODELS[PART[0]], arch, tiles=tiles)
        print(f"{len(found)} kernels compiled")
        return
    with compiled_for(arch) as found:
        every = "--part" not in options
        for name in MODELS if every else PART:
            launch(MODELS[name], arch, every=every)
        launch_quantized(MODELS[PART[0]], arch, every)
        if every and arch > 80:
            launch_fp8_cache(MODELS[PART[0]], arch)
        first = len(found)
        for count in OTHER_ROWS:
            launch(MODELS[PART[0]], arch, count, every=every)
    for i, kernel in enumerate(found):
        about = describe(kernel, arch) | {"again": i >= first}
        if "--table" not in options:
            print(json.dumps(about))
            continue
        sizes = " ".join(f"{k}={v}" for k, v in about["constants"].items() if k not in _DULL)
        copies = {name.split(".")[-1]: n for name, n in about["copies"].items()}
        sizes = f"{kernel.name:18} {sizes:96} warps {about['warps']} stages {about['stages']}"
        use = f"registers {about['registers']:3} stack {about['stack']:3} shared {about['shared']:6}"
        print(f"{sizes} {use} {about['matrix']} copies {copies}")


_DULL = (
    "ROW_TILE",
    "RANK_TILE",
    "GROUP_M",
    "SEGMENT_FIELDS",
    "BLOCK_SIZE",
    "INTS",
    "FLOATS",
    "EVEN_K",
    "PADDED_DIM",
    "HALF",
)

if __name__ == "__main__":
    main()
