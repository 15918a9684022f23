"""A step's work laid out on the host: what every backend makes its batch of, and what is to be read from the logits.

The arrays are joined from buffers that the sequences keep, so that a step costs little for each sequence, whether it
decodes or computes a prompt.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from warmeng.engine.cache import NULL_BLOCK
from warmeng.engine.request import GenerateRequest
from warmeng.engine.scheduler import Work
from warmeng.engine.sequence import SAMPLING, Sequence
from warmeng.kernels.attention import Segment

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Target:
    """A log-probability to read: of ``token`` after row ``row``.

    ``place`` says whose: ("prompt", index of the prompt token, 0) or ("label", label, index of the label's token).
    """

    row: int
    token: int
    sequence: Sequence
    place: tuple[str, int, int]


@dataclass(frozen=True)
class Wanted:
    """What the step must read from the logits: ``sampled`` draw their next tokens from ``sample_rows``."""

    sample_rows: list[int]
    sampled: list[Sequence]
    targets: list[Target]


@dataclass(frozen=True)
class Layout:
    """One row for each token that the step computes: the query tokens of all segments, one segment after the other.

    A segment is a run of tokens that are neighbours in one block table. Its last token sees the first ``seq_lens``
    slots of the table, each token before it one less, and none sees the slots of its hole.
    """

    token_ids: Ints  # [rows]; pending ones as ``PENDING`` says
    query_lens: Ints  # [segments]: rows of each
    seq_lens: Ints  # [segments]
    holes: Ints  # [segments, 2]: first slot and the one after the last; equal where there is none
    block_tables: Ints  # [segments, longest]: cache blocks, then null blocks
    adapters: list[str]  # [segments]: content hash, "" for none
    wanted: Wanted

    @cached_property
    def context_lens(self) -> Ints:
        """Slots of each row's block table up to its own, [rows]."""
        ends = np.cumsum(self.query_lens, dtype=np.int32)
        rows = np.arange(1, len(self.token_ids) + 1, dtype=np.int32)
        return rows + np.repeat(self.seq_lens - ends, self.query_lens)

    def positions(self) -> Ints:
        """Each row's place in its text, [rows]: its slot, less the hole before it."""
        return self.context_lens - 1 - np.repeat(self.holes[:, 1] - self.holes[:, 0], self.query_lens)

    def slot_mapping(self, block_size: int) -> Ints:
        """Where each row's keys and values go, [rows]: block * block_size + offset."""
        slot = self.context_lens - 1
        segment = np.repeat(np.arange(len(self.query_lens)), self.query_lens)
        return self.block_tables[segment, slot // block_size] * block_size + slot % block_size

    def segments(self) -> list[Segment]:
        """The segments one by one, for the CPU's attention."""
        tables = self.block_tables.astype(np.int64)
        sizes = zip(self.query_lens.tolist(), self.seq_lens.tolist(), self.holes.tolist(), strict=True)
        return [Segment(tables[i], queries, seen, (hole[0], hole[1])) for i, (queries, seen, hole) in enumerate(sizes)]


def lay_out(work: list[Work], block_size: int) -> Layout:
    """Lay out a step, sequence by sequence in the order of ``work``."""
    tokens: list[int] = []
    parts = _Segments()
    query_lens, seq_lens, tables, adapters = parts.query_lens, parts.seq_lens, parts.tables, parts.adapters
    wanted = Wanted([], [], [])
    for item in work:
        sequence, start, stop = item
        first = len(tokens)
        tokens += sequence.tokens[start:stop]
        if sequence.generates:
            query_lens.append(stop - start)  # as ``parts.add`` does, without a call for each sequence
            seq_lens.append(stop)
            tables.append(sequence.blocks)
            adapters.append(sequence.adapter_hash)
            if stop == len(sequence.tokens):
                wanted.sample_rows.append(len(tokens) - 1)
                wanted.sampled.append(sequence)
            if start < sequence.prompt_len:
                wanted.targets.extend(_prompt_targets(item, first))
        else:
            _add_score(item, block_size, parts)
            wanted.targets.extend(_label_targets(item, first))
    return parts.layout(tokens, wanted)


class _Segments:
    """Collects the segments of a step."""

    def __init__(self) -> None:
        self.query_lens: list[int] = []
        self.seq_lens: list[int] = []
        self.tables: list[array[int]] = []
        self.adapters: list[str] = []
        self.holes: dict[int, tuple[int, int]] = {}

    def add(
        self, sequence: Sequence, table: array[int], queries: int, seen: int, hole: tuple[int, int] = (0, 0)
    ) -> None:
        """Add a segment of ``queries`` rows whose last one sees ``seen`` slots of ``table``."""
        if hole[1] > hole[0]:
            self.holes[len(self.tables)] = hole
        self.query_lens.append(queries)
        self.seq_lens.append(seen)
        self.tables.append(table)
        self.adapters.append(sequence.adapter_hash)

    def layout(self, tokens: list[int], wanted: Wanted) -> Layout:
        """Return everything as arrays."""
        holes = np.zeros((len(self.tables), 2), dtype=np.int32)
        for segment, hole in self.holes.items():
            holes[segment] = hole
        return Layout(
            np.array(tokens, dtype=np.int32),
            np.array(self.query_lens, dtype=np.int32),
            np.array(self.seq_lens, dtype=np.int32),
            holes,
            _padded(self.tables),
            self.adapters,
            wanted,
        )


def _padded(tables: list[array[int]]) -> Ints:
    """Put block tables below each other, each followed by null blocks."""
    lengths = np.array([len(table) for table in tables])
    padded = np.full((len(tables), lengths.max()), NULL_BLOCK, dtype=np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.frombuffer(b"".join(tables), dtype=np.int32)
    return padded


def _add_score(work: Work, block_size: int, parts: _Segments) -> None:
    """Add the segments of a score request: its prompt, then its labels, each on the prompt's blocks and its own."""
    sequence, start, stop = work
    prompt_stop = min(stop, sequence.prompt_len)
    if start < prompt_stop:
        parts.add(sequence, sequence.blocks, prompt_stop - start, prompt_stop)
    prompt_blocks = -(-sequence.prompt_len // block_size)
    prompt_slots = prompt_blocks * block_size
    for (first, end), blocks in zip(sequence.branches(), sequence.branch_blocks, strict=True):
        low, high = max(first, start), min(end, stop)
        if low < high:
            table = sequence.blocks[:prompt_blocks] + blocks
            hole = sequence.prompt_len, prompt_slots
            parts.add(sequence, table, high - low, prompt_slots + high - first, hole)


def sampling_records(sequences: list[Sequence]) -> tuple[npt.NDArray[np.void], npt.NDArray[np.uint32]]:
    """Return how each sequence's next token is drawn: its ``SAMPLING`` record, and the token's place in the answer."""
    records = np.frombuffer(b"".join([sequence.sampling for sequence in sequences]), dtype=SAMPLING)
    places = [len(sequence.tokens) - sequence.prompt_len for sequence in sequences]
    return records, np.array(places, dtype=np.uint32)


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
