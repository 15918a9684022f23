"""Which sequences compute which tokens in the next step, and where their keys and values go."""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from typing import NamedTuple

from warmeng.engine.cache import NULL_BLOCK, BlockPool, hash_blocks
from warmeng.engine.request import GenerateRequest, Request, ScoreRequest
from warmeng.engine.sequence import PENDING, Sequence

# Limits that an out-of-memory error halved are doubled after this many steps.
_STEPS_UNTIL_DOUBLED = 64
# Blocks are held back for 1 / _GROWTH of the tokens that a sequence may still generate. Sequences end at different
# times, so they never need their longest answers all at once. Holding back less lets more sequences run at once and
# more be computed twice. docs/performance.md has what was tried.
_GROWTH = 3
# Requests of this group are admitted before all others: they grade answers that were just given.
_URGENT_GROUP = -1


class Copy(NamedTuple):
    """The first ``slots`` of a block, copied to another one after a step's keys and values are written."""

    source: int
    target: int
    slots: int


class Work(NamedTuple):
    """Tokens ``start`` to ``stop`` of a sequence, computed in one step."""

    sequence: Sequence
    start: int
    stop: int
    # What the block with ``start`` begins with is there already, in another one.
    copy: Copy | None = None

    @property
    def num_scheduled_tokens(self) -> int:
        """Tokens that the step computes for this sequence: its rows."""
        return self.stop - self.start


class Scheduler:
    """Continuous batching with chunked prefill.

    Every step takes one token of each decoding sequence, then fills the token budget with prompts. Most requests are
    known beforehand, so they are grouped by their first block: a shared prefix is then computed once. A group takes no
    more members once its first one is admitted, so that what arrives later delays no other group without end. Within a
    group the longest go first, so that none straggles at the end. A sequence is admitted when its prompt and a part of
    its longest answer fit beside what the running sequences are still expected to take (``_GROWTH``). So blocks rarely
    run out. When they do, the youngest sequence is preempted: it gives its blocks back and is computed again later.
    """

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        max_num_seqs: int,
        max_batched_tokens: int,
        max_seq_len: int,
        min_admit: int = 1,
        copies: bool = False,
    ) -> None:
        """``min_admit``: places that must be free before waiting sequences are admitted while others decode.

        A step that only decodes is cheaper to launch than a mixed one. Admitting sequences one by one would make
        nearly all steps mixed. ``copies``: steps copy slots, so that prompts share the beginning of a block.
        """
        self.pool = pool
        self.block_size = block_size
        self.max_num_seqs = max_num_seqs
        self.max_batched_tokens = max_batched_tokens
        self.max_seq_len = max_seq_len
        self._configured_limits = max_num_seqs, max_batched_tokens
        self._steps_since_oom = 0
        self._min_admit = min_admit
        self._copies = copies
        # Blocks that this step copies from.
        self._lent: list[int] = []
        # By arrival, in the order of admission.
        self.running: dict[int, Sequence] = {}
        self.preemptions = 0
        self._waiting: list[tuple[int, int, int, Sequence]] = []
        self._preempted: deque[Sequence] = deque()
        # Those that take members, by what they share.
        self._groups: dict[tuple[str, tuple[int, ...]], int] = {}
        self._group_count = 0
        self._arrivals = 0

    @property
    def num_waiting(self) -> int:
        """Sequences that don't run yet, or not at the moment."""
        return len(self._waiting) + len(self._preempted)

    @property
    def busy(self) -> bool:
        """Something runs or waits."""
        return bool(self.running or self._waiting or self._preempted)

    def rejection_reason(self, request: Request) -> str:
        """Say why a request can never run, or return an empty string."""
        longest = max((len(label) for label in request.labels), default=0) if isinstance(request, ScoreRequest) else 1
        if len(request.prompt) + longest > self.max_seq_len:
            return (
                f"the prompt has {len(request.prompt)} tokens and its continuation at least {longest}; "
                f"the model takes {self.max_seq_len} together"
            )
        needed = self._blocks_needed(request, self._longest_answer(request))
        if needed > self.pool.num_blocks - 1:
            return (
                f"the request needs {needed * self.block_size} cache slots and the cache has "
                f"{(self.pool.num_blocks - 1) * self.block_size}: raise kv_bytes"
            )
        return ""

    def add(self, request: Request, adapter_key: str, urgent: bool = False) -> Sequence:
        """Queue a request for which ``rejection_reason`` is empty."""
        tokens = list(request.prompt)
        if isinstance(request, ScoreRequest):
            for label in request.labels:
                tokens.extend(label[:-1])
        block_hashes = hash_blocks(request.prompt, adapter_key, self.block_size)
        length = len(tokens) + self._longest_answer(request)
        sequence = Sequence(request, adapter_key, self._arrivals, tokens, block_hashes, max_len=length)
        self._arrivals += 1
        group = _URGENT_GROUP if urgent else self._group_of(sequence)
        heapq.heappush(self._waiting, (group, -length, sequence.arrival, sequence))
        return sequence

    def _group_of(self, sequence: Sequence) -> int:
        head = self._head(sequence)
        if head not in self._groups:
            self._groups[head] = self._group_count
            self._group_count += 1
        return self._groups[head]

    def _head(self, sequence: Sequence) -> tuple[str, tuple[int, ...]]:
        return sequence.adapter_key, sequence.request.prompt[: self.block_size]

    def schedule(self) -> list[Work]:
        """Choose the next step's work and give it blocks.

        Empty where nothing is left to do, or where all that is left waits for the outcome of a launched step.
        """
        self._end_lending()
        work: list[Work] = []
        budget = self.max_batched_tokens
        decoding = False
        prompts: list[Sequence] = []
        preemptions = self.preemptions
        for sequence in list(self.running.values()):
            if self._awaits_token(sequence):
                continue
            start, stop = sequence.num_computed_tokens, len(sequence.tokens)
            if stop - start > 1:
                prompts.append(sequence)
            elif stop > start and budget > 0:
                decoding = True
                # A sequence that was scheduled before this one may have preempted it.
                if self.preemptions != preemptions and sequence.arrival not in self.running:
                    continue
                # The usual case, without a call: the last block has room for the token.
                if sequence.prompt_len <= start < len(sequence.block_table) * self.block_size:
                    work.append(Work(sequence, start, stop))
                    budget -= 1
                else:
                    budget -= self._schedule_tokens(sequence, budget, work)
        for sequence in prompts:
            if budget > 0 and sequence.arrival in self.running:
                budget -= self._schedule_tokens(sequence, budget, work)
        if budget > 0 and not (decoding and not prompts and self._should_batch_admissions()):
            self._admit_waiting(budget, work)
        return work

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and release its blocks."""
        if self.running.pop(sequence.arrival, None) is None:
            if sequence.admitted_once:
                # It was preempted, perhaps while the step that ended it was under way.
                self._preempted.remove(sequence)
            else:
                self._waiting = [entry for entry in self._waiting if entry[-1] is not sequence]
                heapq.heapify(self._waiting)
                open_groups = {entry[0] for entry in self._waiting}
                self._groups = {head: group for head, group in self._groups.items() if group in open_groups}
        self._release(sequence)

    def clear(self) -> None:
        """Take all sequences out, and release their blocks."""
        for sequence in list(self.running.values()):
            self.finish(sequence)
        self._end_lending()
        self._preempted.clear()
        self._waiting.clear()
        self._groups.clear()

    def shrink_after_oom(self, work: list[Work]) -> bool:
        """Take back a step that ran out of memory, and halve the limits of the next ones.

        Its sequences are computed again from their beginning. Returns False where the step was as small as can be: one
        token of one sequence.
        """
        self._steps_since_oom = 0
        self._end_lending()
        num_scheduled_tokens = sum(item.num_scheduled_tokens for item in work)
        # ``_schedule_tokens`` published the prefixes of this step before they were computed: now they never are.
        for item in reversed(work):
            for index in range(item.start // self.block_size, len(item.sequence.block_table)):
                self.pool.unpublish(item.sequence.block_table[index])
        for item in reversed(work):
            if item.sequence.arrival in self.running:
                self._preempt(item.sequence)
        if num_scheduled_tokens == 1:
            return False
        self.max_batched_tokens = max(1, num_scheduled_tokens // 2)
        self.max_num_seqs = max(1, min(self.max_num_seqs, self.max_batched_tokens))
        return True

    def note_success(self) -> None:
        """Count a step that found its memory; after ``_STEPS_UNTIL_DOUBLED`` of them, halved limits are doubled."""
        self._steps_since_oom += 1
        self._end_lending()
        limits = self.max_num_seqs, self.max_batched_tokens
        if limits != self._configured_limits and self._steps_since_oom % _STEPS_UNTIL_DOUBLED == 0:
            max_num_seqs, max_batched_tokens = self._configured_limits
            self.max_num_seqs = min(max_num_seqs, 2 * self.max_num_seqs)
            self.max_batched_tokens = min(max_batched_tokens, 2 * self.max_batched_tokens)

    def _awaits_token(self, sequence: Sequence) -> bool:
        """Tell whether a sequence can't go on before its pending token is known."""
        if sequence.tokens[-1] > PENDING:
            return False
        return sequence.matcher is not None or len(sequence.tokens) >= sequence.max_len

    def _schedule_tokens(self, sequence: Sequence, budget: int, work: list[Work]) -> int:
        """Schedule up to ``budget`` tokens of a running sequence; returns how many.

        Preempts younger sequences where blocks lack, or the sequence itself. Full blocks of the prompt are published
        at once, so that sequences admitted to the same step share them: attention reads what the step wrote.
        ``shrink_after_oom`` takes that back.
        """
        start = sequence.num_computed_tokens
        stop = min(start + budget, len(sequence.tokens))
        main_stop = stop if sequence.generates else min(stop, sequence.prompt_len)
        needed = -(-main_stop // self.block_size) - len(sequence.block_table)
        while needed > self.pool.available:
            victim = self._choose_victim(work, sequence)
            self._preempt(victim)
            if victim is sequence:
                return 0
        sequence.block_table.extend([self.pool.allocate() for _ in range(needed)])
        for index in range(start // self.block_size, min(stop // self.block_size, len(sequence.block_hashes))):
            self.pool.publish(sequence.block_table[index], sequence.block_hashes[index])
            if self._copies:
                first = index * self.block_size
                tokens = sequence.tokens[first : first + self.block_size]
                self.pool.publish_beginnings(sequence.block_table[index], _before(sequence, index), tokens)
        copy = None
        if sequence.lender:
            target = sequence.block_table[start // self.block_size]
            copy = Copy(sequence.lender, target, start % self.block_size)
            sequence.lender = NULL_BLOCK
        work.append(Work(sequence, start, stop, copy))
        return stop - start

    def _choose_victim(self, work: list[Work], needy: Sequence) -> Sequence:
        """Return the youngest running sequence that has no work in this step, or the needy one itself."""
        scheduled = {item.sequence.arrival for item in work}
        for sequence in reversed(self.running.values()):
            if sequence.arrival not in scheduled:
                return sequence
        return needy

    def _preempt(self, sequence: Sequence) -> None:
        del self.running[sequence.arrival]
        sequence.lender = NULL_BLOCK
        self._release(sequence)
        sequence.num_computed_tokens = 0
        self._preempted.appendleft(sequence)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        for block in reversed(sequence.block_table):
            self.pool.release(block)
        for branch_table in sequence.branch_tables:
            for block in branch_table:
                self.pool.release(block)
        del sequence.block_table[:]
        sequence.branch_tables.clear()

    def _should_batch_admissions(self) -> bool:
        """Tell whether waiting sequences should wait until more of them can start together."""
        free = self.max_num_seqs - len(self.running)
        return not self._preempted and free < min(self._min_admit, self.max_num_seqs // 8, len(self._waiting))

    def _admit_waiting(self, budget: int, work: list[Work]) -> None:
        """Admit sequences while there are places, tokens and blocks for them, and schedule their first tokens."""
        if not (self._waiting or self._preempted):
            return
        reserved = sum(self._blocks_still_expected(sequence) for sequence in self.running.values())
        while budget > 0 and len(self.running) < self.max_num_seqs:
            sequence = self._next_waiting()
            if sequence is None:
                return
            cached = self._cached_prefix(sequence)
            if self.running and not self._fits(sequence, cached, reserved):
                return
            self._admit(sequence, cached)
            budget -= self._schedule_tokens(sequence, budget, work)
            reserved += self._blocks_still_expected(sequence)

    def _next_waiting(self) -> Sequence | None:
        """Return the sequence whose turn it is, and leave it in its queue; preempted ones come first."""
        if self._preempted:
            sequence = self._preempted[0]
            return None if self._awaits_token(sequence) else sequence
        return self._waiting[0][-1] if self._waiting else None

    def _cached_prefix(self, sequence: Sequence) -> list[bytes]:
        """Return the hashes of the leading blocks that the cache holds.

        The prompt's last token must be computed, so its block is never taken from the cache. Nor is any block where
        the log-probabilities of the prompt are asked for.
        """
        if isinstance(sequence.request, GenerateRequest) and sequence.request.prompt_logprobs:
            return []
        usable = sequence.block_hashes[: (sequence.prompt_len - 1) // self.block_size]
        count = 0
        while count < len(usable) and self.pool.is_cached(usable[count]):
            count += 1
        return usable[:count]

    def _fits(self, sequence: Sequence, cached: list[bytes], reserved: int) -> bool:
        """Tell whether a sequence's expected blocks fit beside those ``reserved`` for the running ones.

        A cached block costs nothing where others use it already. An idle one counts among the available blocks until
        it is taken.
        """
        idle = sum(self.pool.is_idle(block_hash) for block_hash in cached)
        new = self._expected_blocks(sequence) - len(cached)
        return new + idle + reserved <= self.pool.available

    def _admit(self, sequence: Sequence, cached: list[bytes]) -> None:
        """Move the next waiting sequence to the running ones, with its cached blocks and its labels' own."""
        if self._preempted:
            self._preempted.popleft()
        else:
            heapq.heappop(self._waiting)
            self._groups.pop(self._head(sequence), None)
        for block_hash in cached:
            block = self.pool.acquire(block_hash)
            assert block is not None
            sequence.block_table.append(block)
        sequence.num_computed_tokens = len(cached) * self.block_size + self._borrow(sequence, len(cached))
        if not sequence.admitted_once:
            sequence.num_cached_tokens = sequence.num_computed_tokens
            sequence.admitted_once = True
        for start, stop in sequence.branches():
            count = -(-(stop - start) // self.block_size)
            sequence.branch_tables.append(array("i", [self.pool.allocate() for _ in range(count)]))
        self.running[sequence.arrival] = sequence

    def _borrow(self, sequence: Sequence, index: int) -> int:
        """Return how many of a prompt's tokens from block ``index`` on are copied from another block.

        The prompt's last token must be computed. What is copied from stays as it is until the step has run.
        """
        if not self._copies or (isinstance(sequence.request, GenerateRequest) and sequence.request.prompt_logprobs):
            return 0
        first = index * self.block_size
        rest = sequence.tokens[first : min(first + self.block_size, sequence.prompt_len) - 1]
        block, count = self.pool.find_beginning(_before(sequence, index), rest)
        # It may be one that would else have been given to this sequence.
        if not count or self._expected_blocks(sequence) - index >= self.pool.available:
            return 0
        self.pool.lend(block)
        self._lent.append(block)
        sequence.lender = block
        return count

    def _end_lending(self) -> None:
        for block in self._lent:
            self.pool.release(block)
        self._lent.clear()

    def _blocks_still_expected(self, sequence: Sequence) -> int:
        """Return the blocks that a running sequence is still expected to take."""
        held = len(sequence.block_table) + sum(len(table) for table in sequence.branch_tables)
        return max(0, self._expected_blocks(sequence) - held)

    def _expected_blocks(self, sequence: Sequence) -> int:
        """Return the blocks that a sequence is expected to have when it ends."""
        if not sequence.generates:
            return self._blocks_needed(sequence.request, 0)
        length = len(sequence.tokens)
        return -(-(length + max(1, (sequence.max_len - length) // _GROWTH)) // self.block_size)

    def _blocks_needed(self, request: Request, answer_len: int) -> int:
        """Return the blocks of a request with an answer of this length; labels share no blocks."""
        blocks = -(-(len(request.prompt) + answer_len) // self.block_size)
        if isinstance(request, ScoreRequest):
            blocks += sum(-(-(len(label) - 1) // self.block_size) for label in request.labels)
        return blocks

    def _longest_answer(self, request: Request) -> int:
        if isinstance(request, ScoreRequest):
            return 0
        return min(request.sampling.max_new_tokens, self.max_seq_len - len(request.prompt))


def _before(sequence: Sequence, index: int) -> bytes:
    """Return what names all that lies before a prompt's block."""
    return sequence.block_hashes[index - 1] if index else sequence.adapter_key.encode()
