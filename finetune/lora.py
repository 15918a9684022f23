"""A persona's trainable matrices: float32 masters in one flat tensor, and their PEFT folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from warmeng.engine.adapters import TARGETS, target_shapes
from warmeng.engine.config import ModelConfig
from warmeng.finetune.noise import uniform

GROUPS = {"qkv": ("q", "k", "v"), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}  # of one product each
_BLOCKS = {"q": "self_attn", "k": "self_attn", "v": "self_attn", "o": "self_attn"}  # the others are in mlp


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
                name = f"base_model.model.model.layers.{layer}.{_BLOCKS.get(target, 'mlp')}.{target}_proj"
                found[f"{name}.lora_A.weight"] = pair.a.detach().cpu().clone()
                found[f"{name}.lora_B.weight"] = pair.b_t.detach().t().cpu().contiguous()
        return found


def adapter_config(
    rank: int, alpha: float, dropout: float, targets: tuple[str, ...], base: str | None
) -> dict[str, Any]:
    """Return the content of ``adapter_config.json`` of a plain LoRA adapter."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": [f"{target}_proj" for target in targets],
        "bias": "none",
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def write_adapter(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]
) -> None:
    """Write a PEFT folder with its manifest ``warmeng.json``, whose ``base_hash`` the engine checks."""
    from safetensors.torch import save

    for name, value in (("adapter_config.json", config), ("warmeng.json", manifest)):
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    # Not the library's own writer: its files can be read by their owner alone.
    (folder / "adapter_model.safetensors").write_bytes(save(dict(tensors), metadata={"format": "pt"}))
