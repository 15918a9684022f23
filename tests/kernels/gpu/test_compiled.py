"""What the kernels compile to for three generations of devices, none of which is needed for that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from tiers import full

pytestmark = pytest.mark.slow
# Bytes of shared memory that one block may use.
SHARED_MEMORY = {80: 166_912, 90: 232_448, 100: 232_448}
KERNELS = {
    "_tile_product", "_rms_norm", "_add_with_lora", "_silu_mul", "_rotate_and_write", "_paged_attention",
    "_combine_chunks", "_sample", "_log_normaliser", "_along", "_quantize_rows", "_int4_product",
}  # fmt: skip
Kernels = list[dict[str, Any]]


def compiled(arch: int, folder: Path, full: bool) -> Kernels:
    """Compile in a process of its own, into an empty cache: for all models in the full tier, else the usual one."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(folder / str(arch)), "TRITON_DEFAULT_FP_FUSION": "1"}
    script = [sys.executable, str(Path(__file__).with_name("compile_only.py")), str(arch)]
    if not full:
        script.append("--part")
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def all_kernels(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tier: str
) -> dict[int, Future[Kernels]]:
    """Start compiling for each generation that is tested, two at a time."""
    folder = tmp_path_factory.mktemp("triton")
    pool = ThreadPoolExecutor(2)
    tests = (getattr(item, "callspec", None) for item in request.session.items if item.path == request.path)
    wanted = dict.fromkeys(test.params["arch"] for test in tests if test)
    return {arch: pool.submit(compiled, arch, folder, tier == "full") for arch in wanted}


# CI has the generation that the engine was measured on.
@pytest.fixture(params=[90, *full(80, 100)])
def arch(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def kernels(arch: int, all_kernels: dict[int, Future[Kernels]]) -> Kernels:
    return all_kernels[arch].result()


def check(kernels: Kernels, names: set[str], fault: Any) -> None:
    """Hold each kernel of these names to be without fault, and name all that aren't."""
    some = [k for k in kernels if k["kernel"] in names]
    assert {k["kernel"] for k in some} == names
    faulty = [k for k in some if fault(k)]
    assert not faulty, "\n".join(map(str, faulty))


def test_nothing_spills(arch: int, kernels: Kernels) -> None:
    """What doesn't fit into registers would go to memory and back, in the innermost loops."""
    old = tuple(map(int, version("triton").split(".")[:2])) < (3, 7)
    # Triton 3.6 spills up to 64 bytes of the largest attention tiles on Ampere and Blackwell; on Hopper nothing.
    limit = 64 if old and arch != 90 else 0
    # On Blackwell a product's sums lie in the tensor units' own memory, and come to registers when a tile is stored.
    most = {"_tile_product": 128} if arch == 100 else {}
    check(kernels, KERNELS, lambda k: max(k["stack"], k["local_accesses"]) > most.get(k["kernel"], limit))


def test_shared_memory_suffices(arch: int, kernels: Kernels) -> None:
    check(kernels, KERNELS, lambda k: k["shared"] > SHARED_MEMORY[arch])


def test_products_take_the_devices_own_instructions(arch: int, kernels: Kernels) -> None:
    """Tiles of 64 rows take those of the generation; tiles of 16 rows, the common ones. Numbers of 8 bits have theirs,
    beside the adapters' product of bfloat16.
    """
    best = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}[arch]
    int8, fp8 = {80: ("IMMA", ""), 90: ("IGMMA", "QGMMA"), 100: ("UTCIMMA", "UTCQMMA")}[arch]

    def fault(kernel: dict[str, Any]) -> bool:
        constants = kernel["constants"]
        wanted = {best if constants["BLOCK_M"] >= 64 else "HMMA"}
        if constants.get("SCALED"):
            eight = fp8 if constants["IMPRECISE"] else int8
            wanted = wanted | {eight} if constants["HAS_LORA"] else {eight}
        return {name.split(".")[0] for name in kernel["matrix"]} != wanted

    check(kernels, {"_int4_product"}, fault)
    check(kernels, {"_tile_product", "_paged_attention"}, fault)
    changed = [k for k in kernels if k["constants"].get("HAS_LORA", True)]
    check(changed, {"_add_with_lora", "_silu_mul", "_rotate_and_write"}, lambda k: not k["matrix"])


def test_operands_are_copied_ahead_and_16_bytes_at_a_time(kernels: Kernels) -> None:
    """Weights, keys and values go to shared memory by themselves, while others are multiplied."""

    def wide(kernel: dict[str, Any]) -> int:
        return sum(n for name, n in kernel["copies"].items() if name.endswith("128") or name.startswith("UTMA"))

    check(kernels, {"_tile_product"}, lambda k: not 0 < wide(k) == sum(k["copies"].values()))
    # A thread unpacks 8 bytes of a row, 16 numbers.
    check(kernels, {"_int4_product"}, lambda k: not wide(k))
    # Entries of the block table are single integers, but one of them serves many copies.
    check(kernels, {"_paged_attention"}, lambda k: not sum(k["copies"].values()) - wide(k) < wide(k))


def test_kernels_that_must_agree_with_each_other_round_alike(kernels: Kernels) -> None:
    """Where the compiler may fuse a product and a sum it does so in one loop or variant and not in the other."""
    check(kernels, {"_paged_attention", "_rms_norm", "_rotate_and_write"}, lambda k: k["fused"])
    assert any(k["fused"] for k in kernels if k["kernel"] == "_sample")  # it does where it may


def test_any_number_of_rows_takes_the_same_kernels(kernels: Kernels) -> None:
    """None is compiled anew because a step has one row or sixteen: that would stop a run for seconds, anywhere."""
    assert not [k for k in kernels if k["again"]]
