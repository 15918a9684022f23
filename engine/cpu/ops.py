"""The decoder's operations on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from warmeng.engine.checkpoint import Weights
from warmeng.engine.config import ModelConfig
from warmeng.engine.cpu.batch import Batch
from warmeng.engine.model import Fused
from warmeng.engine.vectors import Vector
from warmeng.kernels.activation import silu_mul
from warmeng.kernels.along import along
from warmeng.kernels.attention import attention
from warmeng.kernels.linear import AdaptedProjection
from warmeng.kernels.norm import add_rms_norm
from warmeng.kernels.quantized import through_fp8
from warmeng.kernels.rope import copy_slots, rotate_heads, write_cache


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer."""

    # [blocks, kv_heads, head_dim, block_size].
    k: Tensor
    # [blocks, kv_heads, block_size, head_dim].
    v: Tensor


class CpuOps:
    """See ``Ops``; a product is complete as it is made, its adapters' changes included."""

    def __init__(self, config: ModelConfig, weights: Weights, cache: list[LayerCache], kv_fp8: bool = False) -> None:
        """``kv_fp8``: keys and values are rounded to fp8, as a GPU keeps them; here they take as much memory as
        others.
        """
        self.config = config
        self.weights = weights
        self.cache = cache
        self.kv_fp8 = kv_fp8
        self.vectors: dict[str, Vector] = {}

    def embed(self, batch: Batch) -> Tensor:
        """Return the embeddings of the batch's tokens."""
        return self.weights.embed.index_select(0, batch.token_ids)

    def add_norm(self, product: Tensor | None, residual: Tensor, weight: Tensor) -> Tensor:
        """Add a product to ``residual`` in place and return the normalised sum."""
        return add_rms_norm(product, residual, weight, self.config.rms_norm_eps)

    def project(self, x: Tensor, layer: int, name: Fused, batch: Batch) -> Tensor:
        """Multiply with a layer's weight and add the changes of the rows' adapters."""
        w: AdaptedProjection = getattr(self.weights.layers[layer], name)
        return w.multiply(x, batch.adapters.changes(layer, name) if batch.adapters is not None else None)

    def attend(self, qkv: Tensor, layer: int, batch: Batch) -> Tensor:
        """Rotate queries and keys, write keys and values to the cache, copy what is shared, attend."""
        c, w, slots = self.config, self.weights.layers[layer], self.cache[layer]
        norms = None if w.q_norm is None or w.k_norm is None else (w.q_norm, w.k_norm)
        rotate_heads(
            qkv, batch.cos, batch.sin, c.head_dim, c.num_heads, c.num_kv_heads, w.qkv_bias, norms, c.rms_norm_eps
        )
        heads = qkv.view(-1, c.num_heads + 2 * c.num_kv_heads, c.head_dim)
        q, k, v = torch.split(heads, [c.num_heads, c.num_kv_heads, c.num_kv_heads], dim=1)
        if self.kv_fp8:
            k, v = through_fp8(k), through_fp8(v)
        write_cache(k, v, slots.k, slots.v, batch.slots)
        if len(batch.copies):
            copy_slots(slots.k, slots.v, batch.copies)
        return attention(q, slots.k, slots.v, batch.attention, c.head_dim**-0.5)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) * up."""
        return silu_mul(gate_up)

    def steer(self, product: Tensor, residual: Tensor, layer: int, batch: Batch) -> Tensor:
        """Add the vectors after a layer to its last product, then what bounds need, in place."""
        terms = [(self.vectors[name], rows) for name, rows in batch.coefficients.items() if name in self.vectors]
        here = [(vector, rows) for vector, rows in terms if vector.layer == layer]
        for vector, rows in here:
            if vector.bound is None:
                # Two operations: fused into one, the last bit would depend on where a row lies.
                product.add_(rows * vector.values)
        for vector, rows in here:
            if vector.bound is not None:
                excess = (along(residual + product, vector.unit) - vector.bound).clamp_(min=0.0)
                product.sub_(rows * excess[:, None] * vector.unit)
        return product

    def add(self, product: Tensor, residual: Tensor) -> Tensor:
        """Return the residual with the last product."""
        return residual.add_(product)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of chosen rows. hidden [n, hidden], before the final norm; returns [n, vocab]."""
        normed = add_rms_norm(None, hidden, self.weights.final_norm, self.config.rms_norm_eps)
        return self.weights.head.multiply(normed)
