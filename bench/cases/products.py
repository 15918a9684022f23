"""Matrix products of a layer and of the head beside cuBLAS, and products with adapters beside PEFT's way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from warmeng.bench.cases.case import Case, Sizes, Tensors, Work
from warmeng.engine.checkpoint import projection_shapes
from warmeng.kernels.gpu.activation import silu_mul, silu_mul_plain
from warmeng.kernels.gpu.lora import NO_COLUMNS, AdapterRows, LoraWeights, column_ranges
from warmeng.kernels.gpu.matmul import project, project_plain
from warmeng.kernels.gpu.norm import add_rms_norm, add_rms_norm_plain
from warmeng.kernels.gpu.tiles import TILES, Tile
from warmeng.kernels.sizes import RANK_TILE

# With the base there are three personas, each with a third of the rows.
ADAPTERS = 2


def cases(sizes: Sizes) -> list[Case]:
    """Return every product of the model at each number of rows, and the adapters' on the largest of them."""
    shapes = projection_shapes(sizes.config)
    found = [_product(sizes, name, rows, *shapes[name]) for name in shapes for rows in sizes.rows]
    rows = sizes.rows[len(sizes.rows) // 2]
    return [*found, _gate_up(sizes, rows), _down(sizes, rows)]


def _product(sizes: Sizes, name: str, rows: int, out: int, width: int) -> Case:
    head = name == "head"
    out_dtype = torch.float32 if head else sizes.dtype

    def make(seed: int) -> Work:
        x, w = sizes.random(seed, rows, width), sizes.random(seed + 1, out, width, scale=width**-0.5)

        def mm() -> Tensors:
            y = torch.mm(x, w.t())
            return (y.float() if head else y,)

        tiles = TILES if sizes.timed else ()
        variants = {f"{t.block_m} x {t.block_n} x {t.block_k}": partial(_ours, x, w, out_dtype, (t,)) for t in tiles}
        return Work(
            partial(_ours, x, w, out_dtype, TILES), lambda: (project_plain(x, w).y,),
            {"torch.mm": mm}, variants,
        )  # fmt: skip

    moved = (rows * width + out * width) * sizes.item + rows * out * out_dtype.itemsize
    return Case(f"product {name}", f"{rows} x {width} x {out}", moved, 2 * rows * out * width, make, sizes.tolerance)


def _ours(x: Tensor, w: Tensor, out_dtype: torch.dtype, tiles: tuple[Tile, ...]) -> Tensors:
    return (project(x, w, out_dtype=out_dtype, tiles=tiles).y,)


def adapter_rows(sizes: Sizes, rows: int) -> tuple[AdapterRows, list[Tensor]]:
    """Return rows of the base, then of each adapter, in equal parts; and each adapter's row numbers."""
    mixtures = np.sort(np.arange(rows, dtype=np.int32) * (ADAPTERS + 1) // rows)
    padded = -(-sizes.rank // RANK_TILE) * RANK_TILE
    spans = [NO_COLUMNS, *((i * padded, i * padded + padded) for i in range(ADAPTERS))]
    weights = torch.eye(ADAPTERS + 1)[:, 1:].repeat_interleave(padded, 1).contiguous().to(sizes.device)
    found = AdapterRows(sizes.ints(mixtures.tolist()), weights, sizes.ints(column_ranges(mixtures, spans).tolist()))
    return found, [torch.from_numpy(np.flatnonzero(mixtures == i + 1)).to(sizes.device) for i in range(ADAPTERS)]


def lora_weights(sizes: Sizes, seed: int, width: int, widths: tuple[int, ...]) -> LoraWeights:
    """Return random adapters of the bench's rank for a product with parts of these widths."""
    padded = -(-sizes.rank // RANK_TILE) * RANK_TILE
    a = sizes.random(seed, len(widths), ADAPTERS, padded, width, scale=width**-0.5)
    a[:, :, sizes.rank :] = 0
    b = sizes.random(seed + 1, sum(widths), ADAPTERS, padded, scale=sizes.rank**-0.5)
    b[:, :, sizes.rank :] = 0
    return LoraWeights(a.reshape(-1, width).contiguous(), b.reshape(len(b), -1).contiguous(), widths)


def peft_way(sizes: Sizes, made: LoraWeights, rows: list[Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that adds the change to a product in place, as PEFT does for a mixed batch: two products for
    each part and adapter.
    """
    padded = made.rank // ADAPTERS
    a = made.a.view(len(made.widths), ADAPTERS, padded, -1)[:, :, : sizes.rank]
    b = [part.view(len(part), ADAPTERS, padded)[:, :, : sizes.rank] for part in torch.split(made.b, list(made.widths))]
    sides = [[(a[p, i].contiguous(), b[p][:, i].contiguous()) for i in range(ADAPTERS)] for p in range(len(b))]

    def add(x: Tensor, y: Tensor) -> Tensor:
        for part, of_part in zip(torch.split(y, list(made.widths), 1), sides, strict=True):
            for picked, (down, up) in zip(rows, of_part, strict=True):
                part[picked] += torch.mm(torch.mm(x[picked], down.t()), up.t())
        return y

    return add


@dataclass(frozen=True)
class _Adapters:
    """What the adapters of one product add, at their true rank."""

    # A is read and ``lora_a_out`` written, with the product.
    down_bytes: float
    # ``lora_a_out`` and B are read, in the kernel after it.
    up_bytes: float
    operations: float


def _adapters(width: int, widths: tuple[int, ...], sizes: Sizes, rows: int) -> _Adapters:
    rank, parts, outs = sizes.rank, len(widths), sum(widths)
    carried = rows * ADAPTERS // (ADAPTERS + 1)
    low = carried * rank * parts
    return _Adapters(
        (ADAPTERS * rank * parts * width + low) * sizes.item,
        (ADAPTERS * rank * outs + low) * sizes.item,
        2 * carried * rank * (parts * width + outs),
    )


def _gate_up(sizes: Sizes, rows: int) -> Case:
    width, inner = sizes.config.hidden_size, sizes.config.intermediate_size
    widths = (inner, inner)

    def make(seed: int) -> Work:
        x, w = sizes.random(seed, rows, width), sizes.random(seed + 1, 2 * inner, width, scale=width**-0.5)
        made, (carried, picked) = lora_weights(sizes, seed + 2, width, widths), adapter_rows(sizes, rows)
        add = peft_way(sizes, made, picked)

        def gated(y: Tensor) -> Tensors:
            gate, up = y.chunk(2, 1)
            return (functional.silu(gate) * up,)

        return Work(
            lambda: (silu_mul(project(x, w, made, carried)),),
            lambda: (silu_mul_plain(project_plain(x, w, made, carried)),),
            {"mm + PEFT + silu": lambda: gated(add(x, torch.mm(x, w.t())))},
            {"without adapters": lambda: (silu_mul(project(x, w)),)},
        )

    extra = _adapters(width, widths, sizes, rows)
    moved = (rows * width + 2 * inner * width + 2 * rows * inner) * sizes.item + extra.down_bytes
    operations = 4 * rows * inner * width + extra.operations
    return Case(
        "gate_up, adapters, silu_mul", f"{rows} rows, 2 adapters of rank {sizes.rank}", moved, operations, make,
        2 * sizes.tolerance, 3 * rows * inner * sizes.item + extra.up_bytes,
    )  # fmt: skip


def _down(sizes: Sizes, rows: int) -> Case:
    width, inner = sizes.config.hidden_size, sizes.config.intermediate_size
    eps = sizes.config.rms_norm_eps

    def make(seed: int) -> Work:
        x, w = sizes.random(seed, rows, inner), sizes.random(seed + 1, width, inner, scale=inner**-0.5)
        residual, weight = sizes.random(seed + 2, rows, width), sizes.random(seed + 3, width)
        made, (carried, picked) = lora_weights(sizes, seed + 4, inner, (width,)), adapter_rows(sizes, rows)
        add = peft_way(sizes, made, picked)

        def ours(with_change: bool) -> Tensors:
            product = project(x, w, made, carried) if with_change else project(x, w)
            return residual, add_rms_norm(product, residual, weight, eps)

        def other() -> Tensors:
            residual.add_(add(x, torch.mm(x, w.t())))
            return residual, functional.rms_norm(residual, (width,), weight, eps)

        return Work(
            lambda: ours(True),
            lambda: add_rms_norm_plain(project_plain(x, w, made, carried), residual, weight, eps),
            {"mm + PEFT + norm": other},
            {"without adapters": lambda: ours(False)},
        )

    extra = _adapters(inner, (width,), sizes, rows)
    moved = (rows * inner + inner * width + rows * width) * sizes.item + extra.down_bytes
    operations = 2 * rows * inner * width + extra.operations
    return Case(
        "down, adapters, norm", f"{rows} rows, 2 adapters of rank {sizes.rank}", moved, operations, make,
        2 * sizes.tolerance, 4 * rows * width * sizes.item + extra.up_bytes, in_place=True,
    )  # fmt: skip
