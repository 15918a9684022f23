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

from warmeng.engine.cpu.lora import CarriedLayers, LaidOutAdapters
from warmeng.engine.layout import Layout
from warmeng.engine.mixture import Mixture
from warmeng.kernels.attention import AttentionPlan, plan_attention
from warmeng.kernels.lora import CarriedRows


@dataclass(frozen=True)
class Batch:
    """One forward pass. ``rows`` counts its tokens."""

    token_ids: Tensor  # int64 [rows]
    # [rows, head_dim / 2], of each position's angles.
    cos: Tensor
    sin: Tensor
    # int64 [rows]: cache block of each token times the block size, plus its place there.
    slots: Tensor
    # int64 [copies, 3]: source and target block and slots of each.
    copies: Tensor
    attention: AttentionPlan
    # What rows carry of adapters; None for none.
    adapters: CarriedLayers | None
    # Of each adapter and vector that some row carries its coefficient in each row, [rows, 1], 0 where a row doesn't;
    # ascending by hash.
    coefficients: Mapping[str, Tensor]


def build_batch(
    layout: Layout,
    block_size: int,
    rotation: tuple[Tensor, Tensor],
    mixtures: Mapping[str, Mixture],
    adapters: LaidOutAdapters,
) -> Batch:
    """Make the tensors of a step.

    rotation: cos, sin [max_seq_len, head_dim / 2]; ``mixtures``: of the layout, by key; ``adapters``: of the mixtures.
    """
    cos, sin = rotation
    positions = _whole(layout.positions())
    columns, carried = {}, {}
    for name, coefficients in _coefficients(layout.adapters, mixtures).items():
        values = np.repeat(coefficients, layout.query_lens)
        rows = np.flatnonzero(values)
        columns[name] = torch.from_numpy(values)[:, None]
        carried[name] = CarriedRows(torch.from_numpy(rows), torch.from_numpy(values[rows]))
    return Batch(
        token_ids=_whole(layout.token_ids),
        cos=cos.index_select(0, positions),
        sin=sin.index_select(0, positions),
        slots=_whole(layout.slot_mapping(block_size)),
        copies=torch.tensor(layout.copies, dtype=torch.int64).view(-1, 3),
        attention=plan_attention(layout.query_lens, layout.seq_lens, layout.block_tables, layout.holes, block_size),
        adapters=adapters.carry(len(positions), carried),
        coefficients=columns,
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


def _whole(values: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))
