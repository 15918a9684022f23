"""A process that loads a checkpoint and tells the most memory that this took. Run as a script it prints JSON.

``make FOLDER`` writes the checkpoint; ``load FOLDER DEVICE KIND DTYPE THREADS`` loads it. DEVICE is cpu, or meta:
weights are read as for a graphics card, which takes them and leaves nothing in this process's memory.
"""

from __future__ import annotations

import gc
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from warmeng.common.memory import give_back
from warmeng.engine.checkpoint import expected_shapes, load_weights, projection_shapes
from warmeng.engine.config import read_config
from warmeng.engine.gpu.ops import DeviceWeight
from warmeng.engine.plan import cpu_weight_bytes
from warmeng.kernels.arrangement import arrange
from warmeng.kernels.quantized import round_weight
from warmeng.kernels.quantized_linear import project

SHARDS = 4
# Shares of a file as those of an 8B model's: a matrix has 2 % of it, the embedding an eighth.
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 16000, "hidden_size": 512,
    "intermediate_size": 2048, "num_hidden_layers": 60, "num_attention_heads": 8, "num_key_value_heads": 2,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def make(folder: Path) -> dict[str, int]:
    """Write random weights in bfloat16 as ``SHARDS`` files; return the bytes of the largest and of all."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shapes = expected_shapes(read_config(folder))
    each = sum(math.prod(shape) for shape in shapes.values()) / SHARDS
    generator = torch.Generator().manual_seed(0)
    parts: list[dict[str, torch.Tensor]] = [{}]
    for name, shape in shapes.items():
        if sum(w.numel() for w in parts[-1].values()) > each:
            parts.append({})
        parts[-1][name] = (torch.rand(shape, generator=generator) * 0.04 + 0.01).to(torch.bfloat16)
    placed: dict[str, str] = {}
    for k, part in enumerate(parts, start=1):
        file = f"model-{k:05}-of-{len(parts):05}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    return {"shards": len(sizes), "shard": max(sizes), "total": sum(sizes)}


def resident(name: str) -> int:
    """Return bytes of this process: VmRSS now, VmHWM at most so far; pages of files that are mapped count."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) * 1024


def load(folder: Path, device: str, kind: str, dtype: str, threads: int) -> dict[str, Any]:
    """Load the checkpoint; return bytes above those before, at most and at the end, and what weights should take."""
    torch.set_num_threads(threads)
    config, products = read_config(folder), getattr(torch, dtype)
    # What a process makes once is not the weights'.
    arrangement = arrange(projection_shapes(config).values(), products, fast=False)
    if kind != "auto":
        round_weight(torch.ones(64, 128, device=device), kind)
    gc.collect()
    give_back()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    if device == "cpu":
        weights = load_weights(folder, config, torch.float32, device, partial(project, arrangement), kind)
        expected = cpu_weight_bytes(config, "bfloat16" if kind == "auto" else kind, products == torch.bfloat16)
    else:
        weights, expected = load_weights(folder, config, torch.bfloat16, device, DeviceWeight, kind), 0
    assert len(weights.layers) == config.num_layers
    return {"peak": resident("VmHWM") - before, "end": resident("VmRSS") - before, "expected": expected}


if __name__ == "__main__":
    what, place, *more = sys.argv[1:]
    print(json.dumps(make(Path(place)) if what == "make" else load(Path(place), *more[:3], int(more[3]))))
