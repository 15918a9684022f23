"""Every tensor of one step on the device, carried there in one copy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from warmeng.engine.cache import NULL_BLOCK
from warmeng.engine.gpu.lora import AdapterBank
from warmeng.engine.layout import Ints, Layout, sampling_records
from warmeng.engine.sequence import PENDING, Sequence
from warmeng.kernels.gpu.attention import FIELDS, PagedPlan, Tiling, cut
from warmeng.kernels.gpu.lora import AdapterRows, spans
from warmeng.kernels.gpu.sampling import FLOATS, INTS, SamplingRows

_ALIGN = 4  # integers: every array starts at 16 bytes, as wide loads ask
# Rows by which steps outside graphs grow.
ROW_STEP = 16
_TABLE_STEP = 16  # blocks by which block tables grow: few widths, so that kernels are compiled for few


@dataclass(frozen=True)
class Batch:
    """One forward pass. Padding rows lie at the end, have no segment, and write to the null block."""

    token_ids: Tensor  # int32 [rows]
    positions: Tensor  # int32 [rows]
    slots: Tensor  # int32 [rows]
    lengths: Tensor  # int32 [rows]: slots of the row's table up to its own
    plan: PagedPlan
    adapters: AdapterRows | None  # None where no row has one


@dataclass(frozen=True)
class HostBatch:
    """A step's arrays on the host; ``chunks`` and the shapes are what kernels are launched for."""

    arrays: Mapping[str, Ints]
    chunks: int
    has_adapters: bool
    has_pending: bool  # some token is the previous step's choice


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
    """Lay a step out in arrays. ``rows`` and ``table_width`` fix their sizes, for graphs; else they are the least.

    Rows should come sorted by adapter: see ``spans``.
    """
    count, segments = len(layout.token_ids), len(layout.query_lens)
    total = rows or -(-count // ROW_STEP) * ROW_STEP
    padding = total - count
    num_segments = total if rows else segments
    longest = layout.block_tables.shape[1]
    about = np.zeros((num_segments, FIELDS), dtype=np.int32)
    about[:segments, 0] = np.cumsum(layout.query_lens) - layout.query_lens
    about[:segments, 1] = layout.query_lens
    about[:segments, 2] = layout.seq_lens
    about[:segments, 3:5] = layout.holes
    about[:segments, 5] = np.arange(segments)
    # A segment without a hole has an empty one past its end, so that no slot is looked at twice.
    about[about[:, 4] <= about[:, 3], 3:5] = np.iinfo(np.int32).max
    width = table_width or -(-longest // _TABLE_STEP) * _TABLE_STEP
    tables = np.full((num_segments, width), NULL_BLOCK, dtype=np.int32)
    tables[:segments, :longest] = layout.block_tables
    queries = (*layout.query_lens.tolist(), *[1] * (num_segments - segments))
    decode, prefill = _cut(queries, group, tiling)
    arrays: dict[str, Ints] = {
        "token_ids": _padded(layout.token_ids, padding),
        "positions": _padded(layout.positions(), padding),
        "slots": _padded(layout.slot_mapping(block_size), padding, NULL_BLOCK * block_size),
        "lengths": _padded(layout.context_lens, padding),
        "segments": about,
        "tables": tables,
        "decode": _longest_first(decode, about[:, 2]),
        "prefill": _longest_first(prefill, about[:, 2]),
    }
    has_adapters = any(layout.adapters)
    if has_adapters:
        numbers = np.array([bank.numbers[name] if name else -1 for name in layout.adapters], dtype=np.int32)
        ids = _padded(np.repeat(numbers, layout.query_lens), padding, -1)
        arrays |= {"ids": ids, "spans": spans(ids, bank.columns)}
    chunks = -(-int(layout.seq_lens.max()) // tiling.chunk)
    return HostBatch(arrays, chunks, has_adapters, int(layout.token_ids.min()) <= PENDING)


# Decoding steps of one size all have the same tiles.
_cut = lru_cache(maxsize=64)(cut)


def _longest_first(tiles: Ints, seq_lens: Ints) -> Ints:
    """Order tiles by their segment's length: started last, a long one would run on alone."""
    return tiles[np.argsort(-seq_lens[tiles[:, 0]], kind="stable")]


def _padded(values: Ints, padding: int, fill: int = 0) -> Ints:
    padded = np.full(len(values) + padding, fill, dtype=np.int32)
    padded[: len(values)] = values
    return padded


def sampling_arrays(sequences: list[Sequence], mask_rows: dict[int, int]) -> dict[str, Ints]:
    """Return what ``choose`` needs of each sampled sequence; ``mask_rows``: place of a constrained one to its mask."""
    records, places = sampling_records(sequences)
    ints = np.zeros((len(sequences), INTS), dtype=np.int32)
    floats = np.empty((len(sequences), FLOATS), dtype=np.float32)
    words = ints.view(np.uint32)
    words[:, 0] = records["seed"]
    words[:, 1:3] = records["item"]
    words[:, 3] = records["sample"]
    words[:, 4] = places
    ints[:, 5] = records["top_k"]
    ints[:, 6] = -1
    ints[list(mask_rows), 6] = list(mask_rows.values())
    floats[:, 0] = records["temperature"]
    floats[:, 1] = records["top_p"]
    return {"ints": ints, "floats": floats.view(np.int32)}


def pack(arrays: Mapping[str, Ints]) -> tuple[Ints, dict[str, tuple[int, tuple[int, ...]]]]:
    """Put arrays one behind the other; returns them and (offset, shape) of each."""
    places: dict[str, tuple[int, tuple[int, ...]]] = {}
    end = 0
    for name, array in arrays.items():
        places[name] = (end, array.shape)
        end += -(-array.size // _ALIGN) * _ALIGN
    flat = np.zeros(max(end, _ALIGN), dtype=np.int32)
    for name, array in arrays.items():
        flat[places[name][0] : places[name][0] + array.size] = array.ravel()
    return flat, places


def unpack(flat: Tensor, places: Mapping[str, tuple[int, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Return views of the arrays that ``pack`` put together."""
    return {name: flat[at : at + math.prod(shape)].view(shape) for name, (at, shape) in places.items()}


def device_batch(views: Mapping[str, Tensor], host: HostBatch, bank: AdapterBank) -> Batch:
    """Make the batch of its arrays on the device."""
    plan = PagedPlan(views["segments"], views["tables"], views["decode"], views["prefill"], host.chunks)
    adapters = AdapterRows(views["ids"], bank.owner, views["spans"]) if host.has_adapters else None
    return Batch(views["token_ids"], views["positions"], views["slots"], views["lengths"], plan, adapters)


def sampling_rows(views: Mapping[str, Tensor]) -> SamplingRows:
    """Return what ``choose`` takes; without constraints the masks are one unused word."""
    floats = views["floats"].view(torch.float32)
    masks = views.get("masks", views["ints"][:1, :1])
    return SamplingRows(views["ints"], floats, masks)
