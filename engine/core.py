"""The loop under the engine: schedule a step, launch it, collect what the one before it gave."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from warmeng.engine.backend import NOT_FINITE, Runner, StepHandle, is_out_of_memory
from warmeng.engine.cache import BlockPool
from warmeng.engine.constraints import ConstraintCompiler, Matcher
from warmeng.engine.request import (
    GenerateRequest,
    GenerateResult,
    Progress,
    Request,
    RequestError,
    Result,
    ScoreRequest,
)
from warmeng.engine.results import generation, hits_stop_string, refusal, score_result
from warmeng.engine.scheduler import Scheduler, Work
from warmeng.engine.sequence import PENDING, Sequence
from warmeng.engine.settings import EngineLimits
from warmeng.engine.tokenizer import Tokenizer
from warmeng.engine.vectors import Vector

# Tries of a step of one token, the smallest there is: other processes may give memory back meanwhile.
_MAX_OOM_TRIES = 3


@dataclass
class EngineStats:
    """Running totals."""

    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    steps: int = 0
    # Of all steps; the tokens of preempted sequences count again.
    computed_tokens: int = 0
    preemptions: int = 0
    # Steps that ran out of memory; smaller ones were tried in their place.
    oom_steps: int = 0
    longest_step: float = 0.0  # seconds


@dataclass(frozen=True)
class InFlightStep:
    """A launched step whose output has not been collected."""

    handle: StepHandle
    # The index in its tokens that each sampled sequence's new token takes.
    positions: list[int]
    # The score requests of which this step computes the last tokens.
    scored: list[Sequence]


class EngineCore:
    """Runs sequences on a runner until each has its result, which ``unread`` then holds."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        stop_token_ids: tuple[int, ...],
        block_size: int,
        limits: EngineLimits,
    ) -> None:
        self.stats = EngineStats()
        self.pool = BlockPool(runner.num_blocks, max_idle=max(64, runner.num_blocks // 4))
        self.scheduler = Scheduler(
            self.pool,
            block_size,
            limits.max_num_seqs,
            limits.max_batched_tokens,
            limits.max_seq_len,
            limits.min_admit,
            copies=runner.copies,
        )
        self.unread: deque[Result] = deque()
        # By request id, until their results are made.
        self._sequences: dict[str, Sequence] = {}
        # Made when the first constraint comes.
        self.compiler: ConstraintCompiler | None = None
        self._runner = runner
        self._tokenizer = tokenizer
        self._stop_token_ids = stop_token_ids
        self._in_flight: InFlightStep | None = None
        # Steps of one token that ran out of memory, one after the other.
        self._oom_count = 0
        # Names of the runner's projections.
        self._projected: tuple[str, ...] = ()

    @property
    def busy(self) -> bool:
        """Something is queued or runs."""
        return self.scheduler.busy or self._in_flight is not None

    def add(self, request: Request, adapter_key: str, matcher: Matcher | None, urgent: bool) -> None:
        """Queue a checked request, or refuse one that can never run."""
        reason = self.scheduler.rejection_reason(request)
        if reason:
            self.unread.append(refusal(request, "too_long", reason))
            return
        sequence = self.scheduler.add(request, adapter_key, urgent)
        sequence.matcher = matcher
        self._sequences[request.id] = sequence

    def step(self) -> None:
        """Launch the next step, then collect the one before it, which ran meanwhile.

        Tokens that are not known yet stand as pending; the device knows them. A sequence that turns out to have
        ended was then computed once too often, which costs a row and changes nothing.
        """
        work = self.scheduler.schedule()
        launched = self._launch(work) if work else None
        if self._runner.overlap == 0 and launched is not None:
            self._collect(launched)
            return
        previous, self._in_flight = self._in_flight, launched
        if previous is not None:
            self._collect(previous)

    def project_onto(self, vectors: Mapping[str, Vector]) -> None:
        """Give generations their mean projections, by name; nothing may be busy."""
        self._projected = tuple(vectors)
        self._runner.project_onto(list(vectors.values()))

    def progress(self, request_id: str, start: int) -> Progress | None:
        """Return what a generation has from its token ``start`` on; None where its result is made."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return None
        tokens = sequence.tokens[sequence.prompt_len + start :]
        known = tuple(tokens[:-1] if tokens and tokens[-1] <= PENDING else tokens)
        return Progress(known, tuple(sequence.logprobs[start:]), tuple(sequence.top_logprobs[start:]))

    def cancel(self, request_id: str) -> None:
        """Drop one request, its result included; its blocks are free at once.

        A step that is under way may still write to them: the next step runs after it.
        """
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None:
            sequence.finished = True
            self.scheduler.finish(sequence)
        for result in [result for result in self.unread if result.id == request_id]:
            self.unread.remove(result)

    def cancel_all(self) -> None:
        """Drop everything that is queued, running or not read yet."""
        self._collect_in_flight()
        self.scheduler.clear()
        self._sequences.clear()
        self.unread.clear()

    def probe_logits(self, tokens: tuple[int, ...], adapter_key: str) -> Tensor:
        """Return the logits after a text, beside all that runs, on the host, [vocab]."""
        sequence = Sequence(GenerateRequest("probe", tokens), adapter_key, -1, list(tokens), [], max_len=len(tokens))
        count = -(-len(tokens) // self.scheduler.block_size)
        sequence.block_table.extend(self.pool.allocate() for _ in range(count))
        try:
            return self._runner.last_logits(Work(sequence, 0, len(tokens)))
        finally:
            for block in sequence.block_table:
                self.pool.release(block)

    def mean_hidden(self, texts: Seq[tuple[Seq[int], Seq[bool]]], adapter_key: str) -> Tensor:
        """Return the mean hidden states over the marked tokens of texts, beside all that runs, on the host.

        texts: (tokens, marks), at least one of them marked. Texts are computed together as far as a step's tokens and
        the cache allow. Returns fp32 [texts, layers + 1, hidden]. Raises RequestError where a text doesn't fit.
        """
        found: list[Tensor] = []
        group: list[tuple[Seq[int], Seq[bool]]] = []
        size = self.scheduler.block_size
        for text in texts:
            blocks = sum(-(-len(tokens) // size) for tokens, _ in [*group, text])
            count = sum(len(tokens) for tokens, _ in [*group, text])
            if group and (blocks > self.pool.available or count > self.scheduler.max_batched_tokens):
                found.append(self._mean_hidden(group, adapter_key))
                group = []
            if -(-len(text[0]) // size) > self.pool.available:
                raise RequestError(f"a text of {len(text[0])} tokens doesn't fit the cache: raise kv_bytes")
            group.append(text)
        return torch.cat([*found, self._mean_hidden(group, adapter_key)])

    def _mean_hidden(self, texts: Seq[tuple[Seq[int], Seq[bool]]], adapter_key: str) -> Tensor:
        work, start = [], 0
        weights = torch.zeros(len(texts), sum(len(tokens) for tokens, _ in texts))
        for row, (tokens, marks) in zip(weights, texts, strict=True):
            row[start : start + len(tokens)] = torch.tensor(marks, dtype=torch.float32) / sum(marks)
            start += len(tokens)
            request = GenerateRequest("probe", tuple(tokens))
            sequence = Sequence(request, adapter_key, -1, list(tokens), [], max_len=len(tokens))
            count = -(-len(tokens) // self.scheduler.block_size)
            sequence.block_table.extend(self.pool.allocate() for _ in range(count))
            work.append(Work(sequence, 0, len(tokens)))
        try:
            return self._runner.sum_hidden(work, weights)
        finally:
            for item in work:
                for block in item.sequence.block_table:
                    self.pool.release(block)

    def _launch(self, work: list[Work]) -> InFlightStep | None:
        """Launch a step; where it runs out of memory, shrink the next ones and return None."""
        try:
            handle = self._runner.start(work, self.compiler)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            message = str(error).partition("\n")[0]
        else:
            return self._commit(work, handle)
        # Outside the except block: the error's traceback holds the tensors of the step that failed.
        self._handle_oom(work, message)
        return None

    def _commit(self, work: list[Work], handle: StepHandle) -> InFlightStep:
        """Count a launched step's tokens as computed, and give each sampled sequence a pending token."""
        self._oom_count = 0
        self.scheduler.note_success()
        self.stats.steps += 1
        self.stats.computed_tokens += sum(item.num_scheduled_tokens for item in work)
        self.stats.preemptions = self.scheduler.preemptions
        scored = []
        for sequence, _, stop, _ in work:
            sequence.num_computed_tokens = stop
            if not sequence.generates and stop == len(sequence.tokens):
                scored.append(sequence)
        positions = []
        for row, sequence in enumerate(handle.sampled):
            positions.append(len(sequence.tokens))
            sequence.tokens.append(PENDING - row)
        return InFlightStep(handle, positions, scored)

    def _handle_oom(self, work: list[Work], message: str) -> None:
        """Free what can be freed and take the step back; refuse its requests where it can't get smaller."""
        # The step in flight gives its memory back when it is done.
        self._collect_in_flight()
        self._runner.release_memory()
        self.stats.oom_steps += 1
        if self.scheduler.shrink_after_oom(work):
            return
        self._oom_count += 1
        if self._oom_count < _MAX_OOM_TRIES:
            return
        self._oom_count = 0
        for item in work:
            if not item.sequence.finished:
                detail = f"one token alone found no memory ({message}): choose a smaller model or free memory"
                self._finish(item.sequence, refusal(item.sequence.request, "out_of_memory", detail))

    def _collect_in_flight(self) -> None:
        previous, self._in_flight = self._in_flight, None
        if previous is not None:
            self._collect(previous)

    def _collect(self, step: InFlightStep) -> None:
        """Wait for a step and take its output: log-probabilities, sampled tokens, and what is finished by them."""
        output = step.handle.wait()
        for target, value in output.targets:
            target.store(value)
        for top, likeliest in output.tops:
            top.store(likeliest)
        drawn = zip(output.tokens, output.logprobs, output.projections, strict=True)
        sampled = zip(step.handle.sampled, step.positions, drawn, strict=True)
        for sequence, position, (token, logprob, projections) in sampled:
            if not sequence.finished:
                if projections:
                    sequence.projections.append(projections)
                self._append_token(sequence, position, token, logprob)
        for sequence in step.scored:
            if not sequence.finished:
                assert isinstance(sequence.request, ScoreRequest)
                self._finish(sequence, score_result(sequence, sequence.request))

    def _append_token(self, sequence: Sequence, position: int, token: int, logprob: float) -> None:
        """Put a sampled token in the place of the pending one, or finish the sequence where it ends."""
        request = sequence.request
        assert isinstance(request, GenerateRequest)
        params = request.sampling
        if token == NOT_FINITE:
            del sequence.tokens[position:]
            detail = f"the logits of answer token {position - sequence.prompt_len + 1} are not finite numbers"
            self._finish(sequence, refusal(request, "not_finite", f"{detail}: use another model or adapter"))
            return
        if params.logprobs:
            sequence.logprobs.append(logprob)
        ends = token in params.stop_token_ids or (not params.ignore_eos and token in self._stop_token_ids)
        if ends:
            del sequence.tokens[position:]
            done = generation(sequence, request, self._tokenizer, "stop", self._projected, end_token=token)
            self._finish(sequence, done)
            return
        assert sequence.tokens[position] <= PENDING
        sequence.tokens[position] = token
        if sequence.matcher is not None:
            try:
                sequence.matcher.advance(token)
            except RequestError as error:
                self._finish(sequence, refusal(request, "bad_constraint", str(error)))
                return
        stopped = hits_stop_string(sequence, position + 1, params.stop, self._tokenizer)
        if stopped or (sequence.matcher and sequence.matcher.complete):
            del sequence.tokens[position + 1 :]
            self._finish(sequence, generation(sequence, request, self._tokenizer, "stop", self._projected))
        elif position + 1 >= sequence.max_len:
            self._finish(sequence, generation(sequence, request, self._tokenizer, "length", self._projected))

    def _finish(self, sequence: Sequence, result: Result) -> None:
        sequence.finished = True
        self.scheduler.finish(sequence)
        del self._sequences[sequence.request.id]
        self.stats.prompt_tokens += sequence.prompt_len
        self.stats.cached_tokens += sequence.num_cached_tokens
        if isinstance(result, GenerateResult):
            self.stats.output_tokens += len(result.token_ids)
        self.unread.append(result)
