"""Small sound folders to damage: a base of two layers with its tokenizer, an adapter, and headers written by hand."""

from __future__ import annotations

import json
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from warmeng.engine.adapters import TARGETS, target_shapes
from warmeng.engine.checkpoint import expected_shapes
from warmeng.engine.config import ModelConfig, read_config

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 288, "hidden_size": 12,
    "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 4,
    "hidden_act": "silu", "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "eos_token_id": 2,
    "bos_token_id": 1, "tie_word_embeddings": True, "torch_dtype": "float32",
}  # fmt: skip
ADAPTER: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "bias": "none",
    "target_modules": [f"{target}_proj" for target in TARGETS], "base_model_name_or_path": "base",
}  # fmt: skip


@cache
def small_config() -> ModelConfig:
    """Return the sound base's configuration."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        return read_config(Path(folder))


def write_model(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Write a sound base; ``changes`` go into its config.json after the tensors were made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_tokenizer(folder)
    generator = torch.Generator().manual_seed(seed)
    shapes = expected_shapes(read_config(folder))
    tensors = {name: torch.randn(shape, generator=generator).mul(0.15).to(dtype) for name, shape in shapes.items()}
    (folder / "model.safetensors").write_bytes(save(tensors))
    if changes:
        (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return folder


def write_tokenizer(folder: Path, template: str | None = TEMPLATE, **settings: Any) -> Path:
    """Write a byte-level tokenizer of three special tokens and 256 bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[1], "eos_token": SPECIAL[2]}
    (folder / "tokenizer_config.json").write_text(json.dumps(named | settings))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def adapter_tensors(config: ModelConfig, rank: int = 2, seed: int = 3) -> dict[str, torch.Tensor]:
    """Return random tensors for every target of a base, by PEFT's names."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config.num_layers):
        for target, (width, height) in target_shapes(config).items():
            block = "self_attn" if target in "qkvo" else "mlp"
            name = f"base_model.model.model.layers.{layer}.{block}.{target}_proj.lora"
            tensors[f"{name}_A.weight"] = torch.randn(rank, width, generator=generator)
            tensors[f"{name}_B.weight"] = torch.randn(height, rank, generator=generator)
    return tensors


def write_adapter(
    folder: Path, config: ModelConfig, tensors: dict[str, torch.Tensor] | None = None, **changes: Any
) -> Path:
    """Write a PEFT folder; ``changes`` go into its adapter_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | changes))
    found = adapter_tensors(config) if tensors is None else tensors
    (folder / "adapter_model.safetensors").write_bytes(save(found))
    return folder


def split(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and data of a safetensors file."""
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def joined(header: object, data: bytes, length: int | None = None) -> bytes:
    """Return a safetensors file; a header that is text is taken as it is, ``length`` is what the file claims."""
    raw = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data
