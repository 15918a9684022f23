"""The engine: requests in, results out, all personas in one pass over one base."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from warmeng.engine.adapters import Adapter, is_merged, load_adapter
from warmeng.engine.cache import BlockPool
from warmeng.engine.checkpoint import load_weights, projection_shapes
from warmeng.engine.config import ModelConfig, read_config
from warmeng.engine.constraints import ConstraintCompiler, Matcher
from warmeng.engine.errors import UsageError
from warmeng.engine.lora import lay_out
from warmeng.engine.recover import recover
from warmeng.engine.registry import ModelSource, resolve_model
from warmeng.engine.request import (
    GenerateRequest,
    GenerateResult,
    Request,
    RequestError,
    Result,
    ScoreRequest,
    ScoreResult,
)
from warmeng.engine.runner import Runner
from warmeng.engine.scheduler import Scheduler, Work
from warmeng.engine.sequence import Sequence
from warmeng.engine.tensors import content_hash
from warmeng.engine.tokenizer import Tokenizer
from warmeng.kernels.linear import arrange

NUMERICS = 2  # raised whenever the engine's arithmetic changes, so that a run is not continued with other numbers
_PROBE_TEXT = "The quick answer to a simple question is"


@dataclass(frozen=True)
class EngineSettings:
    """How the engine runs; none of it changes results, except ``fast``."""

    fast: bool = False  # lets a row's last bits depend on the batch, for speed
    max_num_seqs: int = 96  # sequences that run at once
    max_batched_tokens: int = 768  # of one step
    block_size: int = 16  # tokens of one cache block
    kv_bytes: int = 640 * 2**20  # of the key-value cache
    max_seq_len: int = 8192  # prompt and answer together, where the model allows more
    threads: int | None = None  # of the CPU backend; None leaves PyTorch's own choice

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_batched_tokens", "block_size", "kv_bytes", "max_seq_len"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.block_size % 16:
            raise UsageError(f"block_size is {self.block_size}, expected a multiple of 16")


@dataclass
class EngineStats:
    """Running totals."""

    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    steps: int = 0
    preemptions: int = 0


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
    >>> prompt = tuple(engine.tokenizer.chat([{"role": "user", "content": "Name a colour."}]))
    >>> engine.generate([GenerateRequest("a", prompt)])[0].text
    """

    def __init__(self, model: Model, runner: Runner, settings: EngineSettings, num_blocks: int) -> None:
        self.model = model
        self.config = model.config
        self.tokenizer = model.tokenizer
        self.settings = settings
        self.stats = EngineStats()
        self._runner = runner
        self._num_blocks = num_blocks
        self._pool = BlockPool(num_blocks, max_idle=max(64, num_blocks // 4))
        limit = min(model.config.max_seq_len, settings.max_seq_len)
        self._scheduler = Scheduler(
            self._pool, settings.block_size, settings.max_num_seqs, settings.max_batched_tokens, limit
        )
        self._compiler: ConstraintCompiler | None = None
        self._ready: list[Result] = []  # finished before they ran: too long
        self._ids: set[str] = set()
        self._running = False

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

        Raises InputError where the model can't be found or read, UsageError where the device is unknown.
        """
        settings = settings or EngineSettings()
        if device not in ("auto", "cpu"):
            raise UsageError(f"device is {device!r}; this version has a CPU backend: use 'cpu' or 'auto'")
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        source = resolve_model(model, revision)
        config = read_config(source.folder)
        with ThreadPoolExecutor(1) as pool:  # hashing reads the same files as loading, and lets other threads run
            hashed = pool.submit(content_hash, source.folder)
            return cls._load(source, config, settings, hashed)

    @classmethod
    def _load(cls, source: ModelSource, config: ModelConfig, settings: EngineSettings, hashed: Future[str]) -> Engine:
        tokenizer = Tokenizer.load(source.folder)
        dtype, where = torch.float32, torch.device("cpu")  # bf16 products are up to ten times slower on CPUs
        arrangement = arrange(list(projection_shapes(config).values()), dtype, where, settings.fast)
        weights = load_weights(source.folder, config, dtype, where, arrangement.project)
        slot = 2 * config.num_layers * config.num_kv_heads * config.head_dim * weights.embed.element_size()
        num_blocks = max(2, settings.kv_bytes // (slot * settings.block_size)) + 1
        runner = Runner(
            config,
            weights,
            arrangement,
            num_blocks,
            settings.block_size,
            min(config.max_seq_len, settings.max_seq_len),
            tokenizer.vocab_size,
        )
        loaded = Model(source, config, tokenizer, hashed.result())
        return cls(loaded, runner, settings, num_blocks)

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
        if adapter.hash not in self._runner.adapters:
            dtype = self._runner.decoder.weights.embed.dtype
            project = self._runner.arrangement.project
            self._runner.adapters[adapter.hash] = lay_out(adapter, self.config, dtype, project)
        self.model.adapters[name] = adapter
        return adapter

    def probe_adapter(self, name: str) -> float:
        """Return the largest absolute change of the next-token logits after a fixed text; 0 means not applied."""
        tokens = tuple(self.tokenizer.encode(_PROBE_TEXT)) or (0,)
        with_adapter = self._probe(tokens, self._adapter_hash(name))
        change = (with_adapter - self._probe(tokens, "")).abs()
        return float(change[: self._runner.vocab_size].max())

    def add(self, request: Request) -> None:
        """Queue a request; ``results`` answers it. May be called while results are read: then it runs at once.

        Raises RequestError, and queues nothing, where the request makes no sense.
        """
        self._queue(request, self._prepare(request))

    def _prepare(self, request: Request) -> Matcher | None:
        self._check(request)
        if isinstance(request, GenerateRequest) and request.constraint is not None:
            return self._compile().matcher(request.constraint)
        return None

    def _queue(self, request: Request, matcher: Matcher | None) -> None:
        self._ids.add(request.id)
        reason = self._scheduler.why_too_long(request)
        if reason:
            self._ready.append(_refusal(request, reason))
            return
        sequence = self._scheduler.add(request, self._adapter_hash(request.adapter), urgent=self._running)
        sequence.matcher = matcher

    def results(self) -> Iterator[Result]:
        """Run until nothing is left and give each result as it finishes."""
        self._running = True
        try:
            while True:
                while self._ready:
                    result = self._ready.pop(0)
                    self._ids.discard(result.id)
                    yield result
                if not self._scheduler.busy:
                    return
                self._step()
        finally:
            self._running = False

    def generate(self, requests: Iterable[GenerateRequest]) -> list[GenerateResult]:
        """Answer generation requests and return their results in the order given."""
        return [r for r in self._answer(list(requests)) if isinstance(r, GenerateResult)]

    def score(self, requests: Iterable[ScoreRequest]) -> list[ScoreResult]:
        """Answer score requests and return their results in the order given."""
        return [r for r in self._answer(list(requests)) if isinstance(r, ScoreResult)]

    def reset_prefix_cache(self) -> None:
        """Forget cached prefixes that nothing uses at the moment, for benchmarks."""
        self._pool.forget_idle()

    def describe(self) -> dict[str, Any]:
        """Return what determines the numbers, for a manifest: JSON types only."""
        decoder = self._runner.decoder
        return {
            "model": self.model.source.name,
            "origin": self.model.source.origin,
            "revision": self.model.source.revision,
            "weights": self.model.hash,
            "family": self.config.family,
            "dtype": str(decoder.weights.embed.dtype).removeprefix("torch."),
            "device": "cpu",
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "deterministic": not self.settings.fast,
            "numerics": NUMERICS,
            "products": self._runner.arrangement.project.__name__,
            "row_tiles": list(self._runner.arrangement.tiles.sizes),
            "settings": asdict(self.settings),
            "cache_slots": (self._num_blocks - 1) * self.settings.block_size,
            "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "llguidance")},
        }

    def _answer(self, requests: list[Request] | list[GenerateRequest] | list[ScoreRequest]) -> list[Result]:
        if self._scheduler.busy or self._ready:
            raise RuntimeError("results of earlier requests are still to be read: exhaust results() first")
        ids = [request.id for request in requests]
        if len(set(ids)) < len(ids):
            raise RequestError("two requests have the same id: give every request an id of its own")
        matchers = [self._prepare(request) for request in requests]  # all are sound before one is queued
        for request, matcher in zip(requests, matchers, strict=True):
            self._queue(request, matcher)
        found = {result.id: result for result in self.results()}
        return [found[request.id] for request in requests]

    def _step(self) -> None:
        work = self._scheduler.schedule()
        assert work, "nothing can be scheduled although requests wait"
        sampled, targets = self._runner.step(work, self._compiler)
        self.stats.steps += 1
        self.stats.preemptions = self._scheduler.preemptions
        for item in work:
            item.sequence.computed = item.stop
        for target, value in targets:
            kind, first, second = target.place
            if kind == "prompt":
                target.sequence.prompt_logprobs.append(value)
            else:
                target.sequence.label_logprobs[first, second] = value
        for choice in sampled:
            self._take(choice.sequence, choice.token, choice.logprob)
        for item in work:
            if isinstance(item.sequence.request, ScoreRequest) and item.sequence.remaining == 0:
                self._finish(item.sequence, _score_result(item.sequence, item.sequence.request))

    def _take(self, sequence: Sequence, token: int, logprob: float) -> None:
        """Append a chosen token, or finish the sequence where it stops."""
        request = sequence.request
        assert isinstance(request, GenerateRequest)
        params = request.sampling
        if params.logprobs:
            sequence.logprobs.append(logprob)
        ends = token in params.stop_token_ids or (not params.ignore_eos and token in self.config.stop_token_ids)
        if ends:
            self._finish(sequence, self._generation(sequence, request, "stop"))
            return
        sequence.tokens.append(token)
        if sequence.matcher is not None:
            sequence.matcher.advance(token)
        generated = len(sequence.tokens) - sequence.prompt_len
        if self._hits_stop_string(sequence, params.stop) or (sequence.matcher and sequence.matcher.complete):
            self._finish(sequence, self._generation(sequence, request, "stop"))
        elif generated >= self._scheduler.longest_answer(sequence):
            self._finish(sequence, self._generation(sequence, request, "length"))

    def _hits_stop_string(self, sequence: Sequence, stops: tuple[str, ...]) -> bool:
        if not stops:
            return False
        recent = sequence.generated[-(max(map(len, stops)) + 8) :]  # a token adds at least one byte
        text = self.tokenizer.decode(recent)
        return any(stop in text for stop in stops)

    def _generation(self, sequence: Sequence, request: GenerateRequest, reason: str) -> GenerateResult:
        text = self.tokenizer.decode(sequence.generated)
        cuts = [at for stop in request.sampling.stop if (at := text.find(stop)) >= 0]
        return GenerateResult(
            id=request.id,
            status="ok",
            finish_reason="length" if reason == "length" else "stop",
            token_ids=tuple(sequence.generated),
            text=text[: min(cuts)] if cuts else text,
            logprobs=tuple(sequence.logprobs),
            prompt_tokens=sequence.prompt_len,
            cached_tokens=sequence.cached,
            prompt_logprobs=tuple(sequence.prompt_logprobs),
        )

    def _finish(self, sequence: Sequence, result: Result) -> None:
        self._scheduler.finish(sequence)
        self.stats.prompt_tokens += sequence.prompt_len
        self.stats.cached_tokens += sequence.cached
        if isinstance(result, GenerateResult):
            self.stats.output_tokens += len(result.token_ids)
        self._ready.append(result)

    def _probe(self, tokens: tuple[int, ...], adapter_hash: str) -> torch.Tensor:
        size = self.settings.block_size
        sequence = Sequence(GenerateRequest("probe", tokens), adapter_hash, -1, list(tokens), [])
        sequence.blocks = [self._pool.allocate() for _ in range(-(-len(tokens) // size))]
        try:
            return self._runner.last_logits(Work(sequence, 0, len(tokens)))
        finally:
            for block in sequence.blocks:
                self._pool.release(block)

    def _compile(self) -> ConstraintCompiler:
        if self._compiler is None:
            text = (self.model.source.folder / "tokenizer.json").read_text(encoding="utf-8")
            self._compiler = ConstraintCompiler(text, self.config.vocab_size, self.config.stop_token_ids[0])
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


def _score_result(sequence: Sequence, request: ScoreRequest) -> ScoreResult:
    found = sequence.label_logprobs
    tokens = tuple(tuple(found[i, j] for j in range(len(label))) for i, label in enumerate(request.labels))
    totals = tuple(math.fsum(values) for values in tokens)
    return ScoreResult(
        id=request.id,
        status="ok",
        logprobs=totals,
        token_logprobs=tokens,
        mass=math.fsum(math.exp(total) for total in totals),
        prompt_tokens=sequence.prompt_len,
        cached_tokens=sequence.cached,
    )


def _refusal(request: Request, reason: str) -> Result:
    count = len(request.prompt)
    if isinstance(request, ScoreRequest):
        return ScoreResult(request.id, "too_long", (), (), 0.0, count, 0, reason)
    return GenerateResult(request.id, "too_long", "none", (), "", (), count, 0, (), reason)
