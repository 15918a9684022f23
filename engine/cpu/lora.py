"""Adapters laid out for the CPU's fused projections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from warmeng.engine.adapters import Adapter
from warmeng.engine.config import ModelConfig
from warmeng.kernels.linear import Lora, Projection


@dataclass(frozen=True)
class AdapterLayer:
    """The change of each fused projection of one layer; None where the adapter leaves it alone."""

    qkv: Lora | None
    o: Lora | None
    gate_up: Lora | None
    down: Lora | None


@dataclass(frozen=True)
class AdapterWeights:
    """One adapter on the device."""

    hash: str
    layers: tuple[AdapterLayer, ...]


def arrange_adapter(
    adapter: Adapter, config: ModelConfig, dtype: torch.dtype, project: Callable[[Tensor], Projection]
) -> AdapterWeights:
    """Scale, fuse and arrange an adapter's matrices once, as the decoder multiplies them."""
    query = config.num_heads * config.head_dim
    kv = config.num_kv_heads * config.head_dim
    widths = {
        "qkv": (("q", query), ("k", kv), ("v", kv)),
        "o": (("o", config.hidden_size),),
        "gate_up": (("gate", config.intermediate_size), ("up", config.intermediate_size)),
        "down": (("down", config.hidden_size),),
    }
    layers = []
    for targets in adapter.layers:
        fused = {
            name: _fuse([(targets.get(part), width) for part, width in parts], adapter.scale, dtype, project)
            for name, parts in widths.items()
        }
        layers.append(AdapterLayer(**fused))
    return AdapterWeights(adapter.hash, tuple(layers))


def _fuse(
    parts: list[tuple[tuple[Tensor, Tensor] | None, int]],
    scale: float,
    dtype: torch.dtype,
    project: Callable[[Tensor], Projection],
) -> Lora | None:
    """Stack (A [r, in], B [out, r]) of the parts of a fused projection into one product; B becomes block-diagonal."""
    present = [pair for pair, _ in parts if pair is not None]
    if not present:
        return None
    a = torch.cat([pair[0] for pair in present]).to(dtype)
    b = torch.zeros(sum(width for _, width in parts), a.shape[0], dtype=dtype)
    row = column = 0
    for pair, width in parts:
        if pair is not None:
            rank = pair[0].shape[0]
            b[row : row + width, column : column + rank] = pair[1] * scale
            column += rank
        row += width
    return Lora(project(a), project(b))
