"""What the machine allows: the rate of each matrix product in its fastest orientation, measured now."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from warmeng.engine.checkpoint import projection_shapes
from warmeng.engine.config import ModelConfig
from warmeng.kernels.linear import PackedProjection, can_pack

_SECONDS = 0.25  # of repetition for each orientation


@dataclass(frozen=True)
class ProductCeiling:
    """One product shape: weight [in, out] with ``rows`` rows."""

    name: str
    rows: int
    in_features: int
    out_features: int
    orientation: str  # the fastest one
    gflops: float  # 1e9 floating-point operations a second

    def seconds_per_row(self) -> float:
        """Return the time of one row at this rate."""
        return 2 * self.in_features * self.out_features / self.gflops / 1e9


@torch.inference_mode()
def measure(name: str, rows: int, in_features: int, out_features: int) -> ProductCeiling:
    """Time ``x @ w``, ``x @ w.T``, ``w @ x.T`` and the engine's own product on weights that don't fit in the nearest
    caches; keep the fastest.
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
    if can_pack(x.dtype, x.device):
        timed["arranged"] = [partial(PackedProjection(w).multiply, x) for w in transposed]
    best = ("", 0.0)
    for label, products in timed.items():
        products[0]()
        calls, started = 0, time.perf_counter()
        while time.perf_counter() - started < _SECONDS:
            products[calls % copies]()
            calls += 1
        rate = calls * 2 * rows * in_features * out_features / (time.perf_counter() - started) / 1e9
        best = max(best, (label, rate), key=lambda pair: pair[1])
    return ProductCeiling(name, rows, in_features, out_features, *best)


def ceilings(config: ModelConfig, rows: int) -> list[ProductCeiling]:
    """Measure every product of the model at this number of rows."""
    return [measure(name, rows, width, out) for name, (out, width) in projection_shapes(config).items()]


def floor_seconds(products: list[ProductCeiling], config: ModelConfig, body_rows: int, head_rows: int) -> float:
    """Return the time of the matrix products alone: ``body_rows`` tokens through the layers, ``head_rows`` logits."""
    total = 0.0
    for product in products:
        rows = head_rows if product.name == "head" else body_rows * config.num_layers
        total += rows * product.seconds_per_row()
    return total
