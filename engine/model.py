"""The decoder: one transformer whose families differ by configuration and whose operations are a backend's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

from warmeng.engine.checkpoint import Weights
from warmeng.engine.config import ModelConfig

Fused = Literal["qkv", "o", "gate_up", "down"]  # the products of a layer
B = TypeVar("B", contravariant=True)  # a backend's batch
# A backend's product, to which adapters' changes may still have to be added.
P = TypeVar("P")


class Ops(Protocol[B, P]):
    """What a backend does to the rows of a step. Hidden states are [rows, hidden]."""

    def embed(self, batch: B) -> Tensor:
        """Return the embeddings of the batch's tokens: the residual stream, which the operations below change."""

    def add_norm(self, product: P | None, residual: Tensor, weight: Tensor) -> Tensor:
        """Add a product to ``residual`` in place and return the normalised sum."""

    def project(self, x: Tensor, layer: int, name: Fused, batch: B) -> P:
        """Multiply with a layer's weight and the changes of the rows' adapters."""

    def attend(self, qkv: P, layer: int, batch: B) -> Tensor:
        """Rotate queries and keys, write keys and values to the cache, attend; returns [rows, heads * head_dim]."""

    def silu_mul(self, gate_up: P) -> Tensor:
        """Return silu(gate) * up, [rows, intermediate]."""

    def steer(self, product: P, residual: Tensor, layer: int, batch: B) -> P:
        """Return a layer's last product with the steering vectors after it added to the rows that carry them.

        Rows that carry bounds get what brings ``residual`` plus the product back to them. ``layer`` counts from 1.
        """

    def add(self, product: P, residual: Tensor) -> Tensor:
        """Return the residual with the last product."""


def forward(weights: Weights, ops: Ops[B, P], batch: B, watch: Callable[[int, Tensor], None] | None = None) -> Tensor:
    """Return the hidden states before the final norm, [rows, hidden], writing keys and values on the way.

    ``watch`` is shown the hidden states after each layer, by its number from 1, and the embeddings as those of 0; they
    change after it returns.
    """
    residual = ops.embed(batch)
    product: P | None = None
    for index, layer in enumerate(weights.layers):
        x = ops.add_norm(product, residual, layer.attn_norm)
        if watch is not None:
            watch(index, residual)
        x = ops.attend(ops.project(x, index, "qkv", batch), index, batch)
        x = ops.add_norm(ops.project(x, index, "o", batch), residual, layer.mlp_norm)
        x = ops.silu_mul(ops.project(x, index, "gate_up", batch))
        product = ops.steer(ops.project(x, index, "down", batch), residual, index + 1, batch)
    assert product is not None, "a decoder has at least one layer"
    hidden = ops.add(product, residual)
    if watch is not None:
        watch(len(weights.layers), hidden)
    return hidden


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


def rotation(config: ModelConfig, max_seq_len: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of each position's angles, float32 [max_seq_len, head_dim / 2]."""
    angles = torch.arange(max_seq_len).float()[:, None] * rope_frequencies(config)
    return angles.cos(), angles.sin()
