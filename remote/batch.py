"""A model behind an API that is asked in batches: files of conversations, which the server answers within a day.

The interface and the results are those of ``RemoteEngine``. A conversation is known by a hash of what is asked, so
that another process finds in the folder's journal which batch it waits in, and asks nothing again. What a batch did
not answer goes into the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Generator, Iterator, Mapping, Sequence
from typing import Any

from warmeng.common.errors import InputError, WarmengError
from warmeng.remote.batch_files import ENDPOINT, WINDOW, BatchState, found_in, known_as, line_of, lines_of, state_of
from warmeng.remote.budget import in_batches
from warmeng.remote.client import Failure, Rejected
from warmeng.remote.engine import RemoteEngine
from warmeng.remote.errors import Unavailable
from warmeng.remote.loop import run_until
from warmeng.remote.request import ChatRequest, ChatResult
from warmeng.remote.submit import Service, Submission, Submissions

# In a run's folder: what was submitted.
FILE = "batches.jsonl"
# OpenAI's limits of one batch: requests, and bytes of its file.
MOST_REQUESTS, MOST_BYTES = 50_000, 200 * 10**6
# Of a batch that failed: more tokens wait at the server than the account may have there.
TOO_MANY = "token_limit_exceeded"
# Seconds between lines that tell how far a batch is.
TELL = 60.0


class BatchEngine(RemoteEngine):
    """Asks one model in batches; the first question alone is asked at once."""

    def __init__(self, *given: Any, submissions: Submissions, **more: Any) -> None:
        """``submissions``: the run's, which its other models have too. All else is as of ``RemoteEngine``."""
        super().__init__(*given, **more)
        self._submissions, self._service = submissions, Service(self._client)
        # By a conversation's name: the submission that has it, of whatever process.
        self._in: dict[str, Submission] = {}
        for one in submissions.all.values():
            self._in.update(dict.fromkeys(one.plan["requests"].keys() - one.failed, one))
        # Conversations that go into the next batch, and those whose batch is under way.
        self._fresh: dict[str, ChatRequest] = {}
        self._wanted: dict[str, ChatRequest] = {}
        self._open: dict[str, Submission] = {}
        # Lines that came and were not asked for yet.
        self._there: dict[str, Mapping[str, Any]] = {}
        self._failures = Counter[str]()
        self._told: dict[str, tuple[BatchState, float]] = {}
        self._most, self._turned_away = MOST_REQUESTS, 0

    def results(self, interrupted: Sequence[int] = ()) -> Generator[ChatResult, None, None]:
        """Yield results as batches end; what is added meanwhile goes into the next batch.

        Raises as ``RemoteEngine.results``, after all that came. Batches that are under way stay at the server,
        whatever ends this: the same again waits for them.
        """
        try:
            with self._watch(lambda: self.stats.steps):
                while (self._queue or self._fresh or self._wanted) and not interrupted:
                    yield from self._sort()
                    self._submit(interrupted)
                    for one, state in self._do(self._look(), interrupted) or ():
                        yield from self._collect(one, state, interrupted)
        finally:
            if self._open:
                self._say(f"{self.name}: {len(self._open)} batches stay at the server: the same again waits for them")
            for name in self._wanted:
                self._spend(name, None)
            for held in (self._queue, self._fresh, self._wanted, self._open):
                held.clear()

    def _sort(self) -> Iterator[ChatResult]:
        """Find where what is queued waits; yield what is there already."""
        while self._queue:
            request = self._queue.popleft()
            name = known_as(self.base, self.model, request)
            one = self._in.get(name)
            if one is not None and not one.file:
                # Of a process that was killed before it sent anything.
                self._abandon(one)
                one = None
            if one is None:
                self._fresh[name] = request
            elif name in self._there:
                found = self._receive(name, request, self._there.pop(name))
                if found is None:
                    self._forget(one, {name})
                else:
                    yield found
            else:
                self._wanted[name], self._open[one.key] = request, one
                self.budget.adopt(one.plan["requests"][name])

    def _submit(self, interrupted: Sequence[int]) -> None:
        """Send what is new, as far as the budget and the server take it."""
        for one in [one for one in self._open.values() if not one.id]:
            self._start(one, interrupted, fresh=False)
        while self._fresh and not (self._turned_away and self._open) and not interrupted:
            lines, held = self._pack()
            if not lines:
                assert self._open, "open reservations are those of batches that are under way"
                return
            one = self._submissions.plan({"requests": held})
            self._in.update(dict.fromkeys(held, one))
            for key in held.values():
                self.budget.write_down(key)
            self._wanted |= {name: self._fresh.pop(name) for name in held}
            try:
                content = b"".join(lines)
                file = self._do(self._service.upload(f"warmeng-{one.key[:12]}.jsonl", content, "batch"), interrupted)
            except WarmengError:
                self._abandon(one)
                raise
            if file is None:
                return
            self._submissions.note(one, file=file)
            self._open[one.key] = one
            self._start(one, interrupted, fresh=True)

    def _pack(self) -> tuple[list[bytes], dict[str, str]]:
        """Return the lines of the next batch and a reservation for each, none where others' are in the way.

        Raises ``BudgetReached``.
        """
        lines: list[bytes] = []
        held: dict[str, str] = {}
        size = 0
        for name, request in self._fresh.items():
            line = line_of(name, self.model, request, self.features)
            if len(lines) >= self._most or size + len(line) > MOST_BYTES:
                break
            prompt = request.most_prompt + self._overhead
            key = self.budget.hold(in_batches(self.model), prompt, request.most_output)
            if key is None:
                break
            lines.append(line)
            size += len(line)
            held[name] = key
        return lines, held

    def _start(self, one: Submission, interrupted: Sequence[int], fresh: bool) -> None:
        """Make the batch of a file, unless it is there."""
        file = one.file
        making = self._service.start(
            lambda api: api.batches.create(input_file_id=file, endpoint=ENDPOINT, completion_window=WINDOW),
            lambda api: api.batches.list(limit=100),
            file,
            fresh,
        )
        try:
            found = self._do(making, interrupted)
        except Rejected as error:
            self._abandon(one)
            # One that is gone is sent again.
            if "file" not in error.said:
                raise
            for name in one.plan["requests"]:
                self._fail(name, error.said)
            return
        if found is not None:
            self._submissions.note(one, id=found)

    async def _look(self) -> list[tuple[Submission, BatchState]]:
        """Look at the batches that are under way until one of them ends; return those that did."""
        patience, looks = self.patience, 0
        while self._open:
            ended = []
            for one in list(self._open.values()):
                state = await self._state(one)
                self._tell(one, state)
                if state.over:
                    ended.append((one, state))
            if ended:
                return ended
            looks += 1
            await asyncio.sleep(patience.wait(looks))
        return []

    async def _state(self, one: Submission) -> BatchState:
        try:
            found = await self._service.look(lambda api: api.batches.retrieve(one.id), state_of)
        except Rejected as error:
            if error.status == 404:
                raise InputError(
                    f"{self.base} knows no batch {one.id} of {self._submissions.path}: use the account that made it, "
                    "or remove that file to ask all of it again"
                ) from None
            raise
        assert isinstance(found, BatchState)
        return found

    def _tell(self, one: Submission, state: BatchState) -> None:
        before, told = self._told.get(one.key, (None, 0.0))
        same = before is not None and before.status == state.status
        if same and (before == state or time.monotonic() - told < TELL):
            return
        self._told[one.key] = state, time.monotonic()
        done = f", {state.done} of {state.total} done" if state.total else ""
        self._say(f"{self.name}: batch {one.id}: {state.status}{done}")

    def _collect(self, one: Submission, state: BatchState, interrupted: Sequence[int]) -> Iterator[ChatResult]:
        """Yield the answers of a batch that ended. Raises, after these, what can't go on."""
        if state.status == "failed":
            self._turn_away(one, state, interrupted)
            return
        lines: dict[str, Mapping[str, Any]] = {}
        for file in filter(None, (state.output, state.errors)):
            found = self._do(self._read(file), interrupted)
            if interrupted:
                return
            if found is None:
                self._say(f"{self.name}: batch {one.id}: its file {file} is gone: what was in it is asked again")
            else:
                lines = found | lines
        del self._open[one.key]
        self._turned_away = 0
        results: list[ChatResult] = []
        failed: set[str] = set()
        failure: WarmengError | None = None
        for name in [name for name in one.plan["requests"] if name not in one.failed]:
            request, line = self._wanted.pop(name, None), lines.get(name)
            if request is None:
                self._there |= {name: line} if line is not None else {}
                continue
            try:
                result = self._receive(name, request, line)
            except WarmengError as error:
                result, failure = None, failure or error
            if result is None:
                failed.add(name)
            else:
                results.append(result)
        if failed:
            self._forget(one, failed)
            self._say(f"{self.name}: batch {one.id}: {len(failed)} of {len(one.plan['requests'])} have no answer")
        yield from results
        if failure is None and failed and state.status == "cancelled":
            failure = Unavailable(f"{self.base}: batch {one.id} was cancelled there: the same again asks the rest")
        if failure is not None:
            raise failure

    async def _read(self, file: str) -> dict[str, Mapping[str, Any]] | None:
        """Return a file's lines, ``None`` where it is gone; one that has others too is fetched until it stays so."""
        before = b""
        for _ in range(self.patience.attempts):
            content = await self._service.content(file)
            if content is None:
                return None
            lines, sound = lines_of(content)
            if sound or content == before:
                break
            before = content
        return lines

    def _receive(self, name: str, request: ChatRequest, line: Mapping[str, Any] | None) -> ChatResult | None:
        """Count what a line says; ``None`` where it is asked again. Raises as ``results`` tells."""
        found = found_in(line, self._client)
        try:
            if not isinstance(found, Failure):
                found = self._client.outcome(request, found)
        except Rejected:
            self._spend(name, (0, 0))
            raise
        if isinstance(found, ChatResult):
            self._spend(name, (found.prompt_tokens, found.tokens))
            self._take(request, found, request.most_prompt + self._overhead, request.most_output)
            found = self._lacking(request, found) or found
        else:
            self._spend(name, None if found.billed else (0, 0))
        if isinstance(found, ChatResult):
            return found
        self._fresh[name] = request
        self._fail(name, found.why)
        return None

    def _fail(self, name: str, why: str) -> None:
        """Count a batch without an answer. Raises ``Unavailable`` after too many."""
        self._failures[name] += 1
        if self._failures[name] >= self.patience.attempts:
            raise Unavailable(f"{self.base}: {why}; {self._failures[name]} batches are the most for one request")

    def _turn_away(self, one: Submission, state: BatchState, interrupted: Sequence[int]) -> None:
        """Take back a batch that failed as a whole, of which nothing was begun.

        Raises ``InputError`` with the server's words; where it has too much to do, a smaller one follows, or
        ``Unavailable``.
        """
        self._abandon(one)
        told = f"{self.base}: batch {one.id} failed: {state.code} {self._client.clean(state.why)}"
        if state.code != TOO_MANY:
            raise InputError(f"{told}: change what it names")
        self._turned_away += 1
        self._most = max(1, len(one.plan["requests"]) // 2)
        if self._turned_away >= self.patience.attempts:
            raise Unavailable(f"{told}: go on when the batches that wait there are done")
        if not self._open:
            self._do(asyncio.sleep(self.patience.wait(self._turned_away)), interrupted)

    def _abandon(self, one: Submission) -> None:
        """Take back what was not begun: it costs nothing, and goes into another batch."""
        self._open.pop(one.key, None)
        names = one.plan["requests"].keys() - one.failed
        for name in names:
            self._spend(name, (0, 0))
            if name in self._wanted:
                self._fresh[name] = self._wanted.pop(name)
        self._forget(one, set(names))

    def _forget(self, one: Submission, names: set[str]) -> None:
        self._submissions.note(one, failed=names)
        for name in names:
            self._in.pop(name, None)

    def _spend(self, name: str, tokens: tuple[int, int] | None) -> None:
        """Settle a conversation's reservation, where it is not settled; ``None``: nobody knows what it came to."""
        key = self._in[name].plan["requests"][name]
        if not self.budget.adopt(key):
            return
        if tokens is None:
            self.budget.keep(key)
        else:
            self.budget.settle(key, *tokens)

    def _do(self, work: Coroutine[Any, Any, Any], interrupted: Sequence[int]) -> Any:
        """Return what a coroutine gives, ``None`` where an interrupt came first: then it is given up."""
        return run_until(self._loop, work, interrupted, self._pulse)

    def _pulse(self) -> None:
        self.stats.steps += 1
