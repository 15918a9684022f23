"""The decoder: one transformer whose families differ by configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from warmeng.engine.batch import Batch
from warmeng.engine.checkpoint import Weights
from warmeng.engine.config import ModelConfig
from warmeng.engine.lora import AdapterLayer, AdapterWeights
from warmeng.kernels.activation import silu_mul
from warmeng.kernels.attention import attention
from warmeng.kernels.linear import LowRank, Projection, RowTiles, add_low_rank, matmul
from warmeng.kernels.norm import add_rms_norm, rms_norm
from warmeng.kernels.rope import rotate, write_cache


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer."""

    k: Tensor  # [blocks, kv_heads, head_dim, block_size]
    v: Tensor  # [blocks, kv_heads, block_size, head_dim]


def rope_frequencies(config: ModelConfig) -> Tensor:
    """Return the rotation per position of each pair of dimensions, float32 [head_dim / 2], radians.

    Single precision, and angles multiplied in it, because the published models were trained so.
    Llama 3.1's scaling is the published one: wavelengths longer than the original context are stretched by ``factor``,
    short ones kept, those between interpolated.
    """
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequency = 1.0 / (config.rope_theta**exponent)
    scaling = config.rope_scaling
    if scaling is None:
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling.factor
    rotations = scaling.original_max_position_embeddings * frequency / (2 * math.pi)
    smooth = (rotations - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = smooth.clamp(0, 1)
    return frequency * smooth + frequency / scaling.factor * (1 - smooth)


class Decoder:
    """Turns a batch into hidden states, writing keys and values on the way."""

    def __init__(self, config: ModelConfig, weights: Weights, tiles: RowTiles, max_seq_len: int) -> None:
        """``tiles`` are the row counts that products may take."""
        self.config = config
        self.weights = weights
        self.tiles = tiles
        angles = torch.arange(max_seq_len).float()[:, None] * rope_frequencies(config)
        self._cos = angles.cos().to(weights.embed.dtype)
        self._sin = angles.sin().to(weights.embed.dtype)

    def forward(self, batch: Batch, cache: list[LayerCache], adapters: Mapping[str, AdapterWeights]) -> Tensor:
        """Return the hidden states before the final norm, [rows, hidden]. ``adapters`` by content hash."""
        cos = self._cos.index_select(0, batch.positions)[:, None]
        sin = self._sin.index_select(0, batch.positions)[:, None]
        residual = self.weights.embed.index_select(0, batch.token_ids)
        active = [(mask, adapters[name]) for name, mask in batch.adapters]
        x = torch.zeros_like(residual)
        for index, (layer, slots) in enumerate(zip(self.weights.layers, cache, strict=True)):
            changes = [(mask, adapter.layers[index]) for mask, adapter in active]
            normed = add_rms_norm(x, residual, layer.attn_norm, self._eps)
            x = self._attend(normed, index, slots, batch, (cos, sin), changes)
            normed = add_rms_norm(x, residual, layer.mlp_norm, self._eps)
            x = self._feed_forward(normed, index, changes)
        return residual.add_(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of chosen rows. hidden [n, hidden], before the final norm; returns [n, vocab]."""
        count = hidden.shape[0]
        padded = torch.nn.functional.pad(hidden, (0, 0, 0, self.tiles.padded(count) - count))
        normed = rms_norm(padded, self.weights.final_norm, self._eps)
        return matmul(normed, self.weights.head, self.tiles)[:count]

    @property
    def _eps(self) -> float:
        return self.config.rms_norm_eps

    def _attend(
        self,
        x: Tensor,
        index: int,
        slots: LayerCache,
        batch: Batch,
        rotation: tuple[Tensor, Tensor],
        changes: list[tuple[Tensor, AdapterLayer]],
    ) -> Tensor:
        c, layer = self.config, self.weights.layers[index]
        cos, sin = rotation
        qkv = self._linear(x, layer.qkv, [(m, a.qkv) for m, a in changes])
        if layer.qkv_bias is not None:
            qkv += layer.qkv_bias
        heads = qkv.view(-1, c.num_heads + 2 * c.num_kv_heads, c.head_dim)
        q, k, v = torch.split(heads, [c.num_heads, c.num_kv_heads, c.num_kv_heads], dim=1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q = rms_norm(q, layer.q_norm, self._eps)
            k = rms_norm(k, layer.k_norm, self._eps)
            rotated_q, rotated_k = rotate(q, cos, sin), rotate(k, cos, sin)
        else:
            rotated = rotate(heads[:, : c.num_heads + c.num_kv_heads], cos, sin)
            rotated_q, rotated_k = rotated[:, : c.num_heads], rotated[:, c.num_heads :]
        write_cache(rotated_k, v, slots.k, slots.v, batch.blocks, batch.offsets)
        out = attention(rotated_q, slots.k, slots.v, batch.attention, c.head_dim**-0.5)
        return self._linear(out, layer.o, [(m, a.o) for m, a in changes])

    def _feed_forward(self, x: Tensor, index: int, changes: list[tuple[Tensor, AdapterLayer]]) -> Tensor:
        layer = self.weights.layers[index]
        gate_up = self._linear(x, layer.gate_up, [(m, a.gate_up) for m, a in changes])
        return self._linear(silu_mul(gate_up), layer.down, [(m, a.down) for m, a in changes])

    def _linear(self, x: Tensor, w: Projection, changes: list[tuple[Tensor, LowRank | None]]) -> Tensor:
        y = matmul(x, w, self.tiles)
        return add_low_rank(y, x, [(mask, change) for mask, change in changes if change is not None], self.tiles)
