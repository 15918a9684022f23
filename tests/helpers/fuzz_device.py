"""A device in place of the engine's: does with a scheduler what the engine does, and knows what each slot holds."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

from warmeng.engine.cache import NULL_BLOCK
from warmeng.engine.request import GenerateRequest, Request, ScoreRequest
from warmeng.engine.scheduler import Scheduler, Work
from warmeng.engine.sequence import PENDING, Sequence

BLOCK = 4  # slots: small, so that few tokens take many blocks


def fixed(*parts: object) -> int:
    """Return a number that depends on nothing but these."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


@dataclass
class Device:
    """Does with a scheduler what the engine does, and remembers what each slot of the cache holds.

    A slot's content is the adapter and all tokens up to it. Before a token is computed, every slot before it must hold
    the sequence's own content: so nothing was overwritten, shared wrongly, or left out after a preemption.
    """

    scheduler: Scheduler
    overlap: bool  # a step is scheduled before the outcome of the one before it is known
    slots: dict[tuple[int, int], object] = field(default_factory=dict)
    flight: tuple[list[Work], dict[int, int]] | None = None
    results: dict[str, tuple[int, ...]] = field(default_factory=dict)
    computed: Counter[str] = field(default_factory=Counter)
    copied: int = 0

    def truth(self, sequence: Sequence) -> list[int]:
        """Return the tokens that a sequence has, pending ones by what they will be."""
        known = sequence.tokens
        return [
            t if t != PENDING else self.choose(sequence.request, k - sequence.prompt_len) for k, t in enumerate(known)
        ]

    @staticmethod
    def choose(request: Request, index: int) -> int:
        """Return the token that the model chooses, whatever the batch."""
        return 100 + fixed(request.id, index) % 7

    @staticmethod
    def ends(request: Request, index: int) -> bool:
        """Whether the model ends before its token ``index``."""
        return fixed("end", request.id) % 23 == index

    def places(self, sequence: Sequence, stop: int) -> list[tuple[tuple[int, int], object]]:
        """Return (slot, content) of a sequence's first tokens: its main line, and labels on their own blocks."""
        tokens, found = self.truth(sequence), []
        spans = sequence.branches()
        main = sequence.prompt_len if isinstance(sequence.request, ScoreRequest) else len(tokens)
        for at in range(stop):
            if at < main:
                where, content = (sequence.block_table[at // BLOCK], at % BLOCK), tuple(tokens[: at + 1])
            else:
                branch = next(k for k, (start, end) in enumerate(spans) if start <= at < end)
                start = spans[branch][0]
                where = (sequence.branch_tables[branch][(at - start) // BLOCK], (at - start) % BLOCK)
                content = (*tokens[:main], *tokens[start : at + 1])
            found.append((where, (sequence.adapter_key, content)))
        return found

    def step(self, lacks_memory: bool = False) -> None:
        """Schedule and start a step, then settle one."""
        scheduler = self.scheduler
        work = scheduler.schedule()
        assert work or self.flight, "nothing can be scheduled although requests wait"
        assert sum(item.stop - item.start for item in work) <= scheduler.max_batched_tokens
        assert len(scheduler.running) <= scheduler.max_num_seqs
        assert len({item.sequence.arrival for item in work}) == len(work)
        started = None
        if work and lacks_memory:
            self.settle()
            scheduler.shrink_after_oom(work)
        elif work:
            started = self.start(work)
        if started is not None and not self.overlap:
            self.flight = started
            self.settle()
        elif started is not None or not lacks_memory:
            before, self.flight = self.flight, started
            if before is not None:
                self.settle(before)
        self.check_owners()

    def start(self, work: list[Work]) -> tuple[list[Work], dict[int, int]]:
        """Write the tokens of a step, then read all that they need."""
        for item in work:
            assert item.sequence.num_computed_tokens == item.start < item.stop
            for where, content in self.places(item.sequence, item.stop)[item.start :]:
                assert where[0] != NULL_BLOCK
                self.slots[where] = content
            self.computed[item.sequence.request.id] += item.stop - item.start
        for item in work:
            if item.copy is not None:
                assert 0 < item.copy.slots == item.start % BLOCK
                for slot in range(item.copy.slots):
                    self.slots[item.copy.target, slot] = self.slots[item.copy.source, slot]
                self.copied += item.copy.slots
        for item in work:
            for where, content in self.places(item.sequence, item.stop):
                assert self.slots[where] == content, "a slot holds another prefix"
        ends = {}
        self.scheduler.note_success()
        for item in work:
            item.sequence.num_computed_tokens = item.stop
            if isinstance(item.sequence.request, GenerateRequest) and item.stop == len(item.sequence.tokens):
                ends[item.sequence.arrival] = len(item.sequence.tokens)
                item.sequence.tokens.append(PENDING)
        return work, ends

    def settle(self, flight: tuple[list[Work], dict[int, int]] | None = None) -> None:
        """Take the outcome of a step."""
        if flight is None:
            flight, self.flight = self.flight, None
        for item in flight[0] if flight else ():
            sequence, request = item.sequence, item.sequence.request
            if sequence.finished:
                continue
            if isinstance(request, ScoreRequest):
                if item.stop == len(sequence.tokens):
                    self.finish(sequence)
            elif flight is not None and sequence.arrival in flight[1]:
                place = flight[1][sequence.arrival]
                index = place - sequence.prompt_len
                if self.ends(request, index):
                    del sequence.tokens[place:]
                    self.finish(sequence)
                else:
                    sequence.tokens[place] = self.choose(request, index)
                    if place + 1 >= sequence.max_len:
                        del sequence.tokens[place + 1 :]
                        self.finish(sequence)

    def finish(self, sequence: Sequence) -> None:
        """End a sequence."""
        sequence.finished = True
        assert sequence.request.id not in self.results, "a request is answered twice"
        self.results[sequence.request.id] = tuple(sequence.generated)
        self.scheduler.finish(sequence)

    def check_owners(self) -> None:
        """Blocks that two sequences hold are prompts' that begin alike; what is held and what is free is everything."""
        held: Counter[int] = Counter()
        for sequence in self.scheduler.running.values():
            mine = [*sequence.block_table, *(block for blocks in sequence.branch_tables for block in blocks)]
            assert len(set(mine)) == len(mine)
            held.update(mine)
            for where, content in self.places(sequence, sequence.num_computed_tokens):
                assert self.slots[where] == content, "a block was overwritten while it was in use"
        assert self.scheduler.pool.available == self.scheduler.pool.num_blocks - 1 - len(held)


def expected(request: Request, longest: int) -> tuple[int, ...]:
    """Return what a request is answered, alone."""
    if isinstance(request, ScoreRequest):
        return tuple(t for label in request.labels for t in label[:-1])
    found: list[int] = []
    while len(found) < longest and not Device.ends(request, len(found)):
        found.append(Device.choose(request, len(found)))
    return tuple(found)
