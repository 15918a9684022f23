"""A decoder's weights in the layout that the engine multiplies with, read from a checkpoint without a second copy.

Projections are stored ``[in, out]`` and contiguous: ``x @ w`` is the fastest orientation on the CPU, and one whose
bits can be made independent of the batch. Projections of the same input are fused along their outputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from warmeng.engine.config import ModelConfig
from warmeng.engine.errors import InputError
from warmeng.engine.tensors import Checkpoint, content_hash, copy_rows, open_checkpoint

__all__ = ["Checkpoint", "LayerWeights", "Weights", "content_hash", "expected_names", "load_weights", "open_checkpoint"]

# Buffers that old versions of transformers saved; they follow from the configuration.
_BUFFER = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


@dataclass(frozen=True)
class LayerWeights:
    """One layer; ``H`` hidden size, ``I`` intermediate size, ``d`` head size, ``nq`` and ``nk`` heads."""

    attn_norm: torch.Tensor  # [H]
    qkv: torch.Tensor  # [H, (nq + 2 nk) d]: q, then k, then v
    qkv_bias: torch.Tensor | None  # [(nq + 2 nk) d]
    q_norm: torch.Tensor | None  # [d]
    k_norm: torch.Tensor | None  # [d]
    o: torch.Tensor  # [nq d, H]
    mlp_norm: torch.Tensor  # [H]
    gate_up: torch.Tensor  # [H, 2 I]: gate, then up
    down: torch.Tensor  # [I, H]


@dataclass(frozen=True)
class Weights:
    """All weights of a decoder, of one dtype on one device."""

    embed: torch.Tensor  # [V, H]
    layers: tuple[LayerWeights, ...]
    final_norm: torch.Tensor  # [H]
    head: torch.Tensor  # [H, V]; a copy of embed where they are tied: twice its bytes buy twice its speed


def load_weights(folder: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device | str = "cpu") -> Weights:
    """Read the checkpoint in ``folder`` for ``config``, converting to ``dtype`` on ``device``.

    Raises:
        InputError: a file, tensor or shape that isn't as expected, one that is missing, or one that nobody uses.
    """
    checkpoint = open_checkpoint(folder)
    checkpoint.require(expected_names(config))
    loader = _Loader(checkpoint, config, dtype, torch.device(device))
    hidden, vocab = config.hidden_size, config.vocab_size
    weights = Weights(
        embed=loader.read("model.embed_tokens.weight", vocab, hidden),
        layers=tuple(loader.layer(f"model.layers.{i}.") for i in range(config.num_layers)),
        final_norm=loader.read("model.norm.weight", hidden),
        head=loader.head(),
    )
    loader.run()
    if config.tie_word_embeddings:
        loader.tie(weights)
    for name in checkpoint.names:
        if _BUFFER.fullmatch(name):
            checkpoint.ignore(name)
    checkpoint.finish()
    return weights


def expected_names(config: ModelConfig) -> tuple[str, ...]:
    """The names of the tensors that a checkpoint of this configuration must have."""
    parts = ["input_layernorm.weight", "post_attention_layernorm.weight"]
    parts += [f"self_attn.{p}_proj.weight" for p in "qkvo"] + [f"mlp.{p}_proj.weight" for p in ("gate", "up", "down")]
    if config.qkv_bias:
        parts += [f"self_attn.{p}_proj.bias" for p in "qkv"]
    if config.qk_norm:
        parts += ["self_attn.q_norm.weight", "self_attn.k_norm.weight"]
    outer = ["model.embed_tokens.weight", "model.norm.weight"]
    if not config.tie_word_embeddings:
        outer.append("lm_head.weight")
    return (*outer, *(f"model.layers.{i}.{part}" for i in range(config.num_layers) for part in parts))


class _Loader:
    """Lays out the destinations first, then fills them in parallel."""

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.checkpoint = checkpoint
        self.jobs: list[Callable[[], None]] = []
        self.config = config
        self.dtype = dtype
        self.device = device

    def run(self) -> None:
        """Do all jobs, each on one thread: the barriers of parallel operators would cost seconds on a busy machine."""
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                for done in [pool.submit(job) for job in self.jobs]:
                    done.result()
        finally:
            torch.set_num_threads(threads)  # the default of threads to come, which the pool's threads have changed
            self.jobs.clear()

    def fill(self, name: str, dest: torch.Tensor) -> None:
        self.jobs.append(lambda: self.checkpoint.read_into(name, dest))

    def empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def read(self, name: str, *shape: int) -> torch.Tensor:
        dest = self.empty(*shape)
        self.fill(name, dest)
        return dest

    def fused(self, names: list[str], rows: int, widths: list[int]) -> torch.Tensor:
        """The checkpoint's ``[width, rows]`` matrices side by side as ``[rows, sum of widths]``."""
        dest = self.empty(rows, sum(widths))
        start = 0
        for name, width in zip(names, widths, strict=True):
            self.fill(name, dest.narrow(1, start, width).t())
            start += width
        return dest

    def layer(self, prefix: str) -> LayerWeights:
        c = self.config
        q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        qkv_bias = None
        if c.qkv_bias:
            qkv_bias = self.empty(q + 2 * kv)
            for name, start, width in (("q", 0, q), ("k", q, kv), ("v", q + kv, kv)):
                self.fill(f"{attention}{name}_proj.bias", qkv_bias.narrow(0, start, width))
        return LayerWeights(
            attn_norm=self.read(prefix + "input_layernorm.weight", c.hidden_size),
            qkv=self.fused([f"{attention}{p}_proj.weight" for p in "qkv"], c.hidden_size, [q, kv, kv]),
            qkv_bias=qkv_bias,
            q_norm=self.read(attention + "q_norm.weight", c.head_dim) if c.qk_norm else None,
            k_norm=self.read(attention + "k_norm.weight", c.head_dim) if c.qk_norm else None,
            o=self.fused([attention + "o_proj.weight"], q, [c.hidden_size]),
            mlp_norm=self.read(prefix + "post_attention_layernorm.weight", c.hidden_size),
            gate_up=self.fused(
                [mlp + "gate_proj.weight", mlp + "up_proj.weight"], c.hidden_size, [c.intermediate_size] * 2
            ),
            down=self.fused([mlp + "down_proj.weight"], c.intermediate_size, [c.hidden_size]),
        )

    def head(self) -> torch.Tensor:
        """The output head, whose filling is left to ``tie`` where it is tied to the embedding."""
        if self.config.tie_word_embeddings:
            return self.empty(self.config.hidden_size, self.config.vocab_size)
        return self.fused(["lm_head.weight"], self.config.hidden_size, [self.config.vocab_size])

    def tie(self, weights: Weights) -> None:
        name = "lm_head.weight"
        if name in self.checkpoint.names and not torch.equal(
            self.checkpoint.tensor(name), self.checkpoint.tensor("model.embed_tokens.weight")
        ):
            raise InputError(
                f"{self.checkpoint.folder}: {name} differs from the embedding though config.json ties them: "
                "set tie_word_embeddings to false or remove the tensor"
            )
        for source, dest in zip(weights.embed.chunk(16), weights.head.t().chunk(16), strict=True):
            self.jobs.append(partial(copy_rows, source, dest))
        self.run()
