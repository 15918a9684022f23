"""The training pass: the engine's families over rows of many sequences, several personas over one frozen base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from warmeng.engine.adapters import target_shapes
from warmeng.engine.checkpoint import LayerWeights, Weights, load_weights
from warmeng.engine.config import ModelConfig
from warmeng.engine.model import rope_frequencies
from warmeng.engine.settings import AUTO
from warmeng.finetune.frozen import FrozenWeight, frozen
from warmeng.finetune.layers import (
    AdaptedLinear,
    LinearPlan,
    RmsNorm,
    Rotate,
    SiluMul,
    apply,
    causal_attention,
    leave_cudnn_attention,
)
from warmeng.finetune.lora import GROUPS, AdapterParameters
from warmeng.finetune.loss import ChunkedCrossEntropy
from warmeng.finetune.noise import Dropout


@dataclass(frozen=True)
class Sample:
    """One sequence to learn from."""

    index: int  # place in its persona's data
    tokens: Tensor  # int64 [n]
    # Bool [n]: the token belongs to a response.
    learn: Tensor

    @property
    def targets(self) -> int:
        """Tokens that are predicted from something: the first one is not."""
        return int(self.learn[1:].sum())


@dataclass(frozen=True)
class MicroRow:
    """What goes through the model at once: sequences one after the other, each persona's side by side."""

    samples: tuple[Sample, ...]
    rows: Mapping[str, slice]  # of each persona

    @property
    def lengths(self) -> list[int]:
        """Rows of each sequence."""
        return [len(s.tokens) for s in self.samples]


class TrainingModel:
    """A frozen decoder that differentiates adapters. Float32 on the CPU, bfloat16 on a GPU."""

    def __init__(self, config: ModelConfig, weights: Weights, max_length: int) -> None:
        self.config = config
        self.weights = weights
        self.device = weights.embed.device
        self.dtype = weights.embed.dtype
        angles = torch.arange(max_length).float()[:, None] * rope_frequencies(config)
        self._cos = angles.cos().to(self.device, self.dtype)[:, None]
        self._sin = angles.sin().to(self.device, self.dtype)[:, None]

    @classmethod
    def load(
        cls, folder: Path, config: ModelConfig, max_length: int, device: torch.device, kind: str = AUTO
    ) -> TrainingModel:
        """Load the checkpoint; ``kind`` as ``load_weights`` has it. Raises InputError where it can't be used."""
        leave_cudnn_attention()
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        return cls(config, load_weights(folder, config, dtype, device, FrozenWeight, kind), max_length)

    def backward(
        self,
        row: MicroRow,
        adapters: Mapping[str, AdapterParameters],
        scale: float,
        shares: Mapping[str, float],
        dropout: Dropout | None,
    ) -> dict[str, float]:
        """Add the gradient of each persona's loss on these rows to its ``grad``; return the loss's part by persona.

        ``shares``: the weight of one response token, by persona: one over their number in the whole batch. ``scale``
        is the adapters'.
        """
        hidden = self.forward(row, adapters, scale, dropout)
        tokens, learn = (torch.cat(p) for p in zip(*((s.tokens, s.learn) for s in row.samples), strict=True))
        starts = torch.zeros(len(tokens), dtype=torch.bool)
        starts[torch.tensor([0, *row.lengths[:-1]]).cumsum(0)] = True
        targets = (learn & ~starts).nonzero()[:, 0]  # row i - 1 predicts token i
        names = list(row.rows)
        owner = torch.empty(len(tokens), dtype=torch.int64)
        weight = torch.empty(len(tokens))
        for index, name in enumerate(names):
            owner[row.rows[name]], weight[row.rows[name]] = index, shares[name]
        picked = hidden.index_select(0, (targets - 1).to(self.device))
        normed = apply(RmsNorm, picked, self.weights.final_norm, self.config.rms_norm_eps)
        total, each = apply(
            ChunkedCrossEntropy,
            normed,
            tokens[targets].to(self.device),
            weight[targets].to(self.device),
            frozen(self.weights.head),
        )
        total.backward()
        each, owners = each.double().cpu(), owner[targets]
        return {name: float(each[owners == i].sum()) * shares[name] for i, name in enumerate(names)}

    def forward(
        self, row: MicroRow, adapters: Mapping[str, AdapterParameters], scale: float, dropout: Dropout | None
    ) -> Tensor:
        """Return the hidden states before the final norm, [rows, hidden]."""
        tokens = torch.cat([s.tokens for s in row.samples]).to(self.device)
        places = torch.cat([torch.arange(n) for n in row.lengths]).to(self.device)
        rotation = self._cos.index_select(0, places), self._sin.index_select(0, places)
        factor = scale * (dropout.gain if dropout else 1.0)
        tie = torch.zeros((), device=self.device, requires_grad=True)
        x = self.weights.embed.index_select(0, tokens)
        for index, layer in enumerate(self.weights.layers):
            plans = self._plans(index, layer, row.rows, adapters, factor, dropout)
            x = x + self._attend(x, layer, plans, rotation, row.lengths, tie)
            normed = apply(RmsNorm, x, layer.mlp_norm, self.config.rms_norm_eps)
            inner = apply(SiluMul, apply(AdaptedLinear, normed, tie, plans["gate_up"]))
            x = x + apply(AdaptedLinear, inner, tie, plans["down"])
        return x

    def _attend(
        self,
        x: Tensor,
        layer: LayerWeights,
        plans: Mapping[str, LinearPlan],
        rotation: tuple[Tensor, Tensor],
        lengths: list[int],
        tie: Tensor,
    ) -> Tensor:
        c = self.config
        normed = apply(RmsNorm, x, layer.attn_norm, c.rms_norm_eps)
        heads = apply(AdaptedLinear, normed, tie, plans["qkv"]).view(-1, c.num_heads + 2 * c.num_kv_heads, c.head_dim)
        turned, v = torch.split(heads, [c.num_heads + c.num_kv_heads, c.num_kv_heads], dim=1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = torch.split(turned, [c.num_heads, c.num_kv_heads], dim=1)
            q = apply(RmsNorm, q, layer.q_norm, c.rms_norm_eps)
            k = apply(RmsNorm, k, layer.k_norm, c.rms_norm_eps)
            q, k = apply(Rotate, q, *rotation), apply(Rotate, k, *rotation)
        else:
            q, k = torch.split(apply(Rotate, turned, *rotation), [c.num_heads, c.num_kv_heads], dim=1)
        mixed = causal_attention(q, k, v, lengths)
        out: Tensor = apply(AdaptedLinear, mixed, tie, plans["o"])
        return out

    def _plans(
        self,
        index: int,
        layer: LayerWeights,
        rows: Mapping[str, slice],
        adapters: Mapping[str, AdapterParameters],
        factor: float,
        dropout: Dropout | None,
    ) -> dict[str, LinearPlan]:
        shapes = target_shapes(self.config)
        weights = {"qkv": layer.qkv, "o": layer.o, "gate_up": layer.gate_up, "down": layer.down}
        plans = {}
        for group, members in GROUPS.items():
            present = tuple(t for t in members if any(t in adapters[name].targets for name in rows))
            changes, start = [], 0
            for target in members:
                columns = slice(start, start + shapes[target][1])
                start = columns.stop
                if target in present:
                    changes += [
                        (present.index(target), columns, part, adapters[name].pairs[index][target])
                        for name, part in rows.items()
                    ]
            bias = layer.qkv_bias if group == "qkv" else None
            plans[group] = LinearPlan(
                frozen(weights[group]), bias, index, present, tuple(changes), factor, dropout if present else None
            )
        return plans


def bytes_per_token(config: ModelConfig, dtype: torch.dtype, modules: Sequence[str], dropout: bool) -> int:
    """Return about what a token's rows keep until they are differentiated, all layers together."""
    size = torch.empty((), dtype=dtype).element_size()
    hidden, inner = config.hidden_size, config.intermediate_size
    query, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    # norms' inputs and outputs, q, k and v as attention reads them, its output twice, the feed-forward's two
    numbers = 4 * hidden + 3 * query + 2 * query + 2 * kv + 3 * inner
    shapes = target_shapes(config)
    masks = sum(shapes[t][0] for t in modules) if dropout and dtype == torch.float32 else 0
    return config.num_layers * (numbers * size + masks)
