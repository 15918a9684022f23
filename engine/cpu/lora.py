"""Adapters laid out for the CPU's fused projections."""

from __future__ import annotations

from dataclasses import dataclass

from warmeng.engine.adapters import Adapter
from warmeng.engine.config import ModelConfig
from warmeng.kernels.lora import Lora


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


def arrange_adapter(adapter: Adapter, config: ModelConfig) -> AdapterWeights:
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
        fused = {}
        for name, parts in widths.items():
            pairs = [(targets.get(part), width) for part, width in parts]
            fused[name] = Lora(pairs, adapter.scale) if any(pair for pair, _ in pairs) else None
        layers.append(AdapterLayer(**fused))
    return AdapterWeights(adapter.hash, tuple(layers))
