"""Rotary position embedding (Su et al. 2021), in the supported checkpoints' half-split layout, on the CPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from warmeng.kernels.lanes import LANES
from warmeng.kernels.simd import (
    fill,
    fma,
    load_int,
    load_one,
    load_some,
    real,
    store_narrow,
    store_narrow_one,
    store_one,
    store_some,
    total,
    words,
)  # fmt: skip
from warmeng.kernels.threads import Kernel, next_unit, word_of

_ROWS = 4  # of one unit of work


def rotate_heads(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    head_dim: int,
    num_heads: int,
    num_kv_heads: int,
    bias: Tensor | None = None,
    norms: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
) -> None:
    """Add the bias, normalise queries and keys (weights of both, [head_dim]), and rotate them; all in place.

    qkv fp32 [rows, (num_heads + 2 num_kv_heads) * head_dim]; cos, sin [rows, head_dim / 2]; bias: of a row.
    """
    given = [t for t in (qkv, cos, sin, bias, *(norms or ())) if t is not None]
    if any(t.dtype != torch.float32 or not t.is_contiguous() for t in given):
        raise ValueError("rotate_heads takes contiguous tensors of float32")
    q_norm, k_norm = (0, 0) if norms is None else (norms[0].data_ptr(), norms[1].data_ptr())
    _rotate_heads(
        qkv.shape[0], head_dim, num_heads, num_kv_heads, qkv.data_ptr(), cos.data_ptr(), sin.data_ptr(),
        0 if bias is None else bias.data_ptr(), q_norm, k_norm, word_of(eps),
    )  # fmt: skip


@Kernel
def _rotate_heads(data: int) -> None:
    _, _, rows, d, heads, kv_heads, qkv, cos, sin, bias, q_norm, k_norm, eps = words(data, 13)
    half = d // 2
    width = (heads + 2 * kv_heads) * d
    while True:
        first = next_unit(data) * _ROWS
        if first >= rows:
            break
        for row in range(first, min(first + _ROWS, rows)):
            if bias != 0:
                for i in range(0, width, LANES):
                    count = min(width - i, LANES)
                    value = load_some(qkv, row * width + i, count) + load_some(bias, i, count)
                    store_some(qkv, row * width + i, value, count)
            for head in range(heads + kv_heads):
                start = row * width + head * d
                weight = q_norm if head < heads else k_norm
                if weight != 0:
                    squares = fill(np.float32(0))
                    for i in range(0, d, LANES):
                        value = load_some(qkv, start + i, min(d - i, LANES))
                        squares = fma(value, value, squares)
                    factor = fill(np.float32(1) / math.sqrt(total(squares) / np.float32(d) + real(eps)))
                    for i in range(0, d, LANES):
                        count = min(d - i, LANES)
                        value = load_some(qkv, start + i, count) * factor * load_some(weight, i, count)
                        store_some(qkv, start + i, value, count)
                for i in range(0, half, LANES):
                    count = min(half - i, LANES)
                    x, y = load_some(qkv, start + i, count), load_some(qkv, start + half + i, count)
                    c, s = load_some(cos, row * half + i, count), load_some(sin, row * half + i, count)
                    store_some(qkv, start + i, x * c - y * s, count)
                    store_some(qkv, start + half + i, y * c + x * s, count)


def write_cache(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """Write each row's keys and values to its slot, in place.

    k, v fp32 [rows, kv_heads, d], each row's heads one after the other; k_cache [blocks, kv_heads, d, block_size];
    v_cache [blocks, kv_heads, block_size, d], fp32 or bf16, to which numbers are rounded; slots int64 [rows]: block
    times block size plus place.
    """
    rows, kv_heads, d = k.shape
    if k.stride() != v.stride() or k.stride()[1:] != (d, 1) or k.dtype != torch.float32 or v.dtype != torch.float32:
        raise ValueError("write_cache takes keys and values of float32 whose heads follow one another")
    if k_cache.dtype not in _WRITERS or k_cache.dtype != v_cache.dtype:
        raise ValueError("write_cache takes caches of float32 or bfloat16")
    if not (k_cache.is_contiguous() and v_cache.is_contiguous() and slots.is_contiguous()):
        raise ValueError("write_cache takes contiguous caches and slots")
    _WRITERS[k_cache.dtype](
        rows, kv_heads, d, v_cache.shape[2], k.stride(0), k.data_ptr(), v.data_ptr(), k_cache.data_ptr(),
        v_cache.data_ptr(), slots.data_ptr(),
    )  # fmt: skip


@njit(inline="always")
def _write(data: int, put: Any, put_one: Any) -> None:
    _, _, rows, kv_heads, d, block_size, stride, k, v, k_cache, v_cache, slots = words(data, 12)
    while True:
        first = next_unit(data) * _ROWS
        if first >= rows:
            break
        for row in range(first, min(first + _ROWS, rows)):
            slot = load_int(slots, row)
            for head in range(kv_heads):
                start = row * stride + head * d
                block = (slot // block_size * kv_heads + head) * d * block_size
                place = slot % block_size
                for i in range(d):
                    put_one(k_cache, block + i * block_size + place, load_one(k, start + i))
                for i in range(0, d, LANES):
                    count = min(d - i, LANES)
                    put(v_cache, block + place * d + i, load_some(v, start + i, count), count)


@Kernel
def _write_wide(data: int) -> None:
    _write(data, store_some, store_one)


@Kernel
def _write_narrow(data: int) -> None:
    _write(data, store_narrow, store_narrow_one)


_WRITERS = {torch.float32: _write_wide, torch.bfloat16: _write_narrow}


def copy_slots(k_cache: Tensor, v_cache: Tensor, copies: Tensor) -> None:
    """Copy the first slots of blocks to other blocks, one after the other, in place.

    Caches as ``write_cache`` has them; copies int64 [n, 3]: source block, target block, slots.
    """
    for source, target, slots in copies.tolist():
        k_cache[target, :, :, :slots] = k_cache[source, :, :, :slots]
        v_cache[target, :, :slots] = v_cache[source, :, :slots]
