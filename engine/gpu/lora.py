"""All adapters on the device: their matrices stacked, layer by layer, as the kernels multiply them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from warmeng.engine.adapters import Adapter
from warmeng.engine.config import ModelConfig
from warmeng.engine.model import Fused
from warmeng.kernels.gpu.lora import RANK_TILE, LoraWeights

PARTS: dict[Fused, tuple[str, ...]] = {
    "qkv": ("q", "k", "v"),
    "o": ("o",),
    "gate_up": ("gate", "up"),
    "down": ("down",),
}


class AdapterBank:
    """The adapters that a runner knows, in the order in which they came.

    ``numbers``: content hash to number; ``columns``: (first, stop) of each number's columns among a part's;
    ``owner``: int32 [R], the number of each column.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.config = config
        self.dtype = dtype
        self.device = device
        self.numbers: dict[str, int] = {}
        self.columns: list[tuple[int, int]] = []
        self.owner = torch.empty(0, dtype=torch.int32, device=device)
        self.layers: list[dict[Fused, LoraWeights]] = []

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
        """Stack an adapter below the others; its rank is padded with zeros to a multiple of ``RANK_TILE``."""
        if adapter.hash in self.numbers:
            return
        padded = -(-adapter.rank // RANK_TILE) * RANK_TILE
        first = self.columns[-1][1] if self.columns else 0
        number = len(self.numbers)
        if not self.layers:
            self.layers = [{} for _ in adapter.layers]
        # Layer by layer, so that one is held twice and not all.
        for index, targets in enumerate(adapter.layers):
            before = self.layers[index]
            for name in PARTS:
                before[name] = self._stacked(before.get(name), targets, name, adapter.scale, padded)
        self.numbers[adapter.hash] = number
        self.columns.append((first, first + padded))
        self.owner = torch.cat([self.owner, self.owner.new_full((padded,), number)])

    def _stacked(
        self,
        before: LoraWeights | None,
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
            a = torch.cat([before.a.view(len(widths), before.rank, depth), a], 1)
            b = torch.cat([before.b, b], 1)
        return LoraWeights(a.reshape(-1, depth), b.contiguous(), widths)
