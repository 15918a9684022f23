"""Every tensor of one step of the CPU backend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from warmeng.engine.cache import NULL_BLOCK
from warmeng.engine.config import ModelConfig
from warmeng.engine.layout import Layout
from warmeng.kernels.attention import PairPlan, plan_pairs
from warmeng.kernels.linear import RowTiles


@dataclass(frozen=True)
class Batch:
    """One forward pass. ``rows`` counts the padding that the row tiles ask for; padding lies at the end."""

    token_ids: Tensor  # int64 [rows]
    cos: Tensor  # [rows, 1, head_dim / 2], of each position's angles
    sin: Tensor
    blocks: Tensor  # int64 [rows] cache block of each token's slot; the null block for padding
    offsets: Tensor  # int64 [rows] place of the slot in its block
    attention: tuple[PairPlan, ...]
    adapters: tuple[tuple[str, Tensor], ...]  # (content hash, mask fp32 [rows, 1]); rows without adapter are in none
    num_tokens: int  # rows that are not padding


def build_batch(
    layout: Layout,
    config: ModelConfig,
    tiles: RowTiles,
    block_size: int,
    owners: int,
    rotation: tuple[Tensor, Tensor],
) -> Batch:
    """Make the tensors of a step. ``owners``: see ``least_owners``; rotation: cos, sin [max_seq_len, head_dim / 2]."""
    cos, sin = rotation
    group = config.num_heads // config.num_kv_heads
    count = len(layout.tokens)
    padding = tiles.padded(count) - count
    slot = np.asarray(layout.slots + [NULL_BLOCK * block_size] * padding, dtype=np.int64)
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(layout.adapters):
        if name:
            rows_of.setdefault(name, []).append(row)
    masks = {name: torch.zeros(count + padding, 1, dtype=cos.dtype) for name in sorted(rows_of)}
    for name, mask in masks.items():
        mask[rows_of[name]] = 1
    positions = torch.tensor(layout.positions + [0] * padding)
    return Batch(
        token_ids=torch.tensor(layout.tokens + [0] * padding),
        cos=cos.index_select(0, positions)[:, None],
        sin=sin.index_select(0, positions)[:, None],
        blocks=torch.from_numpy(slot // block_size),
        offsets=torch.from_numpy(slot % block_size),
        attention=plan_pairs(layout.segments, config.num_kv_heads, group, block_size, owners),
        adapters=tuple(masks.items()),
        num_tokens=count,
    )
