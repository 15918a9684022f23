"""A batch-invariant matrix product: a row's bits depend neither on the number of rows nor on its place among them.

Every output is summed over K in steps of ``BLOCK_K`` in ascending order, by one program, on tensor cores in fp32.
The adapters' A product (LoRA shrink) has the same input, so its tiles share the launch and come after the base's. A
separate launch for a few dozen columns would cost more than its arithmetic. These tiles are narrow, and run on the
multiprocessors that the base's last wave leaves idle.

Bytes: ``(rows * in + out * in + rows * out) * itemsize``. Operations: ``2 * rows * in * out``. Up to about 240 rows on
an H100 (180 on an H200) the bytes of the weight bound the time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from warmeng.kernels.gpu.dot import dot_over_k, store_lora_a_tile
from warmeng.kernels.gpu.int4 import project_int4
from warmeng.kernels.gpu.lora import ROW_TILE, AdapterRows, LoraWeights, Product, Shrink, column_weights
from warmeng.kernels.gpu.quantize import quantize_rows
from warmeng.kernels.gpu.tiles import TILES, Tile, lora_block_n, processors_of, select_tile, tiles_for
from warmeng.kernels.quantized import Int4, RowScaled, Weight, kind_of, quantize

# Row tiles that read one weight tile one after the other, so that it comes from the L2 cache.
_GROUP_M = 8
# Hopper's tensor cores add up products of fp8 in about 14 bits (DeepSeek-AI, arXiv 2412.19437, section 3.3.2): after
# this many, the sum goes to one of single precision.
_FP8_SUMS = 128


@triton.jit(do_not_specialize=["rows", "lora_programs"])
def _tile_product(
    x, w, x_scales, w_scales, x_lora, a, y, lora_a_out, mixtures, weights, range_table,
    rows, lora_programs, outs, depth, lora_outs, rank, y_stride,
    HAS_LORA: tl.constexpr, TMA: tl.constexpr, FLAT: tl.constexpr, EVEN_K: tl.constexpr, ROW_TILE: tl.constexpr,
    GROUP_M: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    LORA_BLOCK_N: tl.constexpr, LORA_BLOCK_K: tl.constexpr, SCALED: tl.constexpr, SUM: tl.constexpr,
    IMPRECISE: tl.constexpr,
):  # fmt: skip
    """Each program takes tiles in turn. With ``FLAT``, the loads of the next tile begin before this one is stored."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    row_tiles = tl.cdiv(rows, BLOCK_M)
    tiles = row_tiles * tl.cdiv(outs, BLOCK_N)
    per_group = GROUP_M * tl.cdiv(outs, BLOCK_N)
    for tile in tl.range(program, tiles, programs, flatten=FLAT):
        first_row_tile = tile // per_group * GROUP_M
        group = tl.minimum(row_tiles - first_row_tile, GROUP_M)
        row = (first_row_tile + tile % per_group % group) * BLOCK_M
        column = tile % per_group // group * BLOCK_N
        acc = dot_over_k(x, w, row, column, rows, outs, depth, TMA, EVEN_K, BLOCK_M, BLOCK_N, BLOCK_K, SUM, IMPRECISE)
        m = row + tl.arange(0, BLOCK_M)
        n = column + tl.arange(0, BLOCK_N)
        if SCALED:
            of_rows = tl.load(x_scales + m, mask=m < rows, other=0.0)
            of_outs = tl.load(w_scales + n, mask=n < outs, other=0.0)
            acc = acc.to(tl.float32) * of_rows[:, None] * of_outs[None, :]
        at = y + m[:, None].to(tl.int64) * y_stride + n[None, :]
        tl.store(at, acc.to(y.dtype.element_ty), mask=(m < rows)[:, None] & (n < outs)[None, :])
    if HAS_LORA:
        # The programs that the last wave left without a tile come first.
        first = (program + programs - tiles % programs) % programs
        stop = tl.where(first < lora_programs, row_tiles * tl.cdiv(lora_outs, LORA_BLOCK_N), 0)
        for tile in range(first, stop, lora_programs):
            store_lora_a_tile(
                x_lora, a, lora_a_out, mixtures, weights, range_table,
                tile % row_tiles * BLOCK_M, tile // row_tiles * LORA_BLOCK_N, rows, depth, lora_outs, rank,
                TMA, EVEN_K, ROW_TILE, BLOCK_M, LORA_BLOCK_N, LORA_BLOCK_K,
            )  # fmt: skip


def project(
    x: Tensor,
    w: Weight,
    lora: LoraWeights | None = None,
    rows: AdapterRows | None = None,
    *,
    out_dtype: torch.dtype | None = None,
    tiles: tuple[Tile, ...] | None = None,
) -> Product:
    """Return ``x @ w.T`` and, where adapters are active, ``x @ a.T`` times the rows' column weights.

    x [rows, in]; w [out, in]; both contiguous. ``tiles`` are the configurations to choose from, by default those for
    Hopper and the kind of weight. Those of the tensor memory accelerator are passed over where a row is no multiple of
    16 bytes, which it can't read. A weight of 8 bits meets rows that are rounded to its type.
    """
    tiles = tiles or tiles_for(90, kind_of(w))
    if isinstance(w, Int4):
        return project_int4(x, w, lora, rows, out_dtype=out_dtype, tiles=tiles)
    count, depth = x.shape
    outs = w.shape[0]
    y = torch.empty(count, outs, dtype=out_dtype or x.dtype, device=x.device)
    base, values, x_scales, w_scales = x, w, x, x
    if isinstance(w, RowScaled):
        base, x_scales = quantize_rows(x, w.values.dtype, w.input_scale)
        values, w_scales = w.values, w.scales
    assert isinstance(values, Tensor)
    s = Shrink.of(x, y, lora, rows)
    if depth * base.element_size() % 16:
        tiles = tuple(t for t in tiles if not t.tma) or TILES[:1]
    # A block of the depth has as many bytes as one of bfloat16, which the measured times are for.
    narrow = 2 if isinstance(w, RowScaled) else 1
    t, launch = select_tile(count, outs, depth // narrow, s.outs, tiles, processors_of(x.device))
    block_n, block_k = lora_block_n(s.outs, t.block_n), t.block_k * narrow
    operands = (base, values, x, s.a if s.outs else values)
    if t.tma:
        blocks = ((t.block_m, block_k), (t.block_n, block_k), (t.block_m, t.block_k), (block_n, t.block_k))
        # Without adapters the last two stand in for what is not read.
        blocks = blocks if s.outs else blocks[:2] * 2
        operands = tuple(_described(m, *block) for m, block in zip(operands, blocks, strict=True))
    # A result of four bytes a number does not fit beside the loads of the next tile.
    flat = t.tma and y.element_size() == 2
    fp8 = values.dtype == torch.float8_e4m3fn
    _tile_product[(launch.programs,)](
        *operands[:2], x_scales, w_scales, *operands[2:], y, s.lora_a_out, s.mixtures, s.weights, s.range_table,
        count, launch.lora_programs, outs, depth, s.outs, s.rank, outs,
        HAS_LORA=s.outs > 0, TMA=t.tma, FLAT=flat, EVEN_K=depth % block_k == 0,
        ROW_TILE=ROW_TILE, GROUP_M=_GROUP_M,
        BLOCK_M=t.block_m, BLOCK_N=t.block_n, BLOCK_K=block_k, LORA_BLOCK_N=block_n, LORA_BLOCK_K=t.block_k,
        SCALED=narrow > 1, SUM=tl.int32 if values.dtype == torch.int8 else tl.float32,
        IMPRECISE=_FP8_SUMS if fp8 else 0, num_warps=t.warps, num_stages=t.stages,
    )  # fmt: skip
    return Product(y, s.lora_a_out, lora, rows) if s.outs else Product(y)


def _described(matrix: Tensor, height: int, width: int) -> TensorDescriptor:
    """Return what the tensor memory accelerator reads blocks [height, width] of a contiguous matrix by."""
    return TensorDescriptor(matrix, list(matrix.shape), [matrix.shape[1], 1], [height, width])


def lora_shrink(x: Tensor, lora: LoraWeights, rows: AdapterRows) -> Tensor:
    """Return ``x @ a.T`` times the rows' column weights, by the device's library, whose order of summation depends on
    the rows.
    """
    lora_a_out = torch.mm(x, lora.a.t())
    lora_a_out.view(len(lora_a_out), -1, lora.rank).mul_(rows.column_weights[:, None, :])
    return lora_a_out


def project_plain(x: Tensor, w: Weight, lora: LoraWeights | None = None, rows: AdapterRows | None = None) -> Product:
    """Return what ``project`` does, in float64: the twin."""
    if isinstance(w, RowScaled):
        values, scales = quantize(x, w.values.dtype, w.input_scale)
        y = values.double() @ w.values.double().t() * scales.double()[:, None] * w.scales.double()
    else:
        y = x.double() @ (w if isinstance(w, Tensor) else w.dequantized(x.dtype)).double().t()
    if lora is None or rows is None:
        return Product(y)
    weights = column_weights(rows, len(lora.widths)).double()
    lora_a_out = (x.double() @ lora.a.double().t() * weights).masked_fill(weights == 0, 0)
    return Product(y, lora_a_out, lora, rows)
