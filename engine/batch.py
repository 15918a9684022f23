"""Every tensor of one step, and how it is laid out from the scheduler's work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from warmeng.engine.cache import NULL_BLOCK
from warmeng.engine.config import ModelConfig
from warmeng.engine.request import GenerateRequest
from warmeng.engine.scheduler import Work
from warmeng.engine.sequence import Sequence
from warmeng.kernels.attention import PairPlan, Segment, plan_pairs
from warmeng.kernels.linear import RowTiles


@dataclass(frozen=True)
class Batch:
    """One forward pass. ``rows`` counts the padding that the row tiles ask for; padding lies at the end."""

    token_ids: Tensor  # int64 [rows]
    positions: Tensor  # int64 [rows]
    blocks: Tensor  # int64 [rows] cache block of each token's slot; the null block for padding
    offsets: Tensor  # int64 [rows] place of the slot in its block
    attention: tuple[PairPlan, ...]
    adapters: tuple[tuple[str, Tensor], ...]  # (content hash, mask fp32 [rows, 1]); rows without adapter are in none
    num_tokens: int  # rows that are not padding


@dataclass(frozen=True)
class Target:
    """A log-probability to read: of ``token`` after batch row ``row``.

    ``place`` says whose: ("prompt", index of the prompt token) or ("label", label, index of the label's token).
    """

    row: int
    token: int
    sequence: Sequence
    place: tuple[str, int, int]


@dataclass(frozen=True)
class Wanted:
    """What the step must read from the logits."""

    samples: tuple[tuple[int, Sequence], ...]  # (batch row, sequence that draws its next token from it)
    targets: tuple[Target, ...]


def build_batch(
    work: list[Work], config: ModelConfig, tiles: RowTiles, block_size: int, owners: int, dtype: torch.dtype
) -> tuple[Batch, Wanted]:
    """Lay out a step. ``owners``: see ``least_owners``. Runs the host only; tensors are made on the CPU."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    segments: list[Segment] = []
    samples: list[tuple[int, Sequence]] = []
    targets: list[Target] = []
    rows_of: dict[str, list[int]] = {}
    for item in work:
        sequence = item.sequence
        first = len(tokens)
        _lay_out(item, block_size, positions, slots, segments)
        tokens.extend(sequence.tokens[item.start : item.stop])
        rows = range(first, len(tokens))
        if sequence.adapter_hash:
            rows_of.setdefault(sequence.adapter_hash, []).extend(rows)
        if isinstance(sequence.request, GenerateRequest):
            if item.stop == len(sequence.tokens):
                samples.append((rows[-1], sequence))
            targets.extend(_prompt_targets(item, first))
        else:
            targets.extend(_label_targets(item, first))
    group = config.num_heads // config.num_kv_heads
    count = len(tokens)
    padding = tiles.padded(count) - count
    slot = np.asarray(slots + [NULL_BLOCK * block_size] * padding, dtype=np.int64)
    masks: Mapping[str, Tensor] = {name: torch.zeros(count + padding, 1, dtype=dtype) for name in sorted(rows_of)}
    for name, mask in masks.items():
        mask[rows_of[name]] = 1
    batch = Batch(
        token_ids=torch.tensor(tokens + [0] * padding),
        positions=torch.tensor(positions + [0] * padding),
        blocks=torch.from_numpy(slot // block_size),
        offsets=torch.from_numpy(slot % block_size),
        attention=plan_pairs(segments, config.num_kv_heads, group, block_size, owners),
        adapters=tuple(masks.items()),
        num_tokens=count,
    )
    return batch, Wanted(tuple(samples), tuple(targets))


def _lay_out(work: Work, block_size: int, positions: list[int], slots: list[int], segments: list[Segment]) -> None:
    """Append the positions, slots and attention segments of one sequence's work: its main line, then its labels'."""
    sequence = work.sequence
    branches = sequence.branches()
    main_end = sequence.prompt_len if branches else len(sequence.tokens)
    stop = min(work.stop, main_end)
    table = np.asarray(sequence.blocks, dtype=np.int64)
    if work.start < stop:
        positions.extend(range(work.start, stop))
        slots.extend(_slots(table, work.start, stop, block_size))
        segments.append(Segment(table, stop - work.start, stop))
    prompt_slots = -(-sequence.prompt_len // block_size) * block_size
    for (start, end), blocks in zip(branches, sequence.branch_blocks, strict=True):
        low, high = max(start, work.start), min(end, work.stop)
        if low >= high:
            continue
        own = np.asarray(blocks, dtype=np.int64)
        positions.extend(range(sequence.prompt_len + low - start, sequence.prompt_len + high - start))
        slots.extend(_slots(own, low - start, high - start, block_size))
        whole = np.concatenate([table[: prompt_slots // block_size], own])
        segments.append(Segment(whole, high - low, prompt_slots + high - start, (sequence.prompt_len, prompt_slots)))


def _slots(table: np.ndarray[tuple[int], np.dtype[np.int64]], start: int, stop: int, block_size: int) -> list[int]:
    index = np.arange(start, stop)
    slots: list[int] = (table[index // block_size] * block_size + index % block_size).tolist()
    return slots


def _prompt_targets(work: Work, first: int) -> list[Target]:
    sequence = work.sequence
    assert isinstance(sequence.request, GenerateRequest)
    if not sequence.request.prompt_logprobs:
        return []
    start = max(work.start, len(sequence.prompt_logprobs))  # after a preemption the first ones are known already
    stop = min(work.stop, sequence.prompt_len - 1)
    return [
        Target(first + i - work.start, sequence.tokens[i + 1], sequence, ("prompt", i + 1, 0))
        for i in range(start, stop)
    ]


def _label_targets(work: Work, first: int) -> list[Target]:
    """A label's first token is read after the prompt's last one, the others after the label's own tokens."""
    sequence = work.sequence
    assert not isinstance(sequence.request, GenerateRequest)
    targets = []
    for label, ((start, stop), ids) in enumerate(zip(sequence.branches(), sequence.request.labels, strict=True)):
        places = [sequence.prompt_len - 1, *range(start, stop)]
        for index, place in enumerate(places):
            if work.start <= place < work.stop:
                targets.append(Target(first + place - work.start, ids[index], sequence, ("label", label, index)))
    return targets
