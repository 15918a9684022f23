"""What a device reaches at most, measured: bytes a second of a large copy, operations a second of products."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from warmeng.bench.timing import measure
from warmeng.engine.checkpoint import projection_shapes
from warmeng.engine.config import ModelConfig
from warmeng.engine.prediction.card import Roofline
from warmeng.kernels.arrangement import arrange

# Bytes of one copy, and sides of square products.
_COPIES = {"cuda": (2**30, 4 * 2**30), "cpu": (2**26, 2**28)}
_SIDES = {"cuda": (4096, 8192, 16384), "cpu": (1024, 2048, 3072)}
# Seconds of repetition for each orientation of a model's product, in so many windows.
_SECONDS, _WINDOWS = 0.25, 5
_DTYPES = {"cuda": torch.bfloat16, "cpu": torch.float32}


@torch.inference_mode()
def measure_roofline(
    device: torch.device,
    *,
    sizes: tuple[int, ...] | None = None,
    sides: tuple[int, ...] | None = None,
    seconds: float = 1.0,
    say: Callable[[str], None] = lambda line: None,
) -> Roofline:
    """Measure both ceilings on random numbers (zeros were 13 % faster), each size for ``seconds``.

    On a CPU: copies in memory and the engine's products in single precision.
    """
    kind = device.type
    dtype = _DTYPES[kind]
    by_bytes: dict[int, float] = {}
    for size in sizes or _COPIES[kind]:
        source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        # PyTorch's copy of bytes reached 2.8 TB/s on an H200.
        ways: list[Callable[[], object]] = [partial(target.copy_, source)]
        if kind == "cuda":
            ways.append(partial(torch.neg, source.view(torch.float32), out=target.view(torch.float32)))
        by_bytes[size] = 2 * size / min(measure([way], device, seconds).seconds for way in ways)
        say(f"copy of {size / 2**20:,.0f} MiB: {by_bytes[size] / 1e9:,.1f} GB/s, read plus written")
        del source, target
    by_side: dict[int, float] = {}
    for side in sides or _SIDES[kind]:
        a, b = (torch.randn(side, side, dtype=torch.float32, device=device).to(dtype) for _ in range(2))
        found = measure([_product(a, b)], device, seconds)
        by_side[side] = 2 * side**3 / found.seconds
        say(f"product of {side:,} x {side:,}: {by_side[side] / 1e12:,.2f} TFLOP/s in {str(dtype)[6:]}")
        del a, b
    return Roofline(max(by_bytes.values()), max(by_side.values()), str(dtype)[6:], by_bytes, by_side)


def _product(a: Tensor, b: Tensor) -> Callable[[], Tensor]:
    """Return the fastest product here: cuBLAS's, or the engine's own on a weight that is packed once."""
    if a.device.type == "cpu":
        return partial(arrange([], a.dtype, fast=True).project(b).multiply, a)
    out = torch.empty_like(a)
    return partial(torch.mm, a, b, out=out)


@dataclass(frozen=True)
class ProductPeak:
    """The rate of one of a model's products, weight [in, out] with ``rows`` rows, in its fastest orientation."""

    name: str
    rows: int
    in_features: int
    out_features: int
    orientation: str
    # 1e9 floating-point operations a second.
    gflops: float

    def seconds_per_row(self) -> float:
        """Return the time of one row at this rate."""
        return 2 * self.in_features * self.out_features / self.gflops / 1e9


@torch.inference_mode()
def measure_product(
    name: str, rows: int, in_features: int, out_features: int, dtype: torch.dtype = torch.float32
) -> ProductPeak:
    """Time ``x @ w``, ``x @ w.T``, ``w @ x.T`` and the engine's own product on weights that don't fit in the nearest
    caches; keep the fastest. Of bfloat16 the engine's own alone: the others are no faster.
    """
    copies = max(2, min(30, 100_000_000 // (in_features * out_features)))
    weights = [torch.randn(in_features, out_features) for _ in range(copies)]
    transposed = [w.t().contiguous() for w in weights]
    x = torch.randn(rows, in_features)
    ways: dict[str, tuple[list[Tensor], Callable[[Tensor], Tensor]]] = {
        "x @ w": (weights, lambda w: x @ w),
        "x @ w.T": (transposed, lambda w: x @ w.t()),
        "w @ x.T": (transposed, lambda w: w @ x.t()),
    }
    timed = {label: [partial(product, w) for w in pool] for label, (pool, product) in ways.items()}
    own = [partial(arrange([], dtype, fast=True).project(w).multiply, x) for w in transposed]
    timed = {"packed bfloat16": own} if dtype == torch.bfloat16 else {**timed, "packed": own}
    best = ("", 0.0)
    for label, products in timed.items():
        products[0]()
        # The best of several: another process may have the cores for a while.
        for _ in range(_WINDOWS):
            calls, started = 0, time.perf_counter()
            while time.perf_counter() - started < _SECONDS / _WINDOWS:
                products[calls % copies]()
                calls += 1
            rate = calls * 2 * rows * in_features * out_features / (time.perf_counter() - started) / 1e9
            best = max(best, (label, rate), key=lambda pair: pair[1])
    return ProductPeak(name, rows, in_features, out_features, *best)


def measure_products(config: ModelConfig, rows: int, dtype: torch.dtype = torch.float32) -> list[ProductPeak]:
    """Measure every product of a model at this number of rows, on this CPU."""
    shapes = projection_shapes(config).items()
    return [measure_product(name, rows, width, out, dtype) for name, (out, width) in shapes]
