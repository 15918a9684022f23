"""Blocks, the prefix cache and the scheduler, by what they do."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmeng.engine.cache import NULL_BLOCK, BlockPool, hash_blocks
from warmeng.engine.request import GenerateRequest, SamplingParams, ScoreRequest
from warmeng.engine.scheduler import Scheduler, Work

BLOCK = 16


def make(blocks: int = 40, seqs: int = 8, budget: int = 64, max_len: int = 512) -> Scheduler:
    return Scheduler(BlockPool(blocks), BLOCK, seqs, budget, max_len)


def request(name: str, prompt: list[int], new: int = 8) -> GenerateRequest:
    return GenerateRequest(name, tuple(prompt), SamplingParams(max_new_tokens=new))


def advance(scheduler: Scheduler, work: list[Work], finish_at: int) -> list[str]:
    """Do what the engine does after a step; sequences end after ``finish_at`` new tokens."""
    done = []
    for item in work:
        sequence = item.sequence
        assert sequence.num_computed_tokens == item.start
        sequence.num_computed_tokens = item.stop
        if sequence.num_computed_tokens < len(sequence.tokens):
            continue
        if isinstance(sequence.request, ScoreRequest) or len(sequence.generated) + 1 >= finish_at:
            scheduler.finish(sequence)
            done.append(sequence.request.id)
        else:
            sequence.tokens.append(1)
    return done


def drain(scheduler: Scheduler, finish_at: int = 8) -> list[str]:
    order: list[str] = []
    for _ in range(10_000):
        if not scheduler.busy:
            return order
        work = scheduler.schedule()
        assert work
        assert sum(w.stop - w.start for w in work) <= scheduler.max_batched_tokens
        assert len(scheduler.running) <= scheduler.max_num_seqs
        order += advance(scheduler, work, finish_at)
    raise AssertionError("the scheduler did not come to an end")


def test_names_are_of_content_prefix_and_adapter() -> None:
    tokens = list(range(50))
    names = hash_blocks(tokens, "", BLOCK)
    assert len(names) == 3
    assert hash_blocks(tokens[:47], "", BLOCK) == names[:2]
    assert not set(hash_blocks(tokens, "adapter", BLOCK)) & set(names)
    other = hash_blocks([99, *tokens[1:]], "", BLOCK)
    assert not set(other) & set(names)  # a change at the start renames every later block


def test_null_block_is_never_given_out_and_low_blocks_come_first() -> None:
    pool = BlockPool(5)
    given_out = [pool.allocate() for _ in range(4)]
    assert given_out == [1, 2, 3, 4]
    assert NULL_BLOCK not in given_out
    with pytest.raises(IndexError):
        pool.allocate()
    pool.release(3)
    pool.release(1)
    assert pool.allocate() == 1


def test_cached_blocks_are_found_shared_and_evicted_oldest_first() -> None:
    pool = BlockPool(4)
    blocks = [pool.allocate() for _ in range(3)]
    for block, name in zip(blocks, (b"a", b"b", b"c"), strict=True):
        pool.publish(block, name)
        pool.release(block)
    assert pool.available == 3
    assert pool.acquire(b"b") == blocks[1]
    assert pool.acquire(b"b") == blocks[1]
    assert pool.allocate() == blocks[0]  # the oldest unused one gives way
    assert pool.acquire(b"a") is None
    pool.release(blocks[1])
    assert pool.available == 1
    pool.release(blocks[1])
    assert pool.available == 2


def test_requests_of_one_step_share_their_prefix() -> None:
    scheduler = make(budget=200)
    prefix = list(range(100, 140))
    for i in range(3):
        scheduler.add(request(str(i), [*prefix, i, i, i]), "")
    work = scheduler.schedule()
    assert [w.start for w in work] == [0, 32, 32]
    tables = [w.sequence.block_table for w in work]
    assert tables[0][:2] == tables[1][:2] == tables[2][:2]
    assert len({t[2] for t in tables}) == 3


def test_adapters_never_share_blocks() -> None:
    scheduler = make(budget=200)
    prompt = list(range(100, 140))
    for i, adapter in enumerate(("", "x", "y", "x")):
        scheduler.add(request(str(i), prompt), adapter)
    by_adapter = {}
    for w in scheduler.schedule():
        by_adapter.setdefault(w.sequence.adapter_key, []).append(set(w.sequence.block_table[:2]))
    assert by_adapter["x"][0] == by_adapter["x"][1]
    assert not by_adapter[""][0] & by_adapter["x"][0]
    assert not by_adapter["y"][0] & by_adapter["x"][0]


def test_long_prompts_are_chunked_while_others_decode() -> None:
    scheduler = make(budget=32)
    scheduler.add(request("short", [1, 2, 3]), "")
    advance(scheduler, scheduler.schedule(), 99)
    scheduler.add(request("long", list(range(100))), "")
    spans = []
    for _ in range(4):
        work = scheduler.schedule()
        spans.append({w.sequence.request.id: (w.start, w.stop) for w in work})
        advance(scheduler, work, 99)
    assert [span["long"] for span in spans] == [(0, 31), (31, 62), (62, 93), (93, 100)]
    assert all(span["short"][1] - span["short"][0] == 1 for span in spans)


def test_preemption_gives_way_to_the_oldest_and_everything_ends() -> None:
    scheduler = make(blocks=14, seqs=8, budget=64)
    names = [str(i) for i in range(6)]
    for i in range(6):
        scheduler.add(request(names[i], [i] * 20, new=100), "")
    order = drain(scheduler, finish_at=100)
    assert scheduler.preemptions > 0
    assert Counter(order) == Counter(names)
    assert scheduler.pool.available == 13


def test_urgent_requests_go_first() -> None:
    scheduler = make(seqs=1)
    for name in "ab":
        scheduler.add(request(name, [3, 4, 5]), "")
    scheduler.add(request("now", [9]), "", urgent=True)
    assert drain(scheduler) == ["now", "a", "b"]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), blocks=st.integers(9, 40), budget=st.integers(1, 80), seqs=st.integers(1, 9))
def test_every_request_ends_and_every_block_comes_back(seed: int, blocks: int, budget: int, seqs: int) -> None:
    rng = random.Random(seed)
    scheduler = make(blocks, seqs, budget, max_len=100)
    names = []
    for i in range(rng.randint(1, 14)):
        prompt = [rng.randint(0, 1)] * rng.randint(1, 60)
        asked: GenerateRequest | ScoreRequest
        if rng.random() < 0.3:
            asked = ScoreRequest(str(i), tuple(prompt), tuple((j,) * rng.randint(1, 20) for j in range(2)))
        else:
            asked = request(str(i), prompt, new=rng.randint(1, 40))
        if scheduler.rejection_reason(asked):
            continue
        names.append(str(i))
        scheduler.add(asked, rng.choice(["", "x"]))
    finish_at = rng.randint(1, 30)
    assert Counter(drain(scheduler, finish_at)) == Counter(names)
    assert scheduler.pool.available == blocks - 1


def test_what_keeps_arriving_delays_no_other_group_without_end() -> None:
    scheduler = make(blocks=20, seqs=1)
    scheduler.add(request("first", [1] * 20), "")
    scheduler.add(request("other", [2] * 20), "")
    done: list[str] = []
    for turn in range(60):
        scheduler.add(request(f"more {turn}", [1] * 20), "")
        done += advance(scheduler, scheduler.schedule(), 2)
    # One more came while the first one's group was still open.
    assert done[:3] == ["first", "more 0", "other"]


def test_a_server_of_many_prompts_keeps_nothing_of_those_that_ended() -> None:
    scheduler = make()
    for turn in range(50):
        scheduler.add(request(f"{turn}", [turn + 1] * 20), "")
        dropped = scheduler.add(request(f"dropped {turn}", [turn + 100] * 20), "")
        scheduler.finish(dropped)
        drain(scheduler, 2)
    assert not scheduler._groups
    assert not scheduler.busy


def test_prompts_share_the_beginning_of_a_block() -> None:
    scheduler = Scheduler(BlockPool(40), BLOCK, 8, 200, 512, copies=True)
    prefix = list(range(100, 125))
    for i, rest in enumerate(([1] * 20, [2] * 20, [2] * 3, [], [1])):
        scheduler.add(request(str(i), [*prefix, *rest]), "")
    work = scheduler.schedule()
    longest, other, three, whole, one = sorted(work, key=lambda w: w.sequence.request.id)
    assert (longest.start, longest.copy) == (0, None)
    # After a block of 16 tokens: 9 more in common, and what the one before it has in common too.
    assert (other.start, three.start, whole.start, one.start) == (25, 27, 24, 25)
    second = [w.sequence.block_table[1] for w in (longest, other, three, whole, one)]
    assert len(set(second)) == 5
    assert other.copy == (second[0], second[1], 9)
    assert three.copy == (second[1], second[2], 11)
    assert whole.copy is not None
    assert whole.copy.slots == 8
    assert one.sequence.num_cached_tokens == 25
    advance(scheduler, work, 99)
    assert all(w.copy is None for w in scheduler.schedule())


def test_what_is_copied_from_stays_until_the_step_has_run() -> None:
    # The second prompt needs four blocks; of the five, two keep the first one's prefix.
    pool = BlockPool(6)
    scheduler = Scheduler(pool, BLOCK, 8, 200, 512, copies=True)
    scheduler.add(request("first", [*range(100, 116), *range(16)], new=1), "")
    assert advance(scheduler, scheduler.schedule(), 1) == ["first"]
    scheduler.add(request("second", [*range(100, 116), *range(10), *[7] * 34], new=1), "")
    (item,) = scheduler.schedule()
    assert item.copy is not None
    assert item.start == 16 + 10
    assert item.copy.source not in item.sequence.block_table
    assert pool.available == 0
    scheduler.note_success()
    assert pool.available == 1
    assert advance(scheduler, [item], 1) == ["second"]
    assert pool.available == 5
    # One block fewer: the beginning is computed rather than kept.
    pool = BlockPool(5)
    scheduler = Scheduler(pool, BLOCK, 8, 200, 512, copies=True)
    scheduler.add(request("first", [*range(100, 116), *range(16)], new=1), "")
    advance(scheduler, scheduler.schedule(), 1)
    scheduler.add(request("second", [*range(100, 116), *range(10), *[7] * 34], new=1), "")
    (item,) = scheduler.schedule()
    assert (item.start, item.copy) == (16, None)
