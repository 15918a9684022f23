"""A step's work laid out on the host: what every backend makes its batch of, and what is to be read from the logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from warmeng.engine.request import GenerateRequest
from warmeng.engine.scheduler import Work
from warmeng.engine.sequence import PENDING, Sequence
from warmeng.kernels.attention import Segment


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
    """What the step must read from the logits."""

    samples: tuple[tuple[int, Sequence], ...]  # (row, sequence that draws its next token from it)
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Layout:
    """One row for each token that the step computes."""

    tokens: list[int]  # where the token isn't known yet: -1 - its place among the previous step's samples
    positions: list[int]
    slots: list[int]  # block * block_size + offset
    adapters: list[str]  # content hash, "" for none
    segments: list[Segment]  # cover the rows in order
    wanted: Wanted


def lay_out(work: list[Work], block_size: int) -> Layout:
    """Lay out a step, sequence by sequence in the order of ``work``."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    adapters: list[str] = []
    segments: list[Segment] = []
    samples: list[tuple[int, Sequence]] = []
    targets: list[Target] = []
    for item in work:
        sequence = item.sequence
        first = len(tokens)
        _place(item, block_size, positions, slots, segments)
        chosen = sequence.tokens[item.start : item.stop]
        tokens.extend(-1 - sequence.pending_row if token == PENDING else token for token in chosen)
        adapters.extend([sequence.adapter_hash] * len(chosen))
        if isinstance(sequence.request, GenerateRequest):
            if item.stop == len(sequence.tokens):
                samples.append((len(tokens) - 1, sequence))
            targets.extend(_prompt_targets(item, first))
        else:
            targets.extend(_label_targets(item, first))
    return Layout(tokens, positions, slots, adapters, segments, Wanted(tuple(samples), tuple(targets)))


def _place(work: Work, block_size: int, positions: list[int], slots: list[int], segments: list[Segment]) -> None:
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
