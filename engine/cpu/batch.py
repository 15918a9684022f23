"""Every tensor of one step of the CPU backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
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
    # [rows, 1, head_dim / 2], of each position's angles.
    cos: Tensor
    sin: Tensor
    # int64 [rows]: cache block of each token's slot; the null block for padding.
    blocks: Tensor
    # int64 [rows]: place of the slot in its block.
    offsets: Tensor
    attention: tuple[PairPlan, ...]
    # (content hash, mask fp32 [rows, 1]); rows without an adapter are in none.
    adapters: tuple[tuple[str, Tensor], ...]
    num_tokens: int  # rows that are not padding


def build_batch(
    layout: Layout,
    config: ModelConfig,
    tiles: RowTiles,
    block_size: int,
    min_queries: int,
    rotation: tuple[Tensor, Tensor],
) -> Batch:
    """Make the tensors of a step. ``min_queries``: see there; rotation: cos, sin [max_seq_len, head_dim / 2]."""
    cos, sin = rotation
    group = config.num_heads // config.num_kv_heads
    count = len(layout.token_ids)
    padding = tiles.padded(count) - count
    slot = _padded(layout.slot_mapping(block_size), padding, NULL_BLOCK * block_size)
    positions = torch.from_numpy(_padded(layout.positions(), padding))
    names = np.array(layout.adapters)
    masks = {}
    for name in sorted(set(layout.adapters) - {""}):
        rows = _padded(np.repeat(names == name, layout.query_lens), padding)
        masks[name] = torch.from_numpy(rows)[:, None].to(cos.dtype)
    return Batch(
        token_ids=torch.from_numpy(_padded(layout.token_ids, padding)),
        cos=cos.index_select(0, positions)[:, None],
        sin=sin.index_select(0, positions)[:, None],
        blocks=torch.from_numpy(slot // block_size),
        offsets=torch.from_numpy(slot % block_size),
        attention=plan_pairs(layout.segments(), config.num_kv_heads, group, block_size, min_queries),
        adapters=tuple(masks.items()),
        num_tokens=count,
    )


def _padded(values: npt.NDArray[Any], padding: int, fill: int = 0) -> npt.NDArray[np.int64]:
    return np.pad(values.astype(np.int64), (0, padding), constant_values=fill)
