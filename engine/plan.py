"""How many bytes a base takes in each kind of weights, and what a card has room for beside it: from its shape alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from warmeng.common.errors import UsageError
from warmeng.engine.checkpoint import num_weights, projection_shapes
from warmeng.engine.config import ModelConfig
from warmeng.engine.scheme import Scheme
from warmeng.kernels.quantized import BLOCK, HALF, group_of

PLAIN = "bfloat16"
KINDS = (PLAIN, "int8", "fp8", "int4")
# As the CUDA backend divides what is free: see ``engine.gpu.memory``.
_SHARE, _ADAPTERS = 0.94, 512 * 2**20
# Rows and tokens of its largest step.
_LOGIT_ROWS, _TOKENS = 1024, 4096
_ITEM = 2


@dataclass(frozen=True)
class Plan:
    """Bytes of weights, of the largest step (roughly), and of the cache; ``sequences`` that it holds at once, and with
    keys and values of fp8.
    """

    kind: str
    weights: int
    workspace: int
    cache: int
    sequences: int
    fp8_sequences: int


def plans(config: ModelConfig, memory: int, tokens: int) -> Iterator[Plan]:
    """Yield the plan of each kind for a card of so many bytes, with sequences of ``tokens`` tokens.

    A checkpoint that is quantised has one kind. A plan without room has no sequences.
    """
    for kind in KINDS if config.quantization is None else (config.quantization.kind,):
        cache, one = cache_bytes(config, kind, memory), token_bytes(config) * tokens
        yield Plan(kind, weight_bytes(config, kind), _workspace(config), cache, cache // one, cache * _ITEM // one)


def cache_bytes(config: ModelConfig, kind: str, memory: int) -> int:
    """Return what a card of so many bytes has left for keys and values; 0 where weights leave nothing."""
    return max(0, int((memory - weight_bytes(config, kind)) * _SHARE) - _workspace(config) - _ADAPTERS)


def token_bytes(config: ModelConfig) -> int:
    """Return the bytes of the keys and values of one token, in bfloat16."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * _ITEM


def refuse_too_large(config: ModelConfig, kind: str, free: int, total: int) -> None:
    """Raise ``UsageError`` where a base's weights don't fit into what is free of a card; say which kind would.

    ``kind``: one of ``KINDS``; ``free`` and ``total``: bytes of the card.
    """
    needed = weight_bytes(config, kind)
    if needed <= free:
        return
    taken = f"the weights take {_gib(needed)} as {kind}, and of the card's {_gib(total)} {_gib(free)} are free"
    others = [k for k in KINDS[1:] if config.quantization is None and not is_ruined(config, k)]
    smaller = [k for k in others if weight_bytes(config, k) <= _SHARE * free]
    if smaller:
        do = "take " + " or ".join(f"--weights {k} ({_gib(weight_bytes(config, k))})" for k in smaller)
    elif needed <= total:
        do = "end what else uses the card"
    else:
        do = "take a smaller model, or a larger card: one model is not divided among several"
    raise UsageError(f"{taken}: {do}")


def cpu_weight_bytes(config: ModelConfig, kind: str, half: bool) -> int:
    """Return about the bytes of all weights on a CPU. ``kind``: of the layers, one of ``KINDS``; ``half``: whether
    products take bfloat16.

    The values of fp8 and int4 are kept in float32 too, and the embeddings beside the head that is made of them.
    """
    table = config.vocab_size * config.hidden_size
    inner = 1 if kind == "int8" else 2 if half else 4
    return inner * (num_weights(config) - 2 * table) + (6 if half else 8) * table


def refuse_beyond_memory(weights: int, cache: int, limit: int | None) -> None:
    """Raise ``UsageError`` where weights and cache on a CPU take more than this process may use, in bytes.

    Beyond it the system ends the process without a word.
    """
    if limit is not None and weights + cache > limit:
        raise UsageError(
            f"the weights take about {_gib(weights)} and the cache {_gib(cache)}, and this process may use "
            f"{_gib(limit)} (of the machine, or of its container): take --dtype bfloat16 or --weights int8, a smaller "
            "model, or more memory"
        )


def is_ruined(config: ModelConfig, kind: str) -> bool:
    """Whether rounding its weights to a kind is known to break a model.

    Source: Qin, arXiv 2408.15301: a few weights of the first layers of Llama 3.1 70B are so large that a row's other
    ones round to zero.
    """
    return kind == "int8" and (config.family, config.num_layers, config.hidden_size) == ("llama", 80, 8192)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def weight_bytes(config: ModelConfig, kind: str) -> int:
    """Return the bytes of all weights on a GPU: the layers' of a kind, embedding, norms and head in bfloat16."""
    shapes = projection_shapes(config)
    out, width = shapes.pop("head")
    outer = out * width * (1 if config.tie_word_embeddings else 2)
    norms = (2 * config.num_layers + 1) * config.hidden_size
    norms += config.num_layers * (shapes["qkv"][0] * config.qkv_bias + 2 * config.head_dim * config.qk_norm)
    layer = sum(matrix_bytes(out, width, kind, config.quantization) for out, width in shapes.values())
    return config.num_layers * layer + _ITEM * (outer + norms)


def matrix_bytes(out: int, width: int, kind: str, scheme: Scheme | None = None) -> int:
    """Return the bytes of a weight [out, width]; ``scheme``: of a checkpoint, unless it is rounded at load."""
    if kind == PLAIN:
        return _ITEM * out * width
    if kind != "int4":
        # A scale of float32 for each output.
        return out * width + 4 * out
    group = group_of(width) if scheme is None else min(scheme.group or width, width)
    zeros = scheme is not None and not scheme.symmetric
    return out * -(-width // BLOCK) * HALF + -(-width // group) * out * (_ITEM + zeros)


def _workspace(config: ModelConfig) -> int:
    """Return about what the largest step takes: logits in float32, and the rows of the widest part of a layer."""
    rows = 3 * config.intermediate_size + 3 * config.hidden_size
    return 4 * _LOGIT_ROWS * config.vocab_size + _ITEM * _TOKENS * rows
