"""Adapters laid out for the CPU's fused projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from warmeng.engine.adapters import Adapter
from warmeng.engine.config import ModelConfig
from warmeng.engine.model import Fused
from warmeng.kernels.lora import CarriedAdapters, CarriedRows, Changes, Lora, Loras

# Sets of adapters whose tables are kept: a step's rows carry one.
_SETS = 64


# The change of each fused projection of one layer; None where the adapter leaves it alone.
Layer = Mapping[Fused, Lora | None]


@dataclass(frozen=True)
class CarriedLayers:
    """What the rows of a batch carry, in every layer."""

    layers: Sequence[Mapping[Fused, Loras | None]]
    carried: CarriedAdapters

    def changes(self, layer: int, name: Fused) -> Changes | None:
        """Return what is added to a product; None where no adapter changes it."""
        loras = self.layers[layer][name]
        return Changes(loras, self.carried) if loras is not None else None


class LaidOutAdapters:
    """The adapters that rows can carry, by hash."""

    def __init__(self) -> None:
        self.layers: dict[str, Sequence[Layer]] = {}
        # Of all layers what several adapters add: the most recent sets are kept.
        self._together = lru_cache(maxsize=_SETS)(self._join)

    def add(self, adapter: Adapter, config: ModelConfig) -> None:
        """Lay an adapter out, unless one of its content is there."""
        if adapter.hash not in self.layers:
            self.layers[adapter.hash] = arrange_adapter(adapter, config)

    def carry(self, rows: int, terms: Mapping[str, CarriedRows]) -> CarriedLayers | None:
        """Return what a batch of so many rows carries. terms: by hash, in the order in which a row's are added.

        Hashes of what is no adapter are passed over.
        """
        hashes = tuple(name for name in terms if name in self.layers)
        if not hashes:
            return None
        layers, ranks = self._together(hashes)
        return CarriedLayers(layers, CarriedAdapters(rows, [terms[name] for name in hashes], ranks))

    def _join(self, hashes: tuple[str, ...]) -> tuple[Sequence[Mapping[Fused, Loras | None]], int]:
        """Return the changes of all layers, and the most ranks of one."""
        joined = []
        for several in zip(*(self.layers[name] for name in hashes), strict=True):
            of = {name: [layer[name] for layer in several] for name in several[0]}
            joined.append({name: Loras(loras) if any(loras) else None for name, loras in of.items()})
        return joined, max((loras.ranks for layer in joined for loras in layer.values() if loras), default=1)


def arrange_adapter(adapter: Adapter, config: ModelConfig) -> Sequence[Layer]:
    """Scale, fuse and arrange an adapter's matrices once, as the decoder multiplies them."""
    query = config.num_heads * config.head_dim
    kv = config.num_kv_heads * config.head_dim
    widths: dict[Fused, tuple[tuple[str, int], ...]] = {
        "qkv": (("q", query), ("k", kv), ("v", kv)),
        "o": (("o", config.hidden_size),),
        "gate_up": (("gate", config.intermediate_size), ("up", config.intermediate_size)),
        "down": (("down", config.hidden_size),),
    }
    layers = []
    for targets in adapter.layers:
        fused: dict[Fused, Lora | None] = {}
        for name, parts in widths.items():
            pairs = [(targets.get(part), width) for part, width in parts]
            fused[name] = Lora(pairs, adapter.scale) if any(pair for pair, _ in pairs) else None
        layers.append(fused)
    return layers
