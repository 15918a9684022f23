"""The product with a weight of 4 bits, and the adapters' A product in its launch.

A tile of the weight is unpacked in registers and rounded to the type of the rows, then multiplied as any weight of that
type. It is the left operand (``y.T = w @ x.T``), because only that one may come from registers on Hopper: as the
right one it would go through shared memory first. Sums run over K in ascending steps of 64, as in ``_tile_product``.

Bytes: ``out * in / 2`` of the weight, ``2 * out * in / group`` of its scales (half more with zeros), and the rows.
Twelve instructions unpack eight numbers, and four multiply them with scales of bfloat16.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from warmeng.kernels.gpu.dot import store_lora_a_tile
from warmeng.kernels.gpu.lora import ROW_TILE, AdapterRows, LoraWeights, Product, Shrink
from warmeng.kernels.gpu.tiles import INT4_TILES, Tile, lora_block_n, processors_of, select_tile
from warmeng.kernels.quantized import HALF, MIDDLE, Int4


@triton.jit
def _unpack(p, MIDDLE: tl.constexpr, ASM: tl.constexpr):
    """Return (low nibbles, high nibbles) less 8 of bytes: bfloat16 by the device's byte instructions, else float32.

    0x4300 with a number of 4 bits in its lowest bits is 128 plus that number in bfloat16, from which 136 is taken. Four
    bytes become eight numbers in twelve instructions.
    """
    if ASM:
        low, high = tl.inline_asm_elementwise(
            """
            {
            .reg .b32 a, b, c, d, one, less;
            mov.b32 one, 0x3F803F80;
            mov.b32 less, 0xC308C308;
            prmt.b32 a, $4, 0, 0x4140;
            prmt.b32 b, $4, 0, 0x4342;
            shr.u32 c, a, 4;
            shr.u32 d, b, 4;
            lop3.b32 a, a, 0x000F000F, 0x43004300, 0xEA;
            lop3.b32 b, b, 0x000F000F, 0x43004300, 0xEA;
            lop3.b32 c, c, 0x000F000F, 0x43004300, 0xEA;
            lop3.b32 d, d, 0x000F000F, 0x43004300, 0xEA;
            fma.rn.bf16x2 $0, a, one, less;
            fma.rn.bf16x2 $1, b, one, less;
            fma.rn.bf16x2 $2, c, one, less;
            fma.rn.bf16x2 $3, d, one, less;
            }
            """,
            "=r,=r,=r,=r,r", [p], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4,
        )  # fmt: skip
    else:
        low = (p & 15).to(tl.float32) - MIDDLE
        high = (p >> 4).to(tl.float32) - MIDDLE
    return low, high


@triton.jit
def _scaled(
    numbers, scales, zeros, n, k, outs, groups,
    HAS_ZEROS: tl.constexpr, MIDDLE: tl.constexpr, NATIVE: tl.constexpr, GROUP: tl.constexpr, HALF: tl.constexpr,
    TO: tl.constexpr,
):  # fmt: skip
    """Return ``(q - zero) * scale`` rounded once to ``TO``. numbers: q - 8, of the inputs from ``k`` on.

    ``NATIVE``: numbers and scales are bfloat16, whose product is rounded as that of single precision would be.
    """
    if GROUP % HALF == 0:
        at = tl.minimum(k // GROUP, groups - 1) * outs + n[:, None]
    else:
        at = tl.minimum((k + tl.arange(0, HALF)) // GROUP, groups - 1)[None, :] * outs + n[:, None]
    scale = tl.load(scales + at)
    if not NATIVE:
        scale = scale.to(tl.float32)
    if HAS_ZEROS:
        numbers = numbers - (tl.load(zeros + at).to(tl.float32) - MIDDLE).to(numbers.dtype)
    return (numbers * scale).to(TO)


@triton.jit(do_not_specialize=["rows"])
def _int4_product(
    x, packed, scales, zeros, a, y, lora_a_out, mixtures, weights, range_table,
    rows, outs, depth, groups, lora_outs, rank,
    HAS_LORA: tl.constexpr, HAS_ZEROS: tl.constexpr, MIDDLE: tl.constexpr, ASM: tl.constexpr, NATIVE: tl.constexpr,
    GROUP: tl.constexpr, HALF: tl.constexpr, EVEN_K: tl.constexpr, ROW_TILE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, LORA_BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Each program has a tile of the base's product, or of the A product: those come last."""
    program = tl.program_id(0)
    row_tiles = tl.cdiv(rows, BLOCK_M)
    base_tiles = row_tiles * tl.cdiv(outs, BLOCK_N)
    if program < base_tiles:
        first_n = program // row_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
        m = program % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
        # Past the ends they wrap around, and are masked when the result is stored.
        n = first_n % outs
        half = tl.arange(0, HALF)
        width = tl.cdiv(depth, 2 * HALF) * HALF
        packed_at = packed + n[:, None].to(tl.int64) * width + half[None, :]
        x_at = x + (m % rows)[None, :].to(tl.int64) * depth + half[:, None]
        to: tl.constexpr = x.dtype.element_ty
        acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        for k in range(0, depth, 2 * HALF):
            low, high = _unpack(tl.load(packed_at), MIDDLE, ASM)
            if EVEN_K:
                x_low = tl.load(x_at)
                x_high = tl.load(x_at + HALF)
            else:
                x_low = tl.load(x_at, mask=half[:, None] < depth - k, other=0.0)
                x_high = tl.load(x_at + HALF, mask=half[:, None] < depth - k - HALF, other=0.0)
            w = _scaled(low, scales, zeros, n, k, outs, groups, HAS_ZEROS, MIDDLE, NATIVE, GROUP, HALF, to)
            acc = tl.dot(w, x_low, acc, input_precision="ieee")
            w = _scaled(high, scales, zeros, n, k + HALF, outs, groups, HAS_ZEROS, MIDDLE, NATIVE, GROUP, HALF, to)
            acc = tl.dot(w, x_high, acc, input_precision="ieee")
            packed_at += HALF
            x_at += 2 * HALF
        at = y + m[None, :].to(tl.int64) * outs + first_n[:, None]
        tl.store(at, acc.to(y.dtype.element_ty), mask=(m < rows)[None, :] & (first_n < outs)[:, None])
    elif HAS_LORA:
        tile = program - base_tiles
        store_lora_a_tile(
            x, a, lora_a_out, mixtures, weights, range_table,
            tile % row_tiles * BLOCK_M, tile // row_tiles * LORA_BLOCK_N, rows, depth, lora_outs, rank,
            False, EVEN_K, ROW_TILE, BLOCK_M, LORA_BLOCK_N, HALF,
        )  # fmt: skip


def project_int4(
    x: Tensor,
    w: Int4,
    lora: LoraWeights | None = None,
    rows: AdapterRows | None = None,
    *,
    out_dtype: torch.dtype | None = None,
    tiles: tuple[Tile, ...] = INT4_TILES,
) -> Product:
    """Return ``x @ w.T`` and, where adapters are active, ``x @ a.T`` times the rows' column weights.

    x [rows, in], contiguous. The bits are those of ``project`` with ``w.dequantized(x.dtype)``.
    """
    count, depth = x.shape
    outs = w.shape[0]
    y = torch.empty(count, outs, dtype=out_dtype or x.dtype, device=x.device)
    s = Shrink.of(x, y, lora, rows)
    t, _ = select_tile(count, outs, depth, s.outs, tiles, processors_of(x.device))
    block_n = lora_block_n(s.outs, t.block_n) if s.outs else 32
    row_tiles = -(-count // t.block_m)
    compiled = x.device.type != "cpu"
    _int4_product[(row_tiles * (-(-outs // t.block_n) + -(-s.outs // block_n)),)](
        x, w.packed, w.scales, w.scales if w.zeros is None else w.zeros, s.a, y, s.lora_a_out, s.mixtures, s.weights,
        s.range_table, count, outs, depth, w.scales.shape[0], s.outs, s.rank,
        HAS_LORA=s.outs > 0, HAS_ZEROS=w.zeros is not None, MIDDLE=MIDDLE, ASM=compiled,
        NATIVE=compiled and w.scales.dtype == torch.bfloat16, GROUP=w.group, HALF=HALF, EVEN_K=depth % (2 * HALF) == 0,
        ROW_TILE=ROW_TILE, BLOCK_M=t.block_m, BLOCK_N=t.block_n, LORA_BLOCK_N=block_n,
        num_warps=t.warps, num_stages=t.stages,
    )  # fmt: skip
    return Product(y, s.lora_a_out, lora, rows) if s.outs else Product(y)
