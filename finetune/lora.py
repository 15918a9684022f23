"""A persona's trainable matrices: float32 masters in one flat tensor, under the names of a PEFT folder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from warmeng.engine.adapter_folder import tensor_name
from warmeng.engine.adapters import TARGETS, target_shapes
from warmeng.engine.config import ModelConfig
from warmeng.finetune.noise import uniform

GROUPS = {"qkv": ("q", "k", "v"), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}  # of one product each


@dataclass(frozen=True)
class Pair:
    """One module's matrices and gradients, views of the flat tensors. B is kept transposed: its products are faster."""

    a: Tensor  # [r, in]
    b_t: Tensor  # [r, out]
    a_grad: Tensor
    b_t_grad: Tensor


class AdapterParameters:
    """All trainable numbers of one persona and their gradients.

    ``flat`` and ``grad`` are float32 [count] on the device of the base; ``pairs`` has the views, by layer and target.
    """

    def __init__(self, config: ModelConfig, targets: tuple[str, ...], rank: int, device: torch.device) -> None:
        self.rank = rank
        self.targets = tuple(t for t in TARGETS if t in targets)
        shapes = target_shapes(config)
        count = config.num_layers * sum(rank * sum(shapes[t]) for t in self.targets)
        self.flat = torch.zeros(count, device=device)
        self.grad = torch.zeros(count, device=device)
        self.pairs: list[dict[str, Pair]] = []
        at = 0
        for _ in range(config.num_layers):
            layer = {}
            for target in self.targets:
                width, height = shapes[target]
                views = []
                for size in (width, height):
                    views += [t[at : at + rank * size].view(rank, size) for t in (self.flat, self.grad)]
                    at += rank * size
                layer[target] = Pair(views[0], views[2], views[1], views[3])
            self.pairs.append(layer)

    def initialise(self, seed: int) -> None:
        """Set A to uniform numbers within 1 / sqrt(in), as PEFT does, keyed by (seed, module), and B to zero."""
        self.flat.zero_()
        for layer, pairs in enumerate(self.pairs):
            for target, pair in pairs.items():
                bound = 1 / math.sqrt(pair.a.shape[1])
                pair.a.copy_(uniform(seed, f"{layer} {target}", tuple(pair.a.shape), bound))

    def tensors(self) -> dict[str, Tensor]:
        """Return copies under the names that PEFT gives them: lora_A [r, in], lora_B [out, r]."""
        found = {}
        for layer, pairs in enumerate(self.pairs):
            for target, pair in pairs.items():
                found[tensor_name(layer, target, "A")] = pair.a.detach().cpu().clone()
                found[tensor_name(layer, target, "B")] = pair.b_t.detach().t().cpu().contiguous()
        return found
