"""Every tensor of one step of the CPU backend."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from warmeng.engine.cache import NULL_BLOCK
from warmeng.engine.config import ModelConfig
from warmeng.engine.layout import Layout
from warmeng.engine.mixture import Mixture
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
    # (content hash of an adapter or vector, its coefficient in each row [rows, 1]), ascending by hash.
    terms: tuple[tuple[str, Tensor], ...]
    num_tokens: int  # rows that are not padding


def build_batch(
    layout: Layout,
    config: ModelConfig,
    tiles: RowTiles,
    block_size: int,
    min_queries: int,
    rotation: tuple[Tensor, Tensor],
    mixtures: Mapping[str, Mixture],
) -> Batch:
    """Make the tensors of a step.

    ``min_queries``: see there; rotation: cos, sin [max_seq_len, head_dim / 2]; ``mixtures``: of the layout, by key.
    """
    cos, sin = rotation
    group = config.num_heads // config.num_kv_heads
    count = len(layout.token_ids)
    padding = tiles.padded(count) - count
    slot = _padded(layout.slot_mapping(block_size), padding, NULL_BLOCK * block_size)
    positions = torch.from_numpy(_padded(layout.positions(), padding))
    weights = {}
    for name, coefficients in _coefficients(layout.adapters, mixtures).items():
        rows = np.pad(np.repeat(coefficients, layout.query_lens), (0, padding))
        weights[name] = torch.from_numpy(rows)[:, None].to(cos.dtype)
    return Batch(
        token_ids=torch.from_numpy(_padded(layout.token_ids, padding)),
        cos=cos.index_select(0, positions)[:, None],
        sin=sin.index_select(0, positions)[:, None],
        blocks=torch.from_numpy(slot // block_size),
        offsets=torch.from_numpy(slot % block_size),
        attention=plan_pairs(layout.segments(), config.num_kv_heads, group, block_size, min_queries),
        terms=tuple(weights.items()),
        num_tokens=count,
    )


def _coefficients(keys: Seq[str], mixtures: Mapping[str, Mixture]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the coefficients of each adapter and vector that some segment carries, fp32 [segments], ascending by hash.

    That order fixes a row's sum, whatever the other rows carry.
    """
    carried = {key: dict(mixtures[key].terms) for key in set(keys) if key}
    names = sorted({name for terms in carried.values() for name in terms})
    found = {}
    for name in names:
        of = {key: terms.get(name, 0.0) for key, terms in carried.items()}
        found[name] = np.array([of.get(key, 0.0) for key in keys], dtype=np.float32)
    return found


def _padded(values: npt.NDArray[Any], padding: int, fill: int = 0) -> npt.NDArray[np.int64]:
    return np.pad(values.astype(np.int64), (0, padding), constant_values=fill)
