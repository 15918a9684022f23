"""Models and adapters of random numbers, for benchmarks: speed depends on shapes, not on what was learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from warmeng.engine.adapters import Adapter, adapter_hash, target_shapes
from warmeng.engine.checkpoint import LayerWeights, Weights, projection_shapes
from warmeng.engine.config import ModelConfig
from warmeng.engine.request import RequestError
from warmeng.engine.settings import AUTO
from warmeng.kernels.linear import Projection
from warmeng.kernels.quantized import Weight, round_weight

_STD = 0.02  # as such models are initialised


class NoTokenizer:
    """Stands in for a tokenizer where there is no text: decodes to nothing."""

    template_hash = hash = ""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """Return an empty text."""
        return b""

    def vocabulary(self) -> list[bytes]:
        """Raise RequestError: this is asked for a constraint, which is about text."""
        raise RequestError("a constraint was given to an engine of random numbers, which has no text: leave it out")

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Raise RequestError: there is no text."""
        raise RequestError("random weights have no tokenizer: give prompts of token ids, as GenerateRequest")


def random_weights(
    config: ModelConfig,
    seed: int,
    dtype: torch.dtype,
    device: torch.device,
    project: Callable[[Weight], Projection],
    kind: str = AUTO,
) -> Weights:
    """Return normal weights with deviation 0.02, norms of one and biases of zero, made on ``device``.

    ``kind``: what the layers' are rounded to, as ``load_weights`` has it.
    """
    generator = torch.Generator(device=device).manual_seed(seed)

    def normal(shape: tuple[int, int]) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device).normal_(0, _STD, generator=generator)

    def layer(name: str) -> Projection:
        weight = normal(shapes[name])
        return project(weight if kind == AUTO else round_weight(weight, kind))

    def ones(size: int) -> Tensor:
        return torch.ones(size, dtype=dtype, device=device)

    shapes = projection_shapes(config)
    embed = normal((config.vocab_size, config.hidden_size))
    layers = tuple(
        LayerWeights(
            attn_norm=ones(config.hidden_size),
            qkv=layer("qkv"),
            qkv_bias=torch.zeros(shapes["qkv"][0], dtype=dtype, device=device) if config.qkv_bias else None,
            q_norm=ones(config.head_dim) if config.qk_norm else None,
            k_norm=ones(config.head_dim) if config.qk_norm else None,
            o=layer("o"),
            mlp_norm=ones(config.hidden_size),
            gate_up=layer("gate_up"),
            down=layer("down"),
        )
        for _ in range(config.num_layers)
    )
    head = project(embed if config.tie_word_embeddings else normal(shapes["head"]))
    return Weights(embed, layers, ones(config.hidden_size), head)


def random_adapter(config: ModelConfig, rank: int, seed: int) -> Adapter:
    """Return an adapter of all linear layers, of normal numbers small enough that outputs stay in range."""
    generator = torch.Generator().manual_seed(seed)
    layers = tuple(
        {
            target: (
                torch.randn(rank, width, generator=generator) * width**-0.5,
                torch.randn(height, rank, generator=generator) * _STD,
            )
            for target, (width, height) in target_shapes(config).items()
        }
        for _ in range(config.num_layers)
    )
    return Adapter(adapter_hash(layers, 1.0), rank, 1.0, layers, Path(f"random-{seed}"), None, is_zero=False)
