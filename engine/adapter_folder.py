"""Writing PEFT LoRA folders: the names, the configuration and the files that ``adapters`` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from warmeng.engine.adapters import Adapter

_BLOCKS = {"q": "self_attn", "k": "self_attn", "v": "self_attn", "o": "self_attn"}  # the others are in mlp


def module_name(layer: int, target: str) -> str:
    """Return the name of a target's projection in the base."""
    return f"model.layers.{layer}.{_BLOCKS.get(target, 'mlp')}.{target}_proj"


def tensor_name(layer: int, target: str, side: str) -> str:
    """Return the name that PEFT gives a target's matrix; ``side`` is "A" ``[r, in]`` or "B" ``[out, r]``."""
    return f"base_model.model.{module_name(layer, target)}.lora_{side}.weight"


def adapter_config(rank: int, alpha: float, dropout: float, modules: Sequence[str], base: str | None) -> dict[str, Any]:
    """Return the content of ``adapter_config.json`` of a plain LoRA adapter; ``modules`` are its target modules."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": list(modules),
        "bias": "none",
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def write_adapter(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]
) -> None:
    """Write a PEFT folder with its manifest ``warmeng.json``, whose ``base_hash`` the engine checks.

    ``folder`` must be there. Raises OSError.
    """
    from safetensors.torch import save

    for name, value in (("adapter_config.json", config), ("warmeng.json", manifest)):
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    # Not the library's own writer: its files can be read by their owner alone.
    (folder / "adapter_model.safetensors").write_bytes(save(dict(tensors), metadata={"format": "pt"}))


def save_adapter(folder: Path, adapter: Adapter, manifest: Mapping[str, Any]) -> None:
    """Write an adapter in memory as ``write_adapter`` does; its scale becomes ``lora_alpha`` = scale * r."""
    places = [(layer, target) for layer, pairs in enumerate(adapter.layers) for target in pairs]
    if len(places) == len(adapter.layers) * len(adapter.targets):
        modules = [f"{target}_proj" for target in adapter.targets]
    else:
        modules = [module_name(layer, target) for layer, target in places]
    tensors = {
        tensor_name(layer, target, side): matrix.contiguous()
        for layer, target in places
        for side, matrix in zip("AB", adapter.layers[layer][target], strict=True)
    }
    config = adapter_config(adapter.rank, adapter.scale * adapter.rank, 0.0, modules, adapter.base_name)
    write_adapter(folder, config, tensors, manifest)
