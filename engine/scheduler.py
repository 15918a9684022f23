"""Which sequences compute which tokens in the next step, and where their keys and values go."""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from typing import NamedTuple

from warmeng.engine.cache import BlockPool, block_hashes
from warmeng.engine.request import GenerateRequest, Request, ScoreRequest
from warmeng.engine.sequence import PENDING, Sequence

_EASE = 64  # steps after which limits that lack of memory has halved are doubled
# Of the tokens that a sequence may still generate, the part that blocks are held back for: 1 / _GROWTH. Sequences end
# at different times, so all never need their longest answers at once; less held back means more at once, and more
# that is computed twice. docs/performance.md has what was tried.
_GROWTH = 3
_URGENT = -1  # the group of requests that are taken before all others: gradings of answers just given


class Work(NamedTuple):
    """Tokens ``start`` to ``stop`` of a sequence, computed in one step."""

    sequence: Sequence
    start: int
    stop: int


class Scheduler:
    """Continuous batching with chunked prefill.

    Every step takes one token of each decoding sequence, then fills the token budget with prompts. The plan is known
    beforehand: requests are grouped by their first block, so that shared prefixes are computed once, and the longest
    of a
    group come first, so that none straggles at the end. A sequence is admitted when its prompt and a part of its
    longest answer fit beside what the running ones still expect (``_GROWTH``); so running out of blocks is rare, and
    then the youngest sequence gives its blocks back and is computed again later.
    """

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        max_num_seqs: int,
        max_batched_tokens: int,
        max_seq_len: int,
        admit_together: int = 1,
    ) -> None:
        """``admit_together``: places that must be free before waiting sequences are let in, while others decode.

        Steps that only decode are cheaper to start than mixed ones; letting sequences in one by one would mix nearly
        all.
        """
        self.pool = pool
        self.block_size = block_size
        self.max_num_seqs = max_num_seqs
        self.max_batched_tokens = max_batched_tokens
        self.max_seq_len = max_seq_len
        self._whole = max_num_seqs, max_batched_tokens  # the limits while memory suffices
        self._steps_since_retreat = 0
        self._admit_together = admit_together
        self.running: dict[int, Sequence] = {}  # by arrival, in the order of admission
        self.preemptions = 0
        self._waiting: list[tuple[int, int, int, Sequence]] = []
        self._preempted: deque[Sequence] = deque()
        self._groups: dict[tuple[str, tuple[int, ...]], int] = {}
        self._arrivals = 0

    @property
    def busy(self) -> bool:
        """Something runs or waits."""
        return bool(self.running or self._waiting or self._preempted)

    def why_too_long(self, request: Request) -> str:
        """Say why a request can never run, or return an empty string."""
        longest = max((len(label) for label in request.labels), default=0) if isinstance(request, ScoreRequest) else 1
        if len(request.prompt) + longest > self.max_seq_len:
            return (
                f"the prompt has {len(request.prompt)} tokens and its continuation at least {longest}; "
                f"the model takes {self.max_seq_len} together"
            )
        needed = self._blocks_of(request, self._longest_answer(request))
        if needed > self.pool.num_blocks - 1:
            return (
                f"the request needs {needed * self.block_size} cache slots and the cache has "
                f"{(self.pool.num_blocks - 1) * self.block_size}: raise kv_bytes"
            )
        return ""

    def add(self, request: Request, adapter_hash: str, urgent: bool = False) -> Sequence:
        """Queue a request that ``why_too_long`` has no objection to."""
        tokens = list(request.prompt)
        if isinstance(request, ScoreRequest):
            for label in request.labels:
                tokens.extend(label[:-1])
        names = block_hashes(request.prompt, adapter_hash, self.block_size)
        length = len(tokens) + self._longest_answer(request)
        sequence = Sequence(request, adapter_hash, self._arrivals, tokens, names, limit=length)
        self._arrivals += 1
        head = (adapter_hash, request.prompt[: self.block_size])
        group = _URGENT if urgent else self._groups.setdefault(head, len(self._groups))
        heapq.heappush(self._waiting, (group, -length, sequence.arrival, sequence))
        return sequence

    def schedule(self) -> list[Work]:
        """Choose the next step's work and give it blocks.

        Empty where nothing is left to do, or where all that is left waits for the outcome of a started step.
        """
        work: list[Work] = []
        budget = self.max_batched_tokens
        decoding = False
        prompts: list[Sequence] = []
        preemptions = self.preemptions
        for sequence in list(self.running.values()):
            if self._waits(sequence):
                continue
            start, stop = sequence.computed, len(sequence.tokens)
            if stop - start > 1:
                prompts.append(sequence)
            elif stop > start and budget > 0:
                decoding = True
                if self.preemptions != preemptions and sequence.arrival not in self.running:
                    continue  # one that was taken before it has preempted it
                if sequence.prompt_len <= start < len(sequence.blocks) * self.block_size:  # its last block has room
                    work.append(Work(sequence, start, stop))
                    budget -= 1
                else:
                    budget -= self._take(sequence, budget, work)
        for sequence in prompts:
            if budget > 0 and sequence.arrival in self.running:
                budget -= self._take(sequence, budget, work)
        if budget > 0 and not (decoding and not prompts and self._holds_back()):
            self._let_in(budget, work)
        return work

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out and release its blocks."""
        if self.running.pop(sequence.arrival, None) is None:
            self._preempted.remove(sequence)  # it gave its blocks back while the step that ended it was under way
        self._release(sequence)

    def clear(self) -> None:
        """Take all sequences out, and release their blocks."""
        for sequence in list(self.running.values()):
            self.finish(sequence)
        self._preempted.clear()
        self._waiting.clear()

    def retreat(self, work: list[Work]) -> bool:
        """Take back a step that could not run for lack of memory, and make the next ones smaller.

        Its sequences are computed again from their beginning. Returns False where the step was as small as can be: one
        token of one sequence.
        """
        self._steps_since_retreat = 0
        rows = sum(item.stop - item.start for item in work)
        for item in reversed(work):
            for index in range(item.start // self.block_size, len(item.sequence.blocks)):
                self.pool.unpublish(item.sequence.blocks[index])  # what it was to hold was not computed
        for item in reversed(work):
            if item.sequence.arrival in self.running:
                self._preempt(item.sequence)
        if rows == 1:
            return False
        self.max_batched_tokens = max(1, rows // 2)
        self.max_num_seqs = max(1, min(self.max_num_seqs, self.max_batched_tokens))
        return True

    def _holds_back(self) -> bool:
        """Tell whether waiting sequences should wait until more of them can start together."""
        free = self.max_num_seqs - len(self.running)
        return not self._preempted and free < min(self._admit_together, self.max_num_seqs // 8, len(self._waiting))

    def ran(self) -> None:
        """Note that a step found the memory it needed; after some of them the limits of a retreat are eased."""
        self._steps_since_retreat += 1
        if (self.max_num_seqs, self.max_batched_tokens) != self._whole and self._steps_since_retreat % _EASE == 0:
            seqs, tokens = self._whole
            self.max_num_seqs = min(seqs, 2 * self.max_num_seqs)
            self.max_batched_tokens = min(tokens, 2 * self.max_batched_tokens)

    def _waits(self, sequence: Sequence) -> bool:
        """Tell whether a sequence can't go on before its pending token is known."""
        if sequence.tokens[-1] > PENDING:
            return False
        return sequence.matcher is not None or len(sequence.tokens) >= sequence.limit

    def _take(self, sequence: Sequence, budget: int, work: list[Work]) -> int:
        """Schedule up to ``budget`` tokens; preempt younger sequences where blocks lack. Returns how many."""
        start = sequence.computed
        stop = min(start + budget, len(sequence.tokens))
        main = stop if sequence.generates else min(stop, sequence.prompt_len)
        needed = -(-main // self.block_size) - len(sequence.blocks)
        while needed > self.pool.available:
            victim = self._victim(work, sequence)
            self._preempt(victim)
            if victim is sequence:
                return 0
        sequence.blocks.extend([self.pool.allocate() for _ in range(needed)])
        for index in range(start // self.block_size, min(stop // self.block_size, len(sequence.names))):
            self.pool.publish(sequence.blocks[index], sequence.names[index])
        work.append(Work(sequence, start, stop))
        return stop - start

    def _victim(self, work: list[Work], needy: Sequence) -> Sequence:
        """Return the youngest running sequence that has no work in this step, or the needy one itself."""
        scheduled = {item.sequence.arrival for item in work}
        for sequence in reversed(self.running.values()):
            if sequence.arrival not in scheduled:
                return sequence
        return needy

    def _preempt(self, sequence: Sequence) -> None:
        del self.running[sequence.arrival]
        self._release(sequence)
        sequence.computed = 0
        self._preempted.appendleft(sequence)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        for block in reversed(sequence.blocks):
            self.pool.release(block)
        for blocks in sequence.branch_blocks:
            for block in blocks:
                self.pool.release(block)
        del sequence.blocks[:]
        sequence.branch_blocks.clear()

    def _let_in(self, budget: int, work: list[Work]) -> None:
        """Admit sequences while there are places, tokens and blocks for them."""
        if not (self._waiting or self._preempted):
            return
        owed = sum(self._owed(sequence) for sequence in self.running.values())
        while budget > 0 and len(self.running) < self.max_num_seqs:
            admitted = self._admit(owed)
            if admitted is None:
                return
            budget -= self._take(admitted, budget, work)
            owed += self._owed(admitted)

    def _owed(self, sequence: Sequence) -> int:
        """Return the blocks that a running sequence is still expected to take."""
        return max(0, self._expected_blocks(sequence) - _held(sequence))

    def _admit(self, owed: int) -> Sequence | None:
        """Take the next waiting sequence in, with the cached part of its prompt, where it fits beside ``owed``."""
        if self._preempted:
            sequence = self._preempted[0]
            if self._waits(sequence):
                return None
        elif self._waiting:
            sequence = self._waiting[0][-1]
        else:
            return None
        names = self._usable_names(sequence)
        found = 0
        while found < len(names) and self.pool.cached(names[found]):
            found += 1
        idle = sum(self.pool.is_idle(name) for name in names[:found])
        needed = self._expected_blocks(sequence) - found
        if self.running and needed + idle + owed > self.pool.available:
            return None
        if self._preempted:
            self._preempted.popleft()
        else:
            heapq.heappop(self._waiting)
        for name in names[:found]:
            block = self.pool.find(name)
            assert block is not None
            sequence.blocks.append(block)
        sequence.computed = found * self.block_size
        if not sequence.admitted_once:
            sequence.cached = sequence.computed
            sequence.admitted_once = True
        for start, stop in sequence.branches():
            count = -(-(stop - start) // self.block_size)
            sequence.branch_blocks.append(array("i", [self.pool.allocate() for _ in range(count)]))
        self.running[sequence.arrival] = sequence
        return sequence

    def _usable_names(self, sequence: Sequence) -> list[bytes]:
        """Return the names of the blocks that may come from the cache: the prompt's last token must be computed."""
        if isinstance(sequence.request, GenerateRequest) and sequence.request.prompt_logprobs:
            return []
        return sequence.names[: (sequence.prompt_len - 1) // self.block_size]

    def _expected_blocks(self, sequence: Sequence) -> int:
        """Return the blocks that a sequence will have taken when it ends, by what is known now."""
        if not sequence.generates:
            return self._blocks_of(sequence.request, 0)
        done = len(sequence.tokens)
        return -(-(done + max(1, (sequence.limit - done) // _GROWTH)) // self.block_size)

    def _blocks_of(self, request: Request, answer: int) -> int:
        blocks = -(-(len(request.prompt) + answer) // self.block_size)
        if isinstance(request, ScoreRequest):
            blocks += sum(-(-(len(label) - 1) // self.block_size) for label in request.labels)
        return blocks

    def _longest_answer(self, request: Request) -> int:
        if isinstance(request, ScoreRequest):
            return 0
        return min(request.sampling.max_new_tokens, self.max_seq_len - len(request.prompt))


def _held(sequence: Sequence) -> int:
    return len(sequence.blocks) + sum(len(blocks) for blocks in sequence.branch_blocks)
