"""What the tests of the Triton kernels share: where they run, fresh random numbers, poisoned outputs, tolerances.

Without a GPU the kernels run in Triton's interpreter on CPU tensors. With one they are compiled and run there, in bf16
alone: single precision is no product path on a GPU, and its tiles would not fit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"  # as tests/conftest.py set it
DEVICE = "cpu" if INTERPRETED else "cuda"

# Of ||out - reference|| / ||reference||; the reference is computed in float64 from the same inputs.
TOLERANCE = {
    torch.float32: 2e-6,  # sums of up to a few hundred products of 2^-24 each, which mostly cancel, and exponentials
    torch.bfloat16: 4e-3,  # up to three roundings on the way (product, change, result) of 2^-9 at most each
}
WORST = 8  # times the tolerance: of one element's error against |reference| + the root mean square of all
# What integers hold that nobody wrote: in 8 bits its last ones.
POISON = -7_777_777


class _WithoutTriton(pytest.Module):
    def collect(self) -> list[pytest.Item]:
        pytest.skip("triton is not installed: the kernels for GPUs need it", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip this folder's modules with a reason where they could not even be imported."""
    return None if find_spec("triton") else _WithoutTriton.from_parent(parent, path=module_path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``dtype`` in each dtype of the device: in the quick tier in the one that shows more."""
    if "dtype" in metafunc.fixturenames:
        half = pytest.param(torch.bfloat16, id="bfloat16", marks=[pytest.mark.slow] * INTERPRETED)
        metafunc.parametrize("dtype", [pytest.param(torch.float32, id="float32"), half] if INTERPRETED else [half])


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed everything anew in each run; a failing test shows the number, ``WARMENG_TEST_SEED`` repeats it."""
    value = int(os.environ.get("WARMENG_TEST_SEED", int.from_bytes(os.urandom(4), "little")))
    print(f"WARMENG_TEST_SEED={value}")
    torch.manual_seed(value)
    return value


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """Return numpy's generator of this test's seed."""
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make tensors on the device, and let ``empty`` ones hold NaN: what a kernel does not write is seen."""

    def poisonous(make: Callable[..., Tensor], **defaults: object) -> Callable[..., Tensor]:
        def fill(*args: object, **kwargs: object) -> Tensor:
            out = make(*args, **{**defaults, **kwargs})
            if out.is_floating_point():
                return out.fill_(torch.nan)
            return out.fill_(POISON if out.itemsize > 1 else POISON % 100)

        return fill

    # The context below gives a device to ``torch.empty`` alone, which this no longer is.
    monkeypatch.setattr(torch, "empty", poisonous(torch.empty, device=DEVICE))
    monkeypatch.setattr(torch, "empty_like", poisonous(torch.empty_like))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are small
    with torch.device(DEVICE), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        yield
    torch.set_num_threads(threads)


def assert_near(out: Tensor, reference: Tensor, dtype: torch.dtype) -> None:
    """Hold an output to its float64 reference by the table of tolerances. NaN is never near."""
    assert out.shape == reference.shape
    assert out.isfinite().all(), f"{int((~out.isfinite()).sum())} of {out.numel()} are not finite"
    error, limit = out.double() - reference, TOLERANCE[dtype]
    norm = reference.norm()
    assert error.norm() <= limit * norm, f"error {float(error.norm() / norm):.2e}, limit {limit:.0e}"
    scale = reference.abs() + norm / reference.numel() ** 0.5
    worst = (error.abs() / scale.clamp(min=1e-30)).max() if error.numel() else torch.zeros(())
    assert worst <= WORST * limit, f"worst element off by {float(worst):.2e}, limit {WORST * limit:.0e}"


@pytest.fixture
def near() -> Callable[[Tensor, Tensor, torch.dtype], None]:
    """Return ``assert_near``."""
    return assert_near


@dataclass(frozen=True)
class Adapters:
    """Random adapters: ``ranks`` columns each, stacked; ``ids`` the mixture of each row: a row of ``coefficients``.

    coefficients [mixtures, adapters]; the first row is zero, the base. The kernels' modules are imported late: where
    triton is missing, this file must load all the same.
    """

    ranks: tuple[int, ...]
    coefficients: np.ndarray
    ids: np.ndarray

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(first, stop) of each mixture's columns."""
        from warmeng.kernels.gpu.lora import NO_COLUMNS

        stops = np.cumsum(self.ranks)
        used = [np.flatnonzero(row) for row in self.coefficients]
        return [(int(stops[u[0]] - self.ranks[u[0]]), int(stops[u[-1]])) if len(u) else NO_COLUMNS for u in used]

    @property
    def rows(self):
        """Return the ``AdapterRows`` of these rows."""
        from warmeng.kernels.gpu.lora import AdapterRows, column_ranges

        weights = np.repeat(self.coefficients, self.ranks, axis=1).astype(np.float32)
        return AdapterRows(
            torch.tensor(self.ids), torch.tensor(weights), torch.tensor(column_ranges(self.ids, self.spans))
        )

    def lora(self, widths: tuple[int, ...], depth: int, dtype: torch.dtype):
        """Return random matrices for a product of these widths, whose changes are about as large as the product."""
        from warmeng.kernels.gpu.lora import LoraWeights

        total = sum(self.ranks)
        a = torch.randn(len(widths) * total, depth) * depth**-0.5
        b = torch.randn(sum(widths), total) * max(self.ranks) ** -0.5
        return LoraWeights(a.to(dtype), b.to(dtype), widths)

    def product(self, y: Tensor, widths: tuple[int, ...]):
        """Return a product as ``project`` leaves it: columns of ``lora_a_out`` outside a tile's span hold NaN."""
        from warmeng.kernels.gpu.lora import ROW_TILE, Product, column_weights

        rows = self.rows
        own = column_weights(rows, len(widths)) != 0
        lora_a_out = torch.where(own, torch.randn(own.shape), 0.0).to(y.dtype)
        for tile, (first, stop) in enumerate(rows.column_ranges.tolist()):
            part = lora_a_out[tile * ROW_TILE : (tile + 1) * ROW_TILE].view(-1, len(widths), sum(self.ranks))
            part[:, :, :first] = torch.nan
            part[:, :, stop:] = torch.nan
        return Product(y, lora_a_out, self.lora(widths, 16, y.dtype), rows)


def adapters_of(pattern: str, count: int, rng: np.random.Generator) -> Adapters:
    """Return adapters for this many rows.

    ``idle``: loaded, but no row has one; ``one``; ``mixed``: three of different ranks in any order, and a tile without;
    ``many``: 20, rows sorted by adapter, so that spans are short; ``doses``: of two adapters, and sums of two of three.
    """
    ranks = {"idle": (16,), "one": (32,), "mixed": (16, 48, 32), "doses": (16, 32, 16),
             "many": (16,) * 12 + (48, 32, 16, 16, 32, 16, 16, 16)}[pattern]  # fmt: skip
    doses = [[0, 0, 0], [0.5, 0, 0], [-1, 0, 0], [0, 0, 2], [1, -0.75, 0], [0.25, 0, 1.5]]
    coefficients = np.array(doses) if pattern == "doses" else np.eye(len(ranks) + 1)[:, 1:]
    ids = rng.integers(0, len(coefficients), count)
    if pattern == "idle":
        ids[:] = 0
    if pattern == "one":
        ids[:] = 1
    if pattern == "mixed":
        ids[16:32] = 0
        ids[64:128] = 0
    if pattern == "many":
        ids.sort()
    return Adapters(ranks, coefficients, ids.astype(np.int32))


@pytest.fixture
def make_adapters(rng: np.random.Generator) -> Callable[[str, int], Adapters]:
    """Return a function from a pattern and a number of rows to random adapters."""
    return lambda pattern, count: adapters_of(pattern, count, rng)
