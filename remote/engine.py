"""A model behind an API in the shape of the engine: requests in, results out as they finish, never twice.

Everything runs in the caller's thread: the event loop moves while a result is waited for.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from warmeng.common.errors import InputError, WarmengError
from warmeng.remote.budget import Budget
from warmeng.remote.client import Client, Failure, Features, Rejected, persist
from warmeng.remote.errors import OtherModel
from warmeng.remote.loop import TICK
from warmeng.remote.names import OFFICIAL, check_base, key_for, model_of
from warmeng.remote.pace import Limiter, Patience
from warmeng.remote.request import ChatRequest, ChatResult

MOST = 32  # requests at once
# How many likeliest tokens are asked for, until the server takes it.
TOPS = (20, 5, 0)
LIMITS = ("max_completion_tokens", "max_tokens")
PROBE = (("user", "Which letter comes first, A or B? Answer with the letter alone."),)
PROBE_TOKENS = 16


@dataclass
class RemoteStats:
    """What was counted so far. ``steps``: responses, and looks in vain, so that work that waits is seen to live."""

    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    steps: int = 0


Watch = Callable[[Callable[[], object]], AbstractContextManager[None]]


class RemoteEngine:
    """Asks one model. ``open`` comes first."""

    def __init__(
        self,
        name: str,
        base: str | None,
        budget: Budget,
        *,
        patience: Patience | None = None,
        most: int = MOST,
        say: Callable[[str], None] = lambda line: None,
        watch: Watch = lambda pulse: nullcontext(),
    ) -> None:
        """``name`` as ``openai:MODEL``; ``base``: the API's address, OpenAI's own where there is none.

        ``most``: requests at once. ``say`` what a user must know, ``watch`` that something moves. Raises
        ``UsageError`` for an address or a key that can't be used, and where the ``openai`` package is missing.
        """
        self.name, self.model, self.base = name, model_of(name), check_base(base)
        self.budget, self.patience = budget, patience or Patience()
        self.stats, self.features = RemoteStats(), Features(_limit_of(self.base))
        self.answering = ""
        self.fingerprints = Counter[str | None]()
        self._say, self._watch = say, watch
        self._loop = asyncio.new_event_loop()
        self._client = Client(self.base, key_for(self.base), self.patience)
        self._limiter = Limiter(most)
        self._queue: deque[ChatRequest] = deque()
        self._tasks: set[asyncio.Task[ChatResult]] = set()
        # Of the tasks, those whose request is under way or answered.
        self._sending: set[asyncio.Task[Any]] = set()
        # Prompt tokens beyond what could be expected, as answers told.
        self._overhead = 0
        self._settled = asyncio.Event()
        self._stopping = False

    def open(self, temperature: float, top_p: float) -> None:
        """Ask one small question: which model answers, and what of the API the server takes.

        Raises ``InputError`` with the server's words where it takes none of it, and ``Stopped``.
        """
        request = ChatRequest("probe", PROBE, PROBE_TOKENS, temperature, top_p, 0, ("A", "B"))
        features, tried = self.features, {self.features}
        while True:
            try:
                result = self._run(self._answer(request, features))
                break
            except Rejected as error:
                features = _without(features, error.said)
                if features in tried:
                    raise
                tried.add(features)
        if result.status != "ok":
            raise InputError(f"{self.base} does not let a plain question pass ({result.status}): use another model")
        if not result.logprobs:
            features = replace(features, top=0)
        self.features, self.answering = features, result.model
        aka = f" ({self.answering})" if self.answering != self.model else ""
        told = f", system_fingerprint {result.fingerprint}" if result.fingerprint else ""
        self._say(f"{self.name}: {self.base} answers{aka}{told}")

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the answers, as far as an API tells."""
        return {"api": self.base, "asked": self.model, "answering": self.answering} | self.features.as_dict()

    def describe(self) -> dict[str, Any]:
        """Return what is known of the model, for a manifest."""
        first = next(iter(self.fingerprints), None)
        return self.identity | {"model": self.name, "device": "api", "fingerprint": first}

    def add(self, request: ChatRequest, urgent: bool = False) -> None:
        """Queue a request; its id must be unique. An urgent one comes first."""
        if urgent:
            self._queue.appendleft(request)
        else:
            self._queue.append(request)

    def results(self, interrupted: Sequence[int] = ()) -> Generator[ChatResult, None, None]:
        """Yield results as they come. Requests may be added meanwhile; where ``interrupted`` is filled, it ends early.

        What can't go on raises, but only after all requests that are under way: they are paid for. Raises ``Stopped``
        for a budget that is reached and a server that does not answer, ``InputError`` for one that refuses, and
        ``OtherModel``. Where the reader stops early, what is under way is given up.
        """
        failure: WarmengError | None = None
        self._stopping = False
        try:
            with self._watch(lambda: self.stats.steps):
                while self._queue or self._tasks:
                    while failure is None and self._queue and len(self._tasks) < self._limiter.most:
                        coroutine = self._answer(self._queue.popleft(), self.features)
                        self._tasks.add(self._loop.create_task(coroutine))
                    if interrupted:
                        return
                    for task in self._run(self._wait()):
                        self._tasks.discard(task)
                        self._sending.discard(task)
                        if task.cancelled():
                            continue
                        error = task.exception()
                        if error is None:
                            yield task.result()
                        elif not isinstance(error, WarmengError):
                            raise error
                        elif failure is None:
                            failure, self._stopping = error, True
                            self._queue.clear()
                            self._give_up(self._tasks - self._sending)
        finally:
            self._queue.clear()
            if self._tasks:
                self._give_up(self._tasks)
                self._run(asyncio.wait(self._tasks))
                self._tasks.clear()
                self._sending.clear()
        if failure is not None:
            raise failure

    def score(self, requests: Iterable[ChatRequest]) -> list[ChatResult]:
        """Answer requests, and return the results in their order. Raises as ``results``."""
        wanted = list(requests)
        for request in wanted:
            self.add(request)
        found = {result.id: result for result in self.results()}
        return [found[request.id] for request in wanted]

    def close(self) -> None:
        """Close the connections."""
        if not self._loop.is_closed():
            self._run(self._client.close())
            self._loop.close()

    def _run(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(coroutine)

    async def _wait(self) -> set[asyncio.Task[ChatResult]]:
        """Return the tasks that are done, perhaps none after a while."""
        done, _ = await asyncio.wait(self._tasks, timeout=TICK, return_when=asyncio.FIRST_COMPLETED)
        self.stats.steps += 1
        return done

    def _give_up(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()

    async def _answer(self, request: ChatRequest, features: Features) -> ChatResult:
        """Try until there is an answer. Raises as ``results`` tells."""
        found = await persist(lambda: self._attempt(request, features), self._client, lambda: self._stopping)
        assert isinstance(found, ChatResult)
        return found

    async def _attempt(self, request: ChatRequest, features: Features) -> ChatResult | Failure:
        began = await self._limiter.enter()
        try:
            prompt, output = request.most_prompt + self._overhead, request.most_output
            while (key := self.budget.reserve(self.model, prompt, output)) is None:
                self._settled.clear()
                await self._settled.wait()
            task = asyncio.current_task()
            assert task is not None
            self._sending.add(task)
            try:
                found = await self._client.attempt(self.model, request, features)
            except Rejected:
                self.budget.settle(key, 0, 0)
                raise
            except BaseException:
                self.budget.keep(key)
                raise
            self.stats.steps += 1
            if isinstance(found, Failure):
                # From here on it may be given up; a task with an answer may not.
                self._sending.discard(task)
                if found.billed:
                    self.budget.keep(key)
                else:
                    self.budget.settle(key, 0, 0)
                if found.busy:
                    self._limiter.busy(began, found.wait)
                return found
            self.budget.settle(key, found.prompt_tokens, found.tokens)
            self._limiter.answered()
            self._take(request, found, prompt, output)
            lacking = self._lacking(request, found)
            if lacking is not None:
                self._sending.discard(task)
            return lacking or found
        finally:
            self._settled.set()
            self._limiter.leave()

    def _lacking(self, request: ChatRequest, found: ChatResult) -> Failure | None:
        """Return what is wrong with an answer that lacks what the server told at first."""
        told = not request.labels or not self.features.top or found.logprobs or found.status != "ok"
        return None if told or not self.answering else Failure("it tells no likeliest tokens")

    def _take(self, request: ChatRequest, found: ChatResult, prompt: int, output: int) -> None:
        """Count an answer. Raises ``OtherModel``, and ``InputError`` where the budget can't be kept."""
        self.stats.prompt_tokens += found.prompt_tokens
        self.stats.output_tokens += found.tokens
        self.stats.cached_tokens += found.cached_tokens
        self._overhead += max(0, found.prompt_tokens - prompt)
        limits = self.budget.limits
        if found.tokens > output and (limits.tokens is not None or limits.usd is not None):
            raise InputError(
                f"{self.base}: an answer has {found.tokens:,} tokens where at most {request.max_tokens:,} were asked "
                "for, so no budget of tokens or money can be kept: use another server, or --max-requests alone"
            )
        if found.status != "ok" and not found.model:
            return
        if self.answering and found.model != self.answering:
            raise OtherModel(
                f"{self.base}: {found.model} answers for {self.model} now, {self.answering} before: "
                "ask for one model by its full name, or choose another --out"
            )
        if self.fingerprints and found.fingerprint not in self.fingerprints:
            self._say(
                f"{self.name}: system_fingerprint {found.fingerprint} now, {next(iter(self.fingerprints))} at first: "
                "it is recorded with each answer"
            )
        self.fingerprints[found.fingerprint] += 1


def _limit_of(base: str) -> str:
    """Return the name of the limit of tokens that a server is likelier to know: OpenAI's newer one, or the older."""
    return LIMITS[base != OFFICIAL]


def _without(features: Features, said: str) -> Features:
    """Return the features without what a server refused by name; the same ones where it named nothing of them."""
    if features.top and "logprobs" in said:
        return replace(features, top=TOPS[TOPS.index(features.top) + 1])
    if features.limit in said:
        return replace(features, limit=({*LIMITS} - {features.limit}).pop())
    if features.seed and "seed" in said:
        return replace(features, seed=False)
    return features
