"""All adapters on the device: their matrices stacked, layer by layer, as the kernels multiply them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from warmeng.engine.adapters import Adapter
from warmeng.engine.config import ModelConfig
from warmeng.engine.mixture import BASE, Mixture
from warmeng.engine.model import Fused
from warmeng.engine.vectors import Vector
from warmeng.kernels.gpu.lora import NO_COLUMNS, LoraWeights
from warmeng.kernels.sizes import RANK_TILE

PARTS: dict[Fused, tuple[str, ...]] = {
    "qkv": ("q", "k", "v"),
    "o": ("o",),
    "gate_up": ("gate", "up"),
    "down": ("down",),
}


class AdapterBank:
    """The adapters that a runner knows, ascending by content hash, and the mixtures of them that rows may carry.

    The order of the columns is that of a mixture's sum: it must not depend on what else is loaded, or when.

    Steering vectors are terms of mixtures, too, in a table of their own.

    ``columns``: content hash to (first, stop) of an adapter's columns among a part's. ``mixtures``: key to row of
    ``weights``, fp32 [mixtures, R], and of ``spans``, see ``AdapterRows`` and ``column_ranges``; row 0 is the base.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.config = config
        self.dtype = dtype
        self.device = device
        self.columns: dict[str, tuple[int, int]] = {}
        self.mixtures: dict[str, int] = {}
        self.weights = torch.empty(0, 0, dtype=torch.float32, device=device)
        self.spans: list[tuple[int, int]] = []
        self.vectors: dict[str, Vector] = {}
        # By layer, ascending by content hash: the vector, the coefficient of each mixture [mixtures].
        self._steering: dict[int, list[tuple[Vector, Tensor]]] = {}
        self._terms: list[Mixture] = []
        self.layers: list[dict[Fused, LoraWeights]] = []
        self.add_mixture(BASE)

    @property
    def num_bytes(self) -> int:
        """Bytes of all matrices."""
        return sum(t.nbytes for layer in self.layers for lora in layer.values() for t in (lora.a, lora.b))

    def widths(self, name: Fused) -> tuple[int, ...]:
        """Return the outputs of each part of a fused product."""
        c = self.config
        q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        widths: dict[Fused, tuple[int, ...]] = {
            "qkv": (q, kv, kv),
            "o": (c.hidden_size,),
            "gate_up": (c.intermediate_size, c.intermediate_size),
            "down": (c.hidden_size,),
        }
        return widths[name]

    def add(self, adapter: Adapter) -> None:
        """Stack an adapter among the others; its rank is padded with zeros to a multiple of ``RANK_TILE``."""
        if adapter.hash in self.columns:
            return
        padded = -(-adapter.rank // RANK_TILE) * RANK_TILE
        widths = {name: stop - first for name, (first, stop) in self.columns.items()} | {adapter.hash: padded}
        names = sorted(widths)
        stops = np.cumsum([widths[name] for name in names]).tolist()
        self.columns = {name: (stop - widths[name], stop) for name, stop in zip(names, stops, strict=True)}
        first = self.columns[adapter.hash][0]
        if not self.layers:
            self.layers = [{} for _ in adapter.layers]
        # Layer by layer, so that one is held twice and not all.
        for index, targets in enumerate(adapter.layers):
            before = self.layers[index]
            for name in PARTS:
                before[name] = self._stacked(before.get(name), first, targets, name, adapter.scale, padded)
        self._tabulate()

    def add_vector(self, vector: Vector) -> None:
        """Keep a steering vector; mixtures that have it come after it."""
        self.vectors[vector.hash] = vector.to(self.device)

    def steering(self, layer: int) -> list[tuple[Vector, Tensor]]:
        """Return the vectors after a layer, with the coefficient of each mixture."""
        return self._steering.get(layer, [])

    def add_mixture(self, mixture: Mixture) -> None:
        """Give a mixture of stacked adapters its row of the tables."""
        if mixture.key not in self.mixtures:
            self.mixtures[mixture.key] = len(self._terms)
            self._terms.append(mixture)
            self._tabulate()

    def _tabulate(self) -> None:
        """Write the tables anew: every column moves where an adapter comes before it."""
        rank = max((stop for _, stop in self.columns.values()), default=0)
        weights = np.zeros((len(self._terms), rank), dtype=np.float32)
        self.spans = []
        for row, mixture in zip(weights, self._terms, strict=True):
            ranges = []
            for name, coefficient in mixture.terms:
                if name in self.columns:
                    ranges.append(self.columns[name])
                    row[slice(*ranges[-1])] = coefficient
            self.spans.append((ranges[0][0], ranges[-1][1]) if ranges else NO_COLUMNS)
        self.weights = torch.from_numpy(weights).to(self.device)
        self._steering = {}
        for name, vector in sorted(self.vectors.items()):
            each = torch.tensor([dict(m.terms).get(name, 0.0) for m in self._terms], dtype=torch.float32)
            self._steering.setdefault(vector.layer, []).append((vector, each.to(self.device)))

    def _stacked(
        self,
        before: LoraWeights | None,
        first: int,
        targets: Mapping[str, tuple[Tensor, Tensor]],
        name: Fused,
        scale: float,
        padded: int,
    ) -> LoraWeights:
        widths = self.widths(name)
        depth = {"o": self.config.num_heads * self.config.head_dim, "down": self.config.intermediate_size}.get(
            name, self.config.hidden_size
        )
        a = torch.zeros(len(widths), padded, depth, dtype=self.dtype, device=self.device)
        b = torch.zeros(sum(widths), padded, dtype=self.dtype, device=self.device)
        for part, (target, rows) in enumerate(zip(PARTS[name], torch.split(b, list(widths)), strict=True)):
            if target in targets:
                down, up = targets[target]
                a[part, : len(down)] = down.to(self.dtype)
                rows[:, : up.shape[1]] = (up * scale).to(self.dtype)
        if before is not None:
            others = before.a.view(len(widths), before.rank, depth)
            a = torch.cat([others[:, :first], a, others[:, first:]], 1)
            b = torch.cat([before.b[:, :first], b, before.b[:, first:]], 1)
        return LoraWeights(a.reshape(-1, depth), b.contiguous(), widths)
