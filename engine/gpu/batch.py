"""Every tensor of one step on the device, carried there in one copy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from warmeng.engine.cache import NULL_BLOCK
from warmeng.engine.gpu.lora import AdapterBank
from warmeng.engine.layout import Layout
from warmeng.engine.request import GenerateRequest
from warmeng.engine.sequence import Sequence
from warmeng.kernels.gpu.attention import FIELDS, PagedPlan, Tiling, cut
from warmeng.kernels.gpu.change import ROW_TILE, AdapterRows, spans
from warmeng.kernels.gpu.sampling import FLOATS, INTS, SamplingRows

Ints = npt.NDArray[np.int32]
_ALIGN = 4  # integers: every array starts at 16 bytes, as wide loads ask
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
    count, segments = len(layout.tokens), layout.segments
    total = rows or -(-count // ROW_TILE) * ROW_TILE
    padding = total - count
    queries = [s.num_queries for s in segments]
    longest = max(s.context_len for s in segments)
    least_width = -(-max(len(s.table) for s in segments) // _TABLE_STEP) * _TABLE_STEP
    num_segments = total if rows else len(segments)
    about = np.zeros((num_segments, FIELDS), dtype=np.int32)
    tables = np.full((num_segments, table_width or least_width), NULL_BLOCK, dtype=np.int32)
    first = 0
    lengths: list[int] = []
    for i, s in enumerate(segments):
        about[i] = (first, s.num_queries, s.context_len, *s.hole, i)
        tables[i, : len(s.table)] = s.table
        lengths.extend(range(s.context_len - s.num_queries + 1, s.context_len + 1))
        first += s.num_queries
    # A segment without a hole has an empty one past its end, so that no slot is looked at twice.
    no_hole = about[:, 4] <= about[:, 3]
    about[no_hole, 3:5] = np.iinfo(np.int32).max
    contexts = [s.context_len for s in segments] + [0] * (num_segments - len(segments))
    decode, prefill = cut(queries + [1] * (num_segments - len(segments)), group, tiling, contexts)
    arrays: dict[str, Ints] = {
        "token_ids": _int32(layout.tokens, padding),
        "positions": _int32(layout.positions, padding),
        "slots": _int32(layout.slots, padding, NULL_BLOCK * block_size),
        "lengths": _int32(lengths, padding),
        "segments": about,
        "tables": tables,
        "decode": decode,
        "prefill": prefill,
    }
    has_adapters = any(layout.adapters)
    if has_adapters:
        ids = _int32([bank.numbers[name] if name else -1 for name in layout.adapters], padding, -1)
        arrays |= {"ids": ids, "spans": spans(ids, bank.columns)}
    chunks = -(-longest // tiling.chunk)
    return HostBatch(arrays, chunks, has_adapters, min(layout.tokens) < 0)


def _int32(values: list[int], padding: int, fill: int = 0) -> Ints:
    return np.asarray(values + [fill] * padding, dtype=np.int32)


def sampling_arrays(sequences: list[Sequence], mask_rows: dict[int, int]) -> dict[str, Ints]:
    """Return what ``choose`` needs of each sampled sequence; ``mask_rows``: place of a constrained one to its mask."""
    ints = np.zeros((len(sequences), INTS), dtype=np.int32)
    floats = np.zeros((len(sequences), FLOATS), dtype=np.float32)
    for i, sequence in enumerate(sequences):
        request = sequence.request
        assert isinstance(request, GenerateRequest)
        params = request.sampling
        position = len(sequence.tokens) - sequence.prompt_len
        first, second = sequence.item_words()
        words = (params.seed & 0xFFFFFFFF, first, second, request.noise_key[1], position)
        ints[i, :5] = np.asarray(words, dtype=np.uint32).view(np.int32)
        ints[i, 5:7] = params.top_k, mask_rows.get(i, -1)
        floats[i] = params.temperature, params.top_p
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
