"""The engine: requests in, results out, all personas in one pass over one base."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch

from warmeng.common.errors import UsageError
from warmeng.engine.adapters import Adapter, is_merged, load_adapter
from warmeng.engine.backend import Flight, Runner, is_out_of_memory
from warmeng.engine.cache import BlockPool
from warmeng.engine.checkpoint import Weights
from warmeng.engine.config import ModelConfig
from warmeng.engine.constraints import ConstraintCompiler, Matcher
from warmeng.engine.folder import read_folder
from warmeng.engine.load import choose_device, load_runner
from warmeng.engine.prompts import Prompt, as_requests
from warmeng.engine.random import NoTokenizer, random_adapter
from warmeng.engine.recover import recover
from warmeng.engine.registry import ModelSource, resolve_model
from warmeng.engine.request import (
    GenerateRequest,
    GenerateResult,
    Request,
    RequestError,
    Result,
    SamplingParams,
    ScoreRequest,
    ScoreResult,
)
from warmeng.engine.results import encoded, generation, refusal, score_result
from warmeng.engine.scheduler import Scheduler, Work
from warmeng.engine.sequence import PENDING, Sequence
from warmeng.engine.settings import EngineSettings, Limits, limits
from warmeng.engine.tensors import content_hash
from warmeng.engine.tokenizer import Tokenizer

__all__ = ["NUMERICS", "Engine", "EngineSettings", "EngineStats", "Model"]

NUMERICS = 4  # raised whenever the engine's arithmetic changes, so that a run is not continued with other numbers
_TRIES = 3  # of one token alone that finds no memory: other processes may give some back
_PROBE_TEXT = "The quick answer to a simple question is"


@dataclass
class EngineStats:
    """Running totals."""

    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    steps: int = 0
    computed_tokens: int = 0  # of all steps, those of preempted sequences again
    preemptions: int = 0
    retreats: int = 0  # steps that ran out of memory and were made smaller


@dataclass(frozen=True)
class Started:
    """A step under way: which place in its tokens each sampled sequence's choice takes, and what it scores whole."""

    flight: Flight
    places: list[int]
    scored: list[Sequence]  # all of their tokens are computed by it


@dataclass(frozen=True)
class Model:
    """A loaded base: where it came from and what it can do."""

    source: ModelSource
    config: ModelConfig
    tokenizer: Tokenizer
    hash: str
    adapters: dict[str, Adapter] = field(default_factory=dict)


class Engine:
    """Answers requests with one base and any number of adapters.

    >>> engine = Engine.load("smollm2-135m-instruct")
    >>> engine.generate(["Name a colour."])[0].text
    """

    def __init__(self, model: Model, runner: Runner, settings: EngineSettings, within: Limits) -> None:
        self.model = model
        self.config = model.config
        self.tokenizer = model.tokenizer
        self.settings = settings
        self.stats = EngineStats()
        self._runner = runner
        self._pool = BlockPool(runner.num_blocks, max_idle=max(64, runner.num_blocks // 4))
        self._scheduler = Scheduler(
            self._pool,
            settings.block_size,
            within.max_num_seqs,
            within.max_batched_tokens,
            within.max_seq_len,
            within.admit_together,
        )
        self._compiler: ConstraintCompiler | None = None
        self._ready: deque[Result] = deque()  # finished, and not read yet
        self._ids: set[str] = set()
        self._started: Started | None = None
        self._lacked = 0  # steps of one token that ran out of memory, one after the other

    @classmethod
    def load(
        cls,
        model: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        settings: EngineSettings | None = None,
    ) -> Engine:
        """Load a base by name: a local folder, a built-in model or a hub repository.

        ``device``: "cpu", "cuda", or "auto" for a GPU where there is one. Raises InputError where the model can't be
        found or read, UsageError where the device is unknown or isn't there.
        """
        settings = settings or EngineSettings()
        chosen = choose_device(device)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        source = resolve_model(model, revision)
        config, tokenizer = read_folder(source.folder)
        with ThreadPoolExecutor(1) as pool:  # hashing reads the same files as loading, and lets other threads run
            hashed = pool.submit(content_hash, source.folder)
            return cls._load(source, config, tokenizer, settings, chosen, hashed)

    @classmethod
    def _load(
        cls,
        source: ModelSource,
        config: ModelConfig,
        tokenizer: Tokenizer,
        settings: EngineSettings,
        device: str,
        hashed: Future[str],
    ) -> Engine:
        within = limits(settings, device, config.max_seq_len)
        runner = load_runner(source, config, tokenizer.vocab_size, settings, device, within)
        return cls(Model(source, config, tokenizer, hashed.result()), runner, settings, within)

    @classmethod
    def random(
        cls, config: ModelConfig, *, device: str = "auto", settings: EngineSettings | None = None, seed: int = 0,
        weights: Weights | None = None,
    ) -> Engine:  # fmt: skip
        """Make an engine with random weights and without a tokenizer, for benchmarks: results have no text.

        ``weights``: those of another engine on a GPU, which are shared; None makes them from ``seed``.
        """
        settings = settings or EngineSettings()
        chosen = choose_device(device)
        within = limits(settings, chosen, config.max_seq_len)
        source_of_weights = seed if weights is None else weights
        runner = load_runner(source_of_weights, config, config.vocab_size, settings, chosen, within)
        source = ModelSource(f"random-{seed}", Path(f"random-{seed}"), "local", None, None)
        model = Model(source, config, cast(Tokenizer, NoTokenizer(config.vocab_size)), f"random-{seed}")
        return cls(model, runner, settings, within)

    def add_adapter(self, name: str, folder: str | Path) -> Adapter:
        """Load an adapter under a name: a PEFT LoRA folder, or a merged checkpoint of this base.

        Of a merged checkpoint the low-rank change is recovered, so that it shares the base: minutes for a small model
        on a CPU. Raises InputError where the adapter doesn't fit the base or isn't supported, or the checkpoint's
        change isn't low-rank.
        """
        if name in self.model.adapters:
            raise UsageError(f"an adapter named {name!r} is loaded already: choose another name")
        path = Path(folder)
        if is_merged(path):
            adapter = recover(self.model.source.folder, path).adapter
        else:
            adapter = load_adapter(path, self.config, self.model.hash)
        self._runner.add_adapter(adapter)
        self.model.adapters[name] = adapter
        return adapter

    def add_random_adapter(self, name: str, rank: int, seed: int) -> Adapter:
        """Make an adapter of all linear layers of random numbers, for benchmarks."""
        adapter = random_adapter(self.config, rank, seed)
        self._runner.add_adapter(adapter)
        self.model.adapters[name] = adapter
        return adapter

    def probe_adapter(self, name: str) -> float:
        """Return the largest absolute change of the next-token logits after a fixed text; 0 means not applied."""
        tokens = tuple(self.tokenizer.encode(_PROBE_TEXT)) or (0,)
        with_adapter = self._probe(tokens, self._adapter_hash(name))
        change = (with_adapter - self._probe(tokens, "")).abs()
        return float(change[: self._runner.vocab_size].max())

    def add(self, request: Request, urgent: bool = False) -> None:
        """Queue a request; ``results`` answers it. May be called while results are read.

        An urgent one is taken before all that wait. Raises RequestError, and queues nothing, where the request makes no
        sense.
        """
        self._queue(request, self._prepare(request), urgent)

    def _prepare(self, request: Request) -> Matcher | None:
        self._check(request)
        if isinstance(request, GenerateRequest) and request.constraint is not None:
            return self._compile().matcher(request.constraint)
        return None

    def _queue(self, request: Request, matcher: Matcher | None, urgent: bool = False) -> None:
        self._ids.add(request.id)
        reason = self._scheduler.why_too_long(request)
        if reason:
            self._ready.append(refusal(request, "too_long", reason))
            return
        sequence = self._scheduler.add(request, self._adapter_hash(request.adapter), urgent)
        sequence.matcher = matcher

    def results(self) -> Generator[Result, None, None]:
        """Run until nothing is left and give each result as it finishes."""
        while True:
            while self._ready:
                result = self._ready.popleft()
                self._ids.discard(result.id)
                yield result
            if not self._scheduler.busy and self._started is None:
                return
            self._step()

    def generate(
        self, prompts: Iterable[Prompt], *, params: SamplingParams | None = None, adapter: str | None = None
    ) -> list[GenerateResult]:
        """Answer prompts and return their results in the order given.

        A prompt is a text, which the user says; a list of messages (``[{"role": "user", "content": "..."}]``); or a
        ``GenerateRequest``, for prompts of token ids, constraints and more. ``params`` (greedy, at most 256 tokens,
        unless given) and ``adapter`` (a name given to ``add_adapter``; the base itself unless given) hold for texts
        and conversations; a request has its own. With a temperature, each place in the list draws noise of its own,
        and the same noise under every adapter.

        Raises RequestError, and answers none, where a prompt can't be run as it stands.
        """
        requests = as_requests(prompts, self.tokenizer, params, adapter)
        return [r for r in self._answer(requests) if isinstance(r, GenerateResult)]

    def score(self, requests: Iterable[ScoreRequest]) -> list[ScoreResult]:
        """Answer score requests and return their results in the order given."""
        return [r for r in self._answer(list(requests)) if isinstance(r, ScoreResult)]

    def cancel(self) -> None:
        """Drop everything that is queued, running or not read yet."""
        if self._started is not None:
            before, self._started = self._started, None
            self._settle(before)
        self._scheduler.clear()
        self._ready.clear()
        self._ids.clear()

    def reset_prefix_cache(self) -> None:
        """Forget cached prefixes that nothing uses at the moment, for benchmarks."""
        self._pool.forget_idle()

    def describe(self) -> dict[str, Any]:
        """Return what determines the numbers, for a manifest: JSON types only."""
        return {
            "model": self.model.source.name,
            "origin": self.model.source.origin,
            "revision": self.model.source.revision,
            "weights": self.model.hash,
            "family": self.config.family,
            "machine": platform.machine(),
            "deterministic": not self.settings.fast,
            "numerics": NUMERICS,
            "settings": asdict(self.settings),
            "cache_slots": (self._runner.num_blocks - 1) * self.settings.block_size,
            "versions": {name: _version(name) for name in ("torch", "transformers", "tokenizers", "llguidance")},
            **self._runner.describe(),
        }

    def _answer(self, requests: list[Request] | list[GenerateRequest] | list[ScoreRequest]) -> list[Result]:
        if self._scheduler.busy or self._ready or self._started is not None:
            raise RuntimeError("results of earlier requests are still to be read: exhaust results() first")
        ids = [request.id for request in requests]
        if len(set(ids)) < len(ids):
            raise RequestError("two requests have the same id: give every request an id of its own")
        matchers = [self._prepare(request) for request in requests]  # all are sound before one is queued
        for request, matcher in zip(requests, matchers, strict=True):
            self._queue(request, matcher)
        found = {result.id: result for result in self.results()}
        return [found[request.id] for request in requests]

    @property
    def busy(self) -> bool:
        """Something is queued or runs."""
        return self._scheduler.busy or self._started is not None

    def step(self) -> int:
        """Run one step, for profiles; returns the tokens it computes. ``results`` gives what it finishes."""
        before = self.stats.computed_tokens
        self._step()
        return self.stats.computed_tokens - before

    def _step(self) -> None:
        """Start the next step, then read the outcome of the one before it, which ran meanwhile.

        Tokens that aren't known yet stand as pending; the device knows them. A sequence that turns out to have
        ended was then computed once too often, which costs a row and changes nothing.
        """
        work = self._scheduler.schedule()
        started = self._start(work) if work else None
        if self._runner.overlap == 0 and started is not None:
            self._settle(started)
            return
        before, self._started = self._started, started
        if before is not None:
            self._settle(before)

    def _start(self, work: list[Work]) -> Started | None:
        """Start a step, or make the next ones smaller where memory lacks."""
        try:
            flight = self._runner.start(work, self._compiler)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            lacking = str(error).partition("\n")[0]
        else:
            return self._note(work, flight)
        # Outside the except block: the error's traceback holds the tensors of the step that failed.
        self._retreat(work, lacking)
        return None

    def _note(self, work: list[Work], flight: Flight) -> Started:
        self._lacked = 0
        self._scheduler.ran()
        self.stats.steps += 1
        self.stats.computed_tokens += sum(item.stop - item.start for item in work)
        self.stats.preemptions = self._scheduler.preemptions
        scored = []
        for sequence, _, stop in work:
            sequence.computed = stop
            if not sequence.generates and stop == len(sequence.tokens):
                scored.append(sequence)
        places = []
        for row, sequence in enumerate(flight.sampled):
            places.append(len(sequence.tokens))
            sequence.tokens.append(PENDING - row)
        return Started(flight, places, scored)

    def _retreat(self, work: list[Work], lacking: str) -> None:
        if self._started is not None:  # its memory is free once it is done
            before, self._started = self._started, None
            self._settle(before)
        self._runner.release_memory()
        self.stats.retreats += 1
        if self._scheduler.retreat(work):
            return
        self._lacked += 1
        if self._lacked < _TRIES:
            return
        self._lacked = 0
        for item in work:
            if not item.sequence.finished:
                detail = f"one token alone found no memory ({lacking}): choose a smaller model or free memory"
                self._finish(item.sequence, refusal(item.sequence.request, "out_of_memory", detail))

    def _settle(self, started: Started) -> None:
        """Take the outcome of a step: log-probabilities, chosen tokens, and what is finished by them."""
        outcome = started.flight.wait()
        for target, value in outcome.targets:
            kind, first, second = target.place
            if kind == "label":
                target.sequence.label_logprobs[first, second] = value
            elif first == len(target.sequence.prompt_logprobs) + 1:  # else it is known already
                target.sequence.prompt_logprobs.append(value)
        found = zip(started.flight.sampled, started.places, outcome.tokens, outcome.logprobs, strict=True)
        for sequence, place, token, logprob in found:
            if not sequence.finished:
                self._take(sequence, place, token, logprob)
        for sequence in started.scored:
            if not sequence.finished:
                assert isinstance(sequence.request, ScoreRequest)
                self._finish(sequence, score_result(sequence, sequence.request))

    def _take(self, sequence: Sequence, place: int, token: int, logprob: float) -> None:
        """Put a chosen token in its place, or finish the sequence where it stops."""
        request = sequence.request
        assert isinstance(request, GenerateRequest)
        params = request.sampling
        if params.logprobs:
            sequence.logprobs.append(logprob)
        ends = token in params.stop_token_ids or (not params.ignore_eos and token in self.config.stop_token_ids)
        if ends:
            del sequence.tokens[place:]
            self._finish(sequence, generation(sequence, request, self.tokenizer, "stop"))
            return
        assert sequence.tokens[place] <= PENDING
        sequence.tokens[place] = token
        if sequence.matcher is not None:
            sequence.matcher.advance(token)
        stopped = self._hits_stop_string(sequence, place + 1, params.stop)
        if stopped or (sequence.matcher and sequence.matcher.complete):
            del sequence.tokens[place + 1 :]
            self._finish(sequence, generation(sequence, request, self.tokenizer, "stop"))
        elif place + 1 >= sequence.limit:
            self._finish(sequence, generation(sequence, request, self.tokenizer, "length"))

    def _hits_stop_string(self, sequence: Sequence, end: int, stops: tuple[str, ...]) -> bool:
        if not stops:
            return False
        wanted = [encoded(stop) for stop in stops]
        recent = self.tokenizer.decode_bytes(sequence.tokens[end - 1 : end])
        most = max(map(len, wanted)) - 1 + len(recent)  # one that ends in the last token begins no earlier
        first = end - 1
        while first > sequence.prompt_len and len(recent) < most:
            first -= 1
            recent = self.tokenizer.decode_bytes(sequence.tokens[first : first + 1]) + recent
        return any(stop in recent for stop in wanted)

    def _finish(self, sequence: Sequence, result: Result) -> None:
        sequence.finished = True
        self._scheduler.finish(sequence)
        self.stats.prompt_tokens += sequence.prompt_len
        self.stats.cached_tokens += sequence.cached
        if isinstance(result, GenerateResult):
            self.stats.output_tokens += len(result.token_ids)
        self._ready.append(result)

    def _probe(self, tokens: tuple[int, ...], adapter_hash: str) -> torch.Tensor:
        size = self.settings.block_size
        sequence = Sequence(GenerateRequest("probe", tokens), adapter_hash, -1, list(tokens), [], limit=len(tokens))
        sequence.blocks.extend(self._pool.allocate() for _ in range(-(-len(tokens) // size)))
        try:
            return self._runner.last_logits(Work(sequence, 0, len(tokens)))
        finally:
            for block in sequence.blocks:
                self._pool.release(block)

    def _compile(self) -> ConstraintCompiler:
        if self._compiler is None:
            self._compiler = ConstraintCompiler(
                self.tokenizer.vocabulary(),
                self.tokenizer.special_tokens.values(),
                self.config.stop_token_ids,
                self.config.vocab_size,
                partial(self.tokenizer.encode, inside=True),
            )
        return self._compiler

    def _adapter_hash(self, name: str | None) -> str:
        if name is None:
            return ""
        if name not in self.model.adapters:
            known = ", ".join(sorted(self.model.adapters)) or "none"
            raise RequestError(f"adapter {name!r} is not loaded; loaded: {known}")
        return self.model.adapters[name].hash

    def _check(self, request: Request) -> None:
        """Raise RequestError where a request makes no sense, whatever the engine's state."""
        if request.id in self._ids:
            raise RequestError(f"request id {request.id!r} is in use: give every request an id of its own")
        self._adapter_hash(request.adapter)
        groups = [("prompt", request.prompt)]
        if isinstance(request, ScoreRequest):
            if not request.labels:
                raise RequestError(f"request {request.id!r} has no labels")
            if len(set(request.labels)) < len(request.labels):
                raise RequestError(f"request {request.id!r} gives the same label twice")
            groups += [(f"label {i}", label) for i, label in enumerate(request.labels)]
        for what, ids in groups:
            if not ids:
                raise RequestError(f"{what} of request {request.id!r} is empty, expected at least one token id")
            if min(ids) < 0 or max(ids) >= self._runner.vocab_size:
                raise RequestError(
                    f"{what} of request {request.id!r} has token ids {min(ids)} to {max(ids)}, "
                    f"expected 0 to {self._runner.vocab_size - 1}: was it encoded with this model's tokenizer?"
                )


def _version(name: str) -> str | None:
    """Return the installed version of a distribution; None where it isn't there, as for benchmarks without text."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
