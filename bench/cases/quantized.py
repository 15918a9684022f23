"""Products with quantised weights beside the plain one, and beside PyTorch's own of 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from warmeng.bench.cases.case import Case, Sizes, Tensors, Work
from warmeng.engine.checkpoint import projection_shapes
from warmeng.kernels.gpu.matmul import project, project_plain
from warmeng.kernels.gpu.quantize import quantize_rows
from warmeng.kernels.gpu.tiles import Tile, tiles_for
from warmeng.kernels.quantized import Int4, RowScaled, Weight, quantize, round_weight

KINDS = ("int8", "fp8", "int4")
# Of a layer: the widest and the deepest.
_NAMES = ("gate_up", "down")


def cases(sizes: Sizes) -> list[Case]:
    """Return the two largest products of a layer with each kind of weight, and the rounding of their rows."""
    shapes = projection_shapes(sizes.config)
    # Triton's interpreter rounds to fp8 in another way than devices do.
    kinds = KINDS if sizes.timed else ("int8", "int4")
    found = [_product(sizes, kind, n, rows, *shapes[n]) for kind in kinds for n in _NAMES for rows in sizes.rows]
    rounded = [kind for kind in kinds if kind != "int4"]
    return [*found, *(_rows(sizes, kind, max(sizes.rows), shapes["down"][1]) for kind in rounded)]


def _product(sizes: Sizes, kind: str, name: str, rows: int, out: int, width: int) -> Case:
    def make(seed: int) -> Work:
        x, plain = sizes.random(seed, rows, width), sizes.random(seed + 1, out, width, scale=width**-0.5)
        w = round_weight(plain, kind)
        tiles = tiles_for(90, kind) if sizes.timed else ()
        variants = {t.label: partial(_ours, x, w, (t,)) for t in tiles}
        others: dict[str, Callable[[], Tensors | None]] = {"torch.mm, plain": partial(_plain, x, plain)}
        if isinstance(w, RowScaled) and sizes.timed:
            others["torch, rows rounded before"] = partial(_library, *quantize_rows(x, w.values.dtype), w, x.dtype)
        return Work(partial(_ours, x, w, None), lambda: (project_plain(x, w).y,), others, variants)

    bits = 4 if kind == "int4" else 8
    moved = out * width * bits / 8 + rows * (width + out) * sizes.item
    if kind == "int4":
        moved += out * width / 128 * sizes.item
    # Of 8 bits a card does twice as many operations in the time.
    operations = 2 * rows * out * width / (1 if kind == "int4" else 2)
    return Case(f"{kind} product {name}", f"{rows} x {width} x {out}", moved, operations, make, sizes.tolerance)


def _rows(sizes: Sizes, kind: str, rows: int, width: int) -> Case:
    dtype = torch.int8 if kind == "int8" else torch.float8_e4m3fn

    def make(seed: int) -> Work:
        x = sizes.random(seed, rows, width)

        def ours() -> Tensors:
            values, scales = quantize_rows(x, dtype)
            return values.float(), scales

        def twin() -> Tensors:
            values, scales = quantize(x, dtype)
            return values.double(), scales.double()

        return Work(ours, twin)

    return Case(f"rounding to {kind}", f"{rows} x {width}", rows * width * (sizes.item + 1), 0, make, 1e-6)


def _ours(x: Tensor, w: Weight, tiles: tuple[Tile, ...] | None) -> Tensors:
    return (project(x, w, tiles=tiles).y,)


def _plain(x: Tensor, w: Tensor) -> None:
    """The product that is not quantised: another result, the same shape."""
    torch.mm(x, w.t())


def _library(values: Tensor, scales: Tensor, w: RowScaled | Int4, dtype: torch.dtype) -> Tensors:
    assert isinstance(w, RowScaled)
    if w.kind == "int8":
        sums = torch._int_mm(values, w.values.t())
        return ((sums.float() * scales[:, None] * w.scales).to(dtype),)
    y = torch._scaled_mm(values, w.values.t(), scales[:, None], w.scales[None], out_dtype=dtype)
    return (y,)
