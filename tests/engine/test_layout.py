"""A step's arrays, told token by token."""

from __future__ import annotations

import hashlib
import random
from array import array

import numpy as np
import pytest

from warmeng.engine.layout import Layout, PromptLogprob, build_layout, sampling_records
from warmeng.engine.request import GenerateRequest, SamplingParams, ScoreRequest
from warmeng.engine.scheduler import Work
from warmeng.engine.sequence import PENDING, Sequence

BLOCK = 4


def sequence(rng: random.Random, arrival: int) -> Sequence:
    """One that generates, with its last token pending or not, or one that scores labels; blocks in any order."""
    prompt = tuple(rng.randrange(100) for _ in range(rng.randint(1, 11)))
    request: GenerateRequest | ScoreRequest
    if rng.random() < 0.5:
        request = GenerateRequest(str(arrival), prompt, prompt_logprobs=rng.random() < 0.3)
        tokens = [*prompt, *(rng.randrange(100) for _ in range(rng.randint(0, 5)))]
        if rng.random() < 0.5:
            tokens.append(PENDING - rng.randrange(8))
    else:
        labels = tuple(tuple(rng.randrange(100) for _ in range(rng.randint(1, 6))) for _ in range(3))
        request = ScoreRequest(str(arrival), prompt, labels)
        tokens = [*prompt, *(token for label in labels for token in label[:-1])]
    made = Sequence(request, rng.choice(["", "x", "y"]), arrival, tokens, [], max_len=99)
    main = len(prompt) if isinstance(request, ScoreRequest) else len(tokens)
    made.block_table = array("i", rng.sample(range(1, 1000), -(-main // BLOCK)))
    for first, stop in made.branches():
        made.branch_tables.append(array("i", rng.sample(range(1000, 2000), -(-(stop - first) // BLOCK))))
    return made


def places(made: Sequence, at: int) -> tuple[int, int, list[int]]:
    """Return a token's position, its slot, and the slots that it sees."""
    branch = next(((k, span) for k, span in enumerate(made.branches()) if span[0] <= at < span[1]), None)

    def slot(blocks: array[int], i: int) -> int:
        return blocks[i // BLOCK] * BLOCK + i % BLOCK

    main = [slot(made.block_table, i) for i in range(min(at + 1, made.prompt_len) if branch else at + 1)]
    if branch is None:
        return at, main[-1], main
    k, (first, _) = branch
    own = [slot(made.branch_tables[k], i) for i in range(at - first + 1)]
    return made.prompt_len + at - first, own[-1], main + own


def seen(layout: Layout, segment: int, row: int) -> list[int]:
    """Return the slots that a row of a segment sees."""
    low, high = layout.holes[segment].tolist()
    table = layout.block_tables[segment]
    slots = (i for i in range(int(layout.context_lens[row])) if not low <= i < high)
    return [int(table[i // BLOCK]) * BLOCK + i % BLOCK for i in slots]


@pytest.mark.parametrize("seed", range(30))
def test_every_row_is_the_token_it_stands_for(seed: int) -> None:
    rng = random.Random(seed)
    work = []
    for arrival in range(rng.randint(1, 7)):
        made = sequence(rng, arrival)
        start = rng.randrange(len(made.tokens))
        work.append(Work(made, start, rng.randint(start + 1, len(made.tokens))))
    layout = build_layout(work, BLOCK)
    expected = [(item.sequence, at) for item in work for at in range(item.start, item.stop)]
    assert layout.token_ids.tolist() == [made.tokens[at] for made, at in expected]
    found = [places(made, at) for made, at in expected]
    assert layout.positions().tolist() == [position for position, _, _ in found]
    assert layout.slot_mapping(BLOCK).tolist() == [slot for _, slot, _ in found]
    segments = np.repeat(np.arange(len(layout.query_lens)), layout.query_lens).tolist()
    assert [seen(layout, segment, row) for row, segment in enumerate(segments)] == [slots for _, _, slots in found]
    assert [layout.adapters[segment] for segment in segments] == [made.adapter_key for made, _ in expected]
    ends = [item.sequence for item in work if item.sequence.generates and item.stop == len(item.sequence.tokens)]
    assert layout.logits_plan.sampled == ends
    last = [(made, len(made.tokens) - 1) for made in ends]
    assert [expected[row] for row in layout.logits_plan.sample_rows] == last
    for target in layout.logits_plan.targets:
        made, at = expected[target.row]
        assert made is target.sequence
        if isinstance(target, PromptLogprob):
            assert (target.index, target.token) == (at + 1, made.tokens[at + 1])
        else:
            assert isinstance(made.request, ScoreRequest)
            label, index = target.label, target.index
            assert target.token == made.request.labels[label][index]
            assert at == (made.branches()[label][0] + index - 1 if index else made.prompt_len - 1)


def test_sampling_parameters_are_packed_as_they_were_given() -> None:
    params = SamplingParams(temperature=0.7, top_k=2**40, top_p=0.9, seed=2**40 + 5)
    made = [
        Sequence(GenerateRequest("a", (1, 2), params, noise_key=("item", 3)), "", 0, [1, 2, 9], [], max_len=9),
        Sequence(GenerateRequest("b", (1,), noise_key=("item", 4)), "", 1, [1], [], max_len=9),
    ]
    records, places = sampling_records(made)
    assert places.tolist() == [1, 0]
    assert records["seed"].tolist() == [5, 0]
    assert records["sample"].tolist() == [3, 4]
    assert records["top_k"].tolist() == [2**31 - 1, 0]
    assert records["temperature"].tolist() == [np.float32(0.7), 0.0]
    assert records["top_p"].tolist() == [np.float32(0.9), 1.0]
    # blake2b of "item", its first eight bytes as two little-endian words
    assert (records["item"] == records["item"][0]).all()
    assert records["item"][0].tobytes() == hashlib.blake2b(b"item", digest_size=8).digest()
