"""Root-mean-square normalisation with the residual stream, and the LoRA expand on its way into that stream.

One program normalises one row that it holds whole. With adapters, tiles first add the expand to the residual: a
product on tensor cores needs 16 rows, and the norm is quickest with one. The row kernel then normalises the residual as
it lies there. Either way the norm reads the same rounded numbers in the same layout.

Bytes of a row: ``4 * hidden * itemsize`` (y, the residual read and written, the result written). With adapters
``6 * hidden * itemsize``; the two more come from the L2 cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from warmeng.kernels.gpu.lora import ROW_TILE, Product, lora_expand_plain, lora_expand_tile
from warmeng.kernels.sizes import RANK_TILE


@triton.jit
def _rms_norm(y, residual, weight, out, width, eps, HAS_Y: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    h = tl.load(residual + row * width + column, mask=inside, other=0.0)
    if HAS_Y:
        h = (h.to(tl.float32) + tl.load(y + row * width + column, mask=inside, other=0.0).to(tl.float32)).to(h.dtype)
        tl.store(residual + row * width + column, h, mask=inside)
    h = h.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(h * h, 0) / width + eps)
    normed = h * scale * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, normed.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _add_with_lora(
    y, lora_a_out, b, range_table, residual, rows, width, lora_stride, rank,
    BLOCK_N: tl.constexpr, ROW_TILE: tl.constexpr, RANK_TILE: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    m = tile * ROW_TILE + tl.arange(0, ROW_TILE)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_in, n_in = m < rows, n < width
    first, stop = tl.load(range_table + tile * 2), tl.load(range_table + tile * 2 + 1)
    delta = lora_expand_tile(
        lora_a_out, b, m, n, m_in, n_in, first, stop, 0, lora_stride, rank, ROW_TILE, BLOCK_N, RANK_TILE
    )  # fmt: skip
    at = m[:, None].to(tl.int64) * width + n[None, :]
    mask = m_in[:, None] & n_in[None, :]
    product = tl.load(y + at, mask=mask, other=0.0)
    changed = (product.to(tl.float32) + delta).to(product.dtype)
    h = tl.load(residual + at, mask=mask, other=0.0)
    h = (h.to(tl.float32) + changed.to(tl.float32)).to(h.dtype)
    tl.store(residual + at, h, mask=mask)


def add_rms_norm(product: Product | None, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Add a product, LoRA included, to ``residual`` in place and return the normalised sum.

    residual [rows, hidden], contiguous; weight [hidden]; ``product`` None normalises the residual as it is.
    """
    rows, width = residual.shape
    out = torch.empty_like(residual)
    y = residual if product is None else product.y
    has_y = product is not None
    if product is not None and product.lora_a_out is not None:
        add_with_lora(product, residual)
        has_y = False
    block = triton.next_power_of_2(width)
    warps = min(8, max(1, block // 512))
    # Both variants must round alike, so the compiler may not choose what to fuse.
    _rms_norm[(rows,)](
        y, residual, weight, out, width, eps, HAS_Y=has_y, BLOCK=block, num_warps=warps, enable_fp_fusion=False
    )
    return out


def add_with_lora(product: Product, residual: Tensor) -> None:
    """Add a product, LoRA included, to ``residual`` in place."""
    assert product.lora_a_out is not None
    lora_a_out, b, range_table, lora_stride, rank = product.arguments()
    rows, width = residual.shape
    block = min(64, max(16, triton.next_power_of_2(width)))
    _add_with_lora[(-(-rows // ROW_TILE), -(-width // block))](
        product.y, lora_a_out, b, range_table, residual, rows, width, lora_stride, rank,
        BLOCK_N=block, ROW_TILE=ROW_TILE, RANK_TILE=RANK_TILE, num_warps=4,
    )  # fmt: skip


def add_rms_norm_plain(product: Product | None, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return (the sum, the normalised sum) in float64: the twin, which leaves ``residual`` as it is."""
    h = residual.double()
    if product is not None:
        h = h + product.y.double() + lora_expand_plain(product)
    return h, h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps) * weight.double()
