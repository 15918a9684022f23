"""A step's work laid out on the host: the rows of every backend's batch, and what is read from the logits.

The arrays are joined from buffers that the sequences keep. So a step costs the host little for each sequence, whether
it decodes or computes a prompt.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from warmeng.engine.cache import NULL_BLOCK
from warmeng.engine.request import GenerateRequest, TopLogprobs
from warmeng.engine.scheduler import Copy, Work
from warmeng.engine.sequence import SAMPLING, Sequence

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class PromptLogprob:
    """The log-probability of a prompt's token ``index``, read from the logits of ``row``."""

    row: int
    token: int
    sequence: Sequence
    index: int

    def store(self, value: float) -> None:
        """Put the value where it belongs; a sequence that was preempted may have it already."""
        if self.index == len(self.sequence.prompt_logprobs) + 1:
            self.sequence.prompt_logprobs.append(value)


@dataclass(frozen=True)
class LabelLogprob:
    """The log-probability of token ``index`` of a label, read from the logits of ``row``."""

    row: int
    token: int
    sequence: Sequence
    label: int
    index: int

    def store(self, value: float) -> None:
        """Put the value where it belongs."""
        self.sequence.label_logprobs[self.label, self.index] = value


LogprobTarget = PromptLogprob | LabelLogprob


@dataclass(frozen=True)
class TopTarget:
    """The likeliest tokens in the place of a sequence's token ``index``, read from the logits of ``row``.

    Of a score request ``index`` is one more than the place in ``Sequence.label_places``.
    """

    row: int
    sequence: Sequence
    index: int

    @property
    def count(self) -> int:
        """How many are asked for."""
        request = self.sequence.request
        return request.sampling.top_logprobs if isinstance(request, GenerateRequest) else request.top_logprobs

    def store(self, value: TopLogprobs) -> None:
        """Put the value where it belongs; a sequence that was preempted may have it already."""
        if not self.sequence.generates:
            self.sequence.label_top_logprobs[self.index - 1] = value[: self.count]
            return
        prompt, generated = self.sequence.prompt_top_logprobs, self.sequence.top_logprobs
        if self.index == len(prompt) + 1 < self.sequence.prompt_len:
            prompt.append(value[: self.count])
        elif self.index == self.sequence.prompt_len + len(generated):
            generated.append(value[: self.count])


@dataclass(frozen=True)
class LogitsPlan:
    """What a step reads from its logits: ``sampled`` draw their next tokens from ``sample_rows``."""

    sample_rows: list[int] = field(default_factory=list)
    sampled: list[Sequence] = field(default_factory=list)
    targets: list[LogprobTarget] = field(default_factory=list)
    tops: list[TopTarget] = field(default_factory=list)

    @cached_property
    def target_rows(self) -> list[int]:
        """The rows that targets of either kind are read from, ascending."""
        return sorted({target.row for target in (*self.targets, *self.tops)})

    @cached_property
    def top_count(self) -> int:
        """The most tokens that are asked for in one place."""
        return max((top.count for top in self.tops), default=0)


@dataclass(frozen=True)
class Layout:
    """One row for each token that the step computes: the query tokens of all segments, one segment after the other.

    A segment is a run of tokens that are neighbours in one block table. Its last token sees the first ``seq_lens``
    slots of the table, each token before it one less, and none sees the slots of its hole.
    """

    # [rows]; pending ones are encoded as ``PENDING`` says.
    token_ids: Ints
    # [segments]: rows of each.
    query_lens: Ints
    # [segments]
    seq_lens: Ints
    # [segments, 2]: the first slot and the one after the last; equal where there is none.
    holes: Ints
    # [segments, longest]: cache blocks, then null blocks.
    block_tables: Ints
    # [segments]: the key of the mixture of adapters, "" for none.
    adapters: list[str]
    logits_plan: LogitsPlan
    # In their order: one may be from what another one wrote.
    copies: tuple[Copy, ...] = ()

    @cached_property
    def cu_seqlens_q(self) -> Ints:
        """Rows before each segment, and of all segments: [segments + 1]."""
        return np.concatenate([np.zeros(1, dtype=np.int32), np.cumsum(self.query_lens, dtype=np.int32)])

    @cached_property
    def context_lens(self) -> Ints:
        """Slots of each row's block table up to its own, [rows]."""
        rows = np.arange(1, len(self.token_ids) + 1, dtype=np.int32)
        return rows + np.repeat(self.seq_lens - self.cu_seqlens_q[1:], self.query_lens)

    def positions(self) -> Ints:
        """Each row's position in its text, [rows]: its slot, less the hole before it."""
        return self.context_lens - 1 - np.repeat(self.holes[:, 1] - self.holes[:, 0], self.query_lens)

    def slot_mapping(self, block_size: int) -> Ints:
        """Where each row's keys and values go, [rows]: block * block_size + offset."""
        slot = self.context_lens - 1
        segment = np.repeat(np.arange(len(self.query_lens)), self.query_lens)
        return self.block_tables[segment, slot // block_size] * block_size + slot % block_size


def build_layout(work: list[Work], block_size: int) -> Layout:
    """Lay out a step, sequence by sequence in the order of ``work``."""
    tokens: list[int] = []
    segments = _Segments()
    query_lens, seq_lens = segments.query_lens, segments.seq_lens
    tables, adapters = segments.tables, segments.adapters
    plan = LogitsPlan()
    for item in work:
        sequence, start, stop, _ = item
        first_row = len(tokens)
        tokens += sequence.tokens[start:stop]
        if isinstance(sequence.request, GenerateRequest):
            # What ``segments.add`` does, without a call for each sequence.
            query_lens.append(stop - start)
            seq_lens.append(stop)
            tables.append(sequence.block_table)
            adapters.append(sequence.adapter_key)
            if stop == len(sequence.tokens):
                plan.sample_rows.append(len(tokens) - 1)
                plan.sampled.append(sequence)
                if sequence.request.sampling.top_logprobs:
                    plan.tops.append(TopTarget(len(tokens) - 1, sequence, stop))
            if start < sequence.prompt_len:
                of_prompt = _prompt_logprobs(item, first_row)
                plan.targets.extend(of_prompt)
                if sequence.request.sampling.top_logprobs:
                    plan.tops.extend(TopTarget(target.row, sequence, target.index) for target in of_prompt)
        else:
            _add_score(item, block_size, segments)
            of_labels = _label_logprobs(item, first_row)
            plan.targets.extend(of_labels)
            if sequence.request.top_logprobs:
                rows = sorted({target.row for target in of_labels})
                plan.tops.extend(TopTarget(row, sequence, row - first_row + start + 1) for row in rows)
    copies = tuple(item.copy for item in work if item.copy is not None)
    return segments.layout(tokens, plan, copies)


class _Segments:
    """Collects the segments of a step."""

    def __init__(self) -> None:
        self.query_lens: list[int] = []
        self.seq_lens: list[int] = []
        self.tables: list[array[int]] = []
        self.adapters: list[str] = []
        self.holes: dict[int, tuple[int, int]] = {}

    def add(
        self, sequence: Sequence, table: array[int], query_len: int, seq_len: int, hole: tuple[int, int] = (0, 0)
    ) -> None:
        """Add a segment of ``query_len`` rows whose last one sees ``seq_len`` slots of ``table``."""
        if hole[1] > hole[0]:
            self.holes[len(self.tables)] = hole
        self.query_lens.append(query_len)
        self.seq_lens.append(seq_len)
        self.tables.append(table)
        self.adapters.append(sequence.adapter_key)

    def layout(self, tokens: list[int], logits_plan: LogitsPlan, copies: tuple[Copy, ...]) -> Layout:
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
            logits_plan,
            copies,
        )


def _padded(tables: list[array[int]]) -> Ints:
    """Put block tables below each other, each followed by null blocks."""
    lengths = np.array([len(table) for table in tables])
    padded = np.full((len(tables), lengths.max()), NULL_BLOCK, dtype=np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.frombuffer(b"".join(tables), dtype=np.int32)
    return padded


def _add_score(work: Work, block_size: int, segments: _Segments) -> None:
    """Add the segments of a score request: its prompt, then its labels, each on the prompt's blocks and its own."""
    sequence, start, stop, _ = work
    prompt_stop = min(stop, sequence.prompt_len)
    if start < prompt_stop:
        segments.add(sequence, sequence.block_table, prompt_stop - start, prompt_stop)
    prompt_blocks = -(-sequence.prompt_len // block_size)
    prompt_slots = prompt_blocks * block_size
    for (first, end), blocks in zip(sequence.branches(), sequence.branch_tables, strict=True):
        low, high = max(first, start), min(end, stop)
        if low < high:
            table = sequence.block_table[:prompt_blocks] + blocks
            hole = sequence.prompt_len, prompt_slots
            segments.add(sequence, table, high - low, prompt_slots + high - first, hole)


def sampling_records(sequences: list[Sequence]) -> tuple[npt.NDArray[np.void], npt.NDArray[np.uint32]]:
    """Return how each sequence's next token is drawn: its ``SAMPLING`` record, and the token's index in the answer."""
    records = np.frombuffer(b"".join([sequence.sampling for sequence in sequences]), dtype=SAMPLING)
    indices = [len(sequence.tokens) - sequence.prompt_len for sequence in sequences]
    return records, np.array(indices, dtype=np.uint32)


def _prompt_logprobs(work: Work, first_row: int) -> list[PromptLogprob]:
    """Each row gives the log-probability of the prompt's next token; those known before a preemption are left out."""
    sequence = work.sequence
    assert isinstance(sequence.request, GenerateRequest)
    if not sequence.request.prompt_logprobs:
        return []
    start = max(work.start, len(sequence.prompt_logprobs))
    stop = min(work.stop, sequence.prompt_len - 1)
    row = first_row - work.start
    return [PromptLogprob(row + i, sequence.tokens[i + 1], sequence, i + 1) for i in range(start, stop)]


def _label_logprobs(work: Work, first_row: int) -> list[LabelLogprob]:
    """A label's first token is read after the prompt's last one, the others after the label's own tokens."""
    sequence = work.sequence
    assert not isinstance(sequence.request, GenerateRequest)
    targets = []
    for label, (places, ids) in enumerate(zip(sequence.label_places(), sequence.request.labels, strict=True)):
        for index, place in enumerate(places):
            if work.start <= place < work.stop:
                targets.append(LabelLogprob(first_row + place - work.start, ids[index], sequence, label, index))
    return targets
