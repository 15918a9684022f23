"""The decoder's operations on a CUDA device, or in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from warmeng.engine.checkpoint import Weights
from warmeng.engine.config import ModelConfig
from warmeng.engine.gpu.batch import Batch
from warmeng.engine.gpu.lora import AdapterBank
from warmeng.engine.model import Fused, rotation
from warmeng.kernels.gpu.activation import silu_mul
from warmeng.kernels.gpu.along import along
from warmeng.kernels.gpu.attention import Tiling, attention
from warmeng.kernels.gpu.lora import Product
from warmeng.kernels.gpu.matmul import lora_shrink, project
from warmeng.kernels.gpu.norm import add_rms_norm, add_with_lora
from warmeng.kernels.gpu.rope import Heads, rotate_and_write
from warmeng.kernels.gpu.tiles import Tile
from warmeng.kernels.quantized import PLAIN, Weight, kind_of


class DeviceWeight:
    """A weight [out, in] that kernels read where it lies; nothing is arranged or copied."""

    def __init__(self, w: Weight) -> None:
        self.w = w
        self.shape = (w.shape[0], w.shape[1])
        self.kind = kind_of(w)

    def multiply(self, x: Tensor, add_to: Tensor | None = None) -> Tensor:
        """Return ``x @ w.T`` by the device's library, plus ``add_to`` where it is given; plain weights alone."""
        assert isinstance(self.w, Tensor), f"the library has no product for {self.kind}"
        y = torch.mm(x, self.w.t())
        return y if add_to is None else y.add_(add_to)


class GpuOps:
    """See ``Ops``. With adapters a product is not complete: the kernel that reads it adds the LoRA expand."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        bank: AdapterBank,
        cache: list[tuple[Tensor, Tensor]],
        tiles: Mapping[str, tuple[Tile, ...]],
        tiling: Tiling,
        max_seq_len: int,
        fast: bool,
    ) -> None:
        """``cache``: keys and values of each layer, [blocks, kv_heads, block_size, head_dim]. ``tiles``: by the kind of
        weight. ``fast``: products of plain weights are the library's, whose order of summation depends on the number
        of rows.
        """
        self.config = config
        self.weights = weights
        self.bank = bank
        self.cache = cache
        self.tiles = tiles
        self.tiling = tiling
        self.fast = fast
        self.heads = Heads(config.num_heads, config.num_kv_heads, config.head_dim)
        self._rotation = tuple(table.to(weights.embed.device) for table in rotation(config, max_seq_len))

    def embed(self, batch: Batch) -> Tensor:
        """Return the embeddings of the batch's tokens."""
        return torch.nn.functional.embedding(batch.token_ids, self.weights.embed)

    def add_norm(self, product: Product | None, residual: Tensor, weight: Tensor) -> Tensor:
        """Add a product to ``residual`` in place and return the normalised sum."""
        return add_rms_norm(product, residual, weight, self.config.rms_norm_eps)

    def project(self, x: Tensor, layer: int, name: Fused, batch: Batch) -> Product:
        """Multiply with a layer's weight; with adapters in the batch, the same launch does the LoRA shrink."""
        weight: DeviceWeight = getattr(self.weights.layers[layer], name)
        lora = self.bank.layers[layer][name] if batch.adapters is not None and self.bank.layers else None
        if not self.fast or weight.kind != PLAIN:
            return project(x, weight.w, lora, batch.adapters, tiles=self.tiles[weight.kind])
        y = weight.multiply(x)
        if lora is None:
            return Product(y)
        assert batch.adapters is not None
        return Product(y, lora_shrink(x, lora, batch.adapters), lora, batch.adapters)

    def attend(self, qkv: Product, layer: int, batch: Batch) -> Tensor:
        """Rotate queries and keys, write keys and values to the cache, attend."""
        w, (k_cache, v_cache) = self.weights.layers[layer], self.cache[layer]
        norms = (w.q_norm, w.k_norm) if w.q_norm is not None and w.k_norm is not None else None
        q = rotate_and_write(
            qkv, self.heads, w.qkv_bias, norms, self.config.rms_norm_eps, (self._rotation[0], self._rotation[1]),
            batch.positions, batch.slot_mapping, k_cache, v_cache,
        )  # fmt: skip
        scale = self.config.head_dim**-0.5
        return attention(q, k_cache, v_cache, batch.plan, batch.context_lens, scale, self.tiling)

    def silu_mul(self, gate_up: Product) -> Tensor:
        """Return silu(gate) * up."""
        return silu_mul(gate_up)

    def steer(self, product: Product, residual: Tensor, layer: int, batch: Batch) -> Product:
        """Add the vectors after a layer to ``y`` of its last product, then what bounds need, in place.

        A bound asks for the complete sum, so where the layer has one the LoRA expand is added first.
        """
        if batch.adapters is None:
            return product
        here = [
            (vector, coefficients.index_select(0, batch.adapters.mixtures)[:, None])
            for vector, coefficients in self.bank.steering(layer)
        ]
        for vector, rows in here:
            if vector.bound is None:
                product.y.add_(rows * vector.values)
        for vector, rows in here:
            if vector.bound is not None:
                product = _complete(product)
                excess = (along(residual + product.y, vector.unit) - vector.bound).clamp_(min=0.0)
                product.y.sub_(rows * excess[:, None] * vector.unit)
        return product

    def add(self, product: Product, residual: Tensor) -> Tensor:
        """Return the residual with the last product."""
        if product.lora_a_out is None:
            return residual.add_(product.y)
        add_with_lora(product, residual)
        return residual

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of chosen rows in single precision. hidden [n, hidden], before the final norm."""
        head = self.weights.head
        assert isinstance(head, DeviceWeight)
        normed = add_rms_norm(None, hidden, self.weights.final_norm, self.config.rms_norm_eps)
        if self.fast and normed.is_cuda and isinstance(head.w, Tensor):
            return torch.mm(normed, head.w.t(), out_dtype=torch.float32)
        return project(normed, head.w, out_dtype=torch.float32, tiles=self.tiles[head.kind]).y


def _complete(product: Product) -> Product:
    """Return a product that has its LoRA expand in ``y``, rounded as the kernels that would add it round it."""
    if product.lora_a_out is None:
        return product
    whole = torch.zeros_like(product.y)
    add_with_lora(product, whole)
    return Product(whole)
