"""Quantised checkpoints made from plain ones, packed number by number from the formats' descriptions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]
# AWQ's words hold these outputs of eight, from the lowest nibble on.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
BY_TOKEN = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True, "symmetric": True}


def word(nibbles: list[int]) -> int:
    """Return eight numbers of 4 bits in an int32, the first lowest."""
    value = sum(number << 4 * place for place, number in enumerate(nibbles))
    return value - 2**32 if value >= 2**31 else value


def words(rows: list[list[int]], order: tuple[int, ...] = tuple(range(8))) -> Tensor:
    """Return rows of numbers packed eight by eight, the last word filled with zeros."""
    packed = []
    for row in rows:
        full = row + [0] * (-len(row) % 8)
        packed.append([word([full[at + place] for place in order]) for at in range(0, len(full), 8)])
    return torch.tensor(packed, dtype=torch.int64).to(torch.int32)


def drawn(out: int, width: int, group: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return numbers [out, width] of 4 bits, scales [groups, out] in float16 and zeros [groups, out]."""
    generator = torch.Generator().manual_seed(seed)
    groups = -(-width // group)
    numbers = torch.randint(0, 16, (out, width), generator=generator)
    scales = (torch.rand(groups, out, generator=generator) * 0.02 + 0.001).to(torch.float16)
    return numbers, scales, torch.randint(1, 16, (groups, out), generator=generator)


def meaning(numbers: Tensor, scales: Tensor, zeros: Tensor, group: int) -> Tensor:
    """Return ``(q - zero) * scale`` of each number, in double precision, rounded to the type of the scales."""
    found = torch.empty(numbers.shape, dtype=torch.float64)
    for o in range(len(numbers)):
        for i in range(numbers.shape[1]):
            g = i // group
            found[o, i] = (int(numbers[o, i]) - int(zeros[g, o])) * float(scales[g, o])
    return found.to(scales.dtype)


def awq_tensors(numbers: Tensor, scales: Tensor, zeros: Tensor) -> Tensors:
    """Return a layer as AWQ's gemm layout has it."""
    return {
        "qweight": words(numbers.t().tolist(), AWQ_ORDER),
        "qzeros": words(zeros.tolist(), AWQ_ORDER),
        "scales": scales,
    }


def gptq_tensors(numbers: Tensor, scales: Tensor, zeros: Tensor, group: int, shift: int = 1) -> Tensors:
    """Return a layer as GPTQ has it; ``shift`` is what zeros are stored less: 1 in its first version, then 0."""
    return {
        "qweight": words(numbers.tolist()).t().contiguous(),
        "qzeros": words((zeros - shift).tolist()),
        "scales": scales,
        "g_idx": torch.arange(numbers.shape[1], dtype=torch.int32) // group,
    }


def compressed(kept: str, weights: dict[str, Any], inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a ``quantization_config`` of compressed-tensors."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": kept,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "global_compression_ratio": 1.5,
        "config_groups": {"group_0": group},
    }


FP8 = compressed(
    "float-quantized",
    {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False},
    BY_TOKEN,
)
FP8_STATIC = compressed(
    "float-quantized",
    {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False},
    {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False},
)
INT8 = compressed(
    "int-quantized",
    {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False},
    BY_TOKEN | {"type": "int"},
)


def w4a16(group: int | None, symmetric: bool) -> dict[str, Any]:
    """Return the configuration of packed weights of 4 bits."""
    strategy = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    weights = {"num_bits": 4, "type": "int", "symmetric": symmetric, "dynamic": False, "actorder": "weight", **strategy}
    return compressed("pack-quantized", weights)


def gptq(group: int = -1, sym: bool = True, **more: Any) -> dict[str, Any]:
    """Return the configuration of a GPTQ checkpoint."""
    return {"quant_method": "gptq", "bits": 4, "group_size": group, "sym": sym, "desc_act": False} | more


def awq(group: int = -1, **more: Any) -> dict[str, Any]:
    """Return the configuration of an AWQ checkpoint."""
    return {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True} | more


def quantized(
    plain: Path, folder: Path, about: dict[str, Any], layer: Callable[[Tensor], tuple[Tensors, Tensor]]
) -> tuple[Path, Path]:
    """Write a checkpoint whose layers are quantised, and its twin of the dequantised weights in float32.

    ``layer`` returns a weight's tensors, by the ends of their names, and what they mean.
    """
    shutil.copytree(plain, folder / "quantized")
    shutil.copytree(plain, folder / "twin")
    tensors = load_file(plain / "model.safetensors")
    twin: Tensors = {}
    stored: Tensors = {}
    for name, value in tensors.items():
        twin[name] = stored[name] = value.clone()
        if name.endswith("_proj.weight"):
            module = name.removesuffix(".weight")
            del stored[name]
            parts, meant = layer(value.float())
            stored |= {f"{module}.{end}": part.contiguous() for end, part in parts.items()}
            twin[name] = meant.float()
    save_file(stored, folder / "quantized" / "model.safetensors", metadata={"format": "pt"})
    save_file(twin, folder / "twin" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((plain / "config.json").read_text())
    (folder / "quantized" / "config.json").write_text(json.dumps(config | {"quantization_config": about}))
    return folder / "quantized", folder / "twin"


def library(about: dict[str, Any]) -> tuple[Any, Any]:
    """Return compressed-tensors' own compressor of a configuration, and its scheme."""
    compressors = pytest.importorskip("compressed_tensors.compressors")
    config = pytest.importorskip("compressed_tensors.quantization").QuantizationConfig(**deepcopy(about))
    return compressors.BaseCompressor.load_from_registry(config.format), config.config_groups["group_0"]


def tiny(plain: Path, folder: Path, about: dict[str, Any]) -> tuple[Path, Path]:
    """Write a tiny quantised model, and its twin of the dequantised weights."""

    def layer(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        out, width = weight.shape
        if about["quant_method"] == "compressed-tensors":
            compressor, scheme = library(about)
            group = scheme.weights.group_size or width
            by = weight.view(out, -1, group).abs().amax(2)
            bits = {"float-quantized": 448.0, "int-quantized": 127.0}.get(about["format"], 7.5)
            state = {"weight": weight, "weight_scale": by / bits}
            if about is FP8_STATIC:
                state["weight_scale"] = state["weight_scale"].amax().view(1)
            stored = compressor.compress(state, scheme)
            meant = compressor.decompress(stored, scheme)["weight"]
            extra = {"input_scale": torch.tensor([0.02])} if about is FP8_STATIC else {}
            return {k: v for k, v in stored.items() if v is not None} | extra, meant
        numbers, scales, zeros = drawn(out, width, 16)
        tensors = (
            awq_tensors(numbers, scales, zeros)
            if about["quant_method"] == "awq"
            else gptq_tensors(numbers, scales, zeros, 16)
        )
        return tensors, meaning(numbers, scales, zeros, 16)

    return quantized(plain, folder, about, layer)


SCHEMES = {
    "fp8": FP8,
    "fp8 static": FP8_STATIC,
    "int8": INT8,
    "w4a16": w4a16(16, True),
    "awq": awq(16),
    "gptq": gptq(16, False),
}
