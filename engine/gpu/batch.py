"""A step's inputs: arrays on the host, packed into one copy, and the same arrays as tensors on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Generic, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from warmeng.engine.cache import NULL_BLOCK
from warmeng.engine.gpu.lora import AdapterBank
from warmeng.engine.gpu.sizes import ROW_STEP
from warmeng.engine.layout import Ints, Layout, LogitsPlan, sampling_records
from warmeng.engine.sequence import PENDING
from warmeng.kernels.gpu.attention import SEGMENT_FIELDS, PagedPlan, SegmentField, Tiling, cut_tiles
from warmeng.kernels.gpu.lora import AdapterRows, column_ranges
from warmeng.kernels.gpu.sampling import FLOATS, INTS, SamplingRows

# Every array starts at a multiple of 16 bytes, as wide loads ask.
_ALIGN_INTS = 4
# Block tables have a multiple of this many columns: kernels are compiled for each width.
_TABLE_STEP = 16

# Arrays on the host (``Ints``), or tensors on the device.
A = TypeVar("A")


@dataclass(frozen=True)
class StepInputs(Generic[A]):
    """What a forward pass reads, int32. Padding rows lie at the end, have no segment, and write to the null block."""

    # [rows]; 0 where the token is pending.
    token_ids: A
    # [rows]: a pending token's place among the previous step's samples; -1 where the token is known.
    pending: A
    # [rows]
    positions: A
    # [rows]: block * block_size + offset.
    slot_mapping: A
    # [rows]: slots of the row's block table up to its own.
    context_lens: A
    # [segments, SEGMENT_FIELDS]
    segments: A
    # [segments, longest]
    block_tables: A
    # [tiles, 2], see ``PagedPlan``.
    decode_tiles: A
    prefill_tiles: A
    # [rows] and [ceil(rows / ROW_TILE), 2], see ``AdapterRows``; None where no row has an adapter.
    mixtures: A | None
    column_ranges: A | None


@dataclass(frozen=True)
class LogitsInputs(Generic[A]):
    """What is read from the logits, int32: first the sampled rows, then those of log-probabilities that are asked for.

    Target i is the token ``target_tokens[i]`` in row ``target_rows[i]``, counted from the first row after the sampled.
    """

    # [logit rows]: rows of the forward pass.
    logit_rows: A
    # [sampled, INTS] and [sampled, FLOATS], the floats as their bits; see ``SamplingRows``.
    sampling_ints: A
    sampling_floats: A
    # [targets]
    target_rows: A
    target_tokens: A
    # [places]: rows whose likeliest tokens are asked for, counted as target_rows are.
    top_rows: A
    # [constrained, ceil(vocab / 32)]; None where no row is constrained.
    masks: A | None


@dataclass(frozen=True)
class HostBatch:
    """A step on the host; ``num_chunks`` and the inputs' shapes are what kernels are launched for."""

    inputs: StepInputs[Ints]
    num_chunks: int
    # Some token is the previous step's sample.
    has_pending: bool


@dataclass(frozen=True)
class Batch:
    """A step on the device, as the decoder's operations take it."""

    token_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor
    context_lens: Tensor
    plan: PagedPlan
    adapters: AdapterRows | None


def host_batch(
    layout: Layout,
    bank: AdapterBank,
    group: int,
    tiling: Tiling,
    block_size: int,
    *,
    rows: int | None = None,
    table_width: int | None = None,
) -> HostBatch:
    """Make a step's inputs. ``rows`` and ``table_width`` fix their sizes, for graphs; else they are the least.

    Rows should come sorted by mixture: see ``column_ranges``.
    """
    count, num_segments = len(layout.token_ids), len(layout.query_lens)
    padded_rows = rows or -(-count // ROW_STEP) * ROW_STEP
    padding = padded_rows - count
    padded_segments = padded_rows if rows else num_segments
    segments = _segments(layout, padded_segments)
    longest = layout.block_tables.shape[1]
    width = table_width or -(-longest // _TABLE_STEP) * _TABLE_STEP
    tables = np.full((padded_segments, width), NULL_BLOCK, dtype=np.int32)
    tables[:num_segments, :longest] = layout.block_tables
    query_lens = (*layout.query_lens.tolist(), *[1] * (padded_segments - num_segments))
    decode, prefill = _cut_tiles(query_lens, group, tiling)
    context_lens = segments[:, SegmentField.CONTEXT_LEN]
    is_pending = layout.token_ids <= PENDING
    mixtures = ranges = None
    if any(layout.adapters):
        numbers = np.array([bank.mixtures[key] for key in layout.adapters], dtype=np.int32)
        mixtures = _padded(np.repeat(numbers, layout.query_lens), padding)
        ranges = column_ranges(mixtures, bank.spans)
    inputs = StepInputs(
        token_ids=_padded(np.where(is_pending, 0, layout.token_ids), padding),
        pending=_padded(np.where(is_pending, PENDING - layout.token_ids, -1), padding, -1),
        positions=_padded(layout.positions(), padding),
        slot_mapping=_padded(layout.slot_mapping(block_size), padding, NULL_BLOCK * block_size),
        context_lens=_padded(layout.context_lens, padding),
        segments=segments,
        block_tables=tables,
        decode_tiles=_longest_first(decode, context_lens),
        prefill_tiles=_longest_first(prefill, context_lens),
        mixtures=mixtures,
        column_ranges=ranges,
    )
    num_chunks = -(-int(layout.seq_lens.max()) // tiling.chunk)
    return HostBatch(inputs, num_chunks, bool(is_pending.any()))


def _segments(layout: Layout, padded_segments: int) -> Ints:
    """Return the segments' fields; those of padding are zero but for their holes."""
    count = len(layout.query_lens)
    segments = np.zeros((padded_segments, SEGMENT_FIELDS), dtype=np.int32)
    segments[:count, SegmentField.FIRST_ROW] = layout.cu_seqlens_q[:-1]
    segments[:count, SegmentField.QUERY_LEN] = layout.query_lens
    segments[:count, SegmentField.CONTEXT_LEN] = layout.seq_lens
    segments[:count, SegmentField.BLOCK_TABLE] = np.arange(count)
    holes = segments[:, SegmentField.HOLE_FIRST : SegmentField.HOLE_STOP + 1]
    holes[:count] = layout.holes
    # A segment without a hole gets an empty one past its end, so that no slot is looked at twice.
    holes[holes[:, 1] <= holes[:, 0]] = np.iinfo(np.int32).max
    return segments


# Decoding steps of one size all have the same tiles.
_cut_tiles = lru_cache(maxsize=64)(cut_tiles)


def _longest_first(tiles: Ints, context_lens: Ints) -> Ints:
    """Order tiles by their segment's context: a long one that is started last would run on alone."""
    return tiles[np.argsort(-context_lens[tiles[:, 0]], kind="stable")]


def _padded(values: Ints, padding: int, fill: int = 0) -> Ints:
    padded = np.full(len(values) + padding, fill, dtype=np.int32)
    padded[: len(values)] = values
    return padded


def logits_inputs(plan: LogitsPlan, masks: Tensor | None = None) -> LogitsInputs[Ints]:
    """Return what is read from a step's logits. ``masks``: of the constrained sequences, in their order."""
    index = {row: i for i, row in enumerate(plan.target_rows)}
    records, places = sampling_records(plan.sampled)
    ints = np.zeros((len(plan.sampled), INTS), dtype=np.int32)
    floats = np.empty((len(plan.sampled), FLOATS), dtype=np.float32)
    words = ints.view(np.uint32)
    words[:, 0] = records["seed"]
    words[:, 1:3] = records["item"]
    words[:, 3] = records["sample"]
    words[:, 4] = places
    ints[:, 5] = records["top_k"]
    ints[:, 6] = -1
    constrained = [i for i, sequence in enumerate(plan.sampled) if sequence.matcher is not None]
    ints[constrained, 6] = np.arange(len(constrained))
    floats[:, 0] = records["temperature"]
    floats[:, 1] = records["top_p"]
    return LogitsInputs(
        logit_rows=np.array(plan.sample_rows + plan.target_rows, dtype=np.int32),
        sampling_ints=ints,
        sampling_floats=floats.view(np.int32),
        target_rows=np.array([index[target.row] for target in plan.targets], dtype=np.int32),
        target_tokens=np.array([target.token for target in plan.targets], dtype=np.int32),
        top_rows=np.array([index[top.row] for top in plan.tops], dtype=np.int32),
        masks=None if masks is None else masks.numpy(),
    )


def _arrays(inputs: StepInputs[Ints] | LogitsInputs[Ints]) -> dict[str, Ints]:
    present = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    return {name: array for name, array in present.items() if array is not None}


def _aligned(array: Ints) -> int:
    return -(-array.size // _ALIGN_INTS) * _ALIGN_INTS


def packed_size(inputs: StepInputs[Ints] | LogitsInputs[Ints]) -> int:
    """Return how many integers ``pack`` makes of these inputs."""
    return sum(_aligned(array) for array in _arrays(inputs).values())


def pack(*groups: StepInputs[Ints] | LogitsInputs[Ints]) -> Ints:
    """Put all arrays one behind the other, for one copy to the device."""
    flat = np.zeros(max(sum(map(packed_size, groups)), _ALIGN_INTS), dtype=np.int32)
    start = 0
    for inputs in groups:
        for array in _arrays(inputs).values():
            flat[start : start + array.size] = array.ravel()
            start += _aligned(array)
    return flat


@overload
def unpack(flat: Tensor, inputs: StepInputs[Ints]) -> StepInputs[Tensor]: ...
@overload
def unpack(flat: Tensor, inputs: LogitsInputs[Ints]) -> LogitsInputs[Tensor]: ...
def unpack(flat: Tensor, inputs: StepInputs[Ints] | LogitsInputs[Ints]) -> StepInputs[Tensor] | LogitsInputs[Tensor]:
    """Return the inputs as views of a copy that starts with them; ``inputs`` gives the shapes."""
    views: dict[str, Any] = {field.name: None for field in fields(inputs)}
    start = 0
    for name, array in _arrays(inputs).items():
        views[name] = flat[start : start + math.prod(array.shape)].view(array.shape)
        start += _aligned(array)
    return StepInputs(**views) if isinstance(inputs, StepInputs) else LogitsInputs(**views)


def device_batch(inputs: StepInputs[Tensor], num_chunks: int, bank: AdapterBank) -> Batch:
    """Make the batch of the inputs on the device."""
    plan = PagedPlan(inputs.segments, inputs.block_tables, inputs.decode_tiles, inputs.prefill_tiles, num_chunks)
    adapters = None
    if inputs.mixtures is not None and inputs.column_ranges is not None:
        adapters = AdapterRows(inputs.mixtures, bank.weights, inputs.column_ranges)
    return Batch(inputs.token_ids, inputs.positions, inputs.slot_mapping, inputs.context_lens, plan, adapters)


def sampling_rows(inputs: LogitsInputs[Tensor], rows: slice) -> SamplingRows:
    """Return what ``sample`` takes for some rows; without constraints the masks are one unused word."""
    masks = inputs.sampling_ints[:1, :1] if inputs.masks is None else inputs.masks
    return SamplingRows(inputs.sampling_ints[rows], inputs.sampling_floats[rows].view(torch.float32), masks)
