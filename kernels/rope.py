"""Rotary position embedding (Su et al. 2021), in the half-split layout that the supported checkpoints use."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each head of each token. x [tokens, heads, d]; cos, sin [tokens, 1, d / 2]; returns a new tensor."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


def write_cache(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, block: Tensor, offset: Tensor) -> None:
    """Write each token's keys and values to its slot, in place.

    k, v [tokens, kv_heads, d]; k_cache [blocks, kv_heads, d, block_size]; v_cache [blocks, kv_heads, block_size, d];
    block, offset [tokens]: the slot of each token. Several padding tokens may share a slot.
    """
    k_cache[block, :, :, offset] = k
    v_cache[block, :, offset] = v
