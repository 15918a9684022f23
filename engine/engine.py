"""The engine: requests in, results out, all personas in one pass over one base."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Event
from typing import Any

import torch

from warmeng.common.errors import InputError, UsageError
from warmeng.engine.adapters import Adapter, comparable_hash
from warmeng.engine.backend import Runner
from warmeng.engine.config import ModelConfig
from warmeng.engine.constraints import ConstraintCompiler, Matcher
from warmeng.engine.core import EngineCore, EngineStats
from warmeng.engine.folder import read_folder
from warmeng.engine.load import choose_device, instructions, load_runner
from warmeng.engine.mixture import BASE, Mixture
from warmeng.engine.prompts import Prompt, as_requests
from warmeng.engine.recover import read_adapter
from warmeng.engine.registry import ModelSource, base_hash, resolve_model
from warmeng.engine.request import (
    GenerateRequest,
    GenerateResult,
    Progress,
    Request,
    RequestError,
    Result,
    SamplingParams,
    ScoreRequest,
    ScoreResult,
    check_request,
)
from warmeng.engine.scheme import about_weights
from warmeng.engine.settings import AUTO, EngineLimits, EngineSettings, resolve_limits
from warmeng.engine.stamps import appearance, model_files
from warmeng.engine.tokenizer import Tokenizer
from warmeng.engine.vectors import Vector, load_vector

__all__ = ["NUMERICS_VERSION", "Engine", "EngineSettings", "EngineStats", "Model"]

# Raised whenever the engine's arithmetic changes, so that a run is not continued with other numbers.
NUMERICS_VERSION = 5
# Of single precision: a changed order of sums moves logits by a few.
_ROUNDING = 16
# Whose versions a manifest records.
_PACKAGES = ("torch", "numba", "transformers", "tokenizers", "llguidance")
_PROBE_TEXT = "The quick answer to a simple question is"


@dataclass(frozen=True)
class Model:
    """A loaded base: where it came from and what it can do."""

    source: ModelSource
    config: ModelConfig
    tokenizer: Tokenizer
    hash: str
    adapters: dict[str, Adapter] = field(default_factory=dict)
    # What requests name: every adapter, and mixtures of them.
    mixtures: dict[str, Mixture] = field(default_factory=dict)


@dataclass(frozen=True)
class Occupancy:
    """What an engine's requests take: sequences by state, and cache blocks; those without a user are available."""

    running: int
    waiting: int
    blocks: int
    available_blocks: int


class Engine:
    """Answers requests with one base and any number of adapters.

    >>> engine = Engine.load("smollm2-135m-instruct")
    >>> engine.generate(["Name a colour."])[0].text
    """

    def __init__(self, model: Model, runner: Runner, settings: EngineSettings, limits: EngineLimits) -> None:
        self.model = model
        self.config = model.config
        self.tokenizer = model.tokenizer
        self.settings = settings
        self._runner = runner
        self._core = EngineCore(runner, model.tokenizer, model.config.stop_token_ids, settings.block_size, limits)
        self.stats = self._core.stats
        # Of requests whose results are not read yet.
        self._ids: set[str] = set()
        # Content hashes of the vectors that have one.
        self._bounds: set[str] = set()
        self._processor: dict[str, Any] | None = None

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
        before = appearance(model_files(source.folder))
        config, tokenizer = read_folder(source.folder)
        # Hashing reads the same files as loading, and lets other threads run.
        stop = Event()
        with ThreadPoolExecutor(1) as pool:
            hashed = pool.submit(base_hash, source, stop)
            try:
                engine = cls._load(source, config, tokenizer, settings, chosen, hashed)
            except BaseException:
                # What is refused or interrupted does not wait for the hash.
                stop.set()
                raise
        if appearance(model_files(source.folder)) != before:
            raise InputError(f"{source.folder} was changed while it was read: load it again when nobody writes there")
        return engine

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
        limits = resolve_limits(settings, device, config.max_seq_len)
        runner = load_runner(source, config, tokenizer.vocab_size, settings, device, limits)
        return cls(Model(source, config, tokenizer, hashed.result()), runner, settings, limits)

    def add_adapter(self, name: str, source: str | Path | Adapter) -> Adapter:
        """Load an adapter under a name: a PEFT LoRA folder, a merged checkpoint of this base, or one in memory.

        From a merged checkpoint the low-rank change is recovered, so that it shares the base: minutes for a small
        model on a CPU. Raises InputError where the adapter doesn't fit the base or isn't supported, or the
        checkpoint's change isn't low-rank.
        """
        self._refuse_taken(name)
        if isinstance(source, Adapter):
            adapter = source
        else:
            adapter = read_adapter(Path(source), self.model.source.folder, self.config, self.model.hash)
        self._runner.add_adapter(adapter)
        self.model.adapters[name] = adapter
        self._name_mixture(name, Mixture(((adapter.hash, 1.0),)))
        return adapter

    def add_vector(
        self, name: str, source: str | Path | Vector, layer: int | None = None, bound: float | None = None
    ) -> Vector:
        """Load a steering vector under a name: a safetensors file with the layer that it is for, or one in memory.

        Requests give the name as their ``adapter``, and mixtures may have it as a term. It is added to the residual
        stream after its layer (1 is the first), at every position of prompt and answer. With a ``bound`` it is not
        added: the residual stream's projection onto its direction is kept from exceeding the bound, and mixtures have
        it as a whole or not at all. Raises InputError where the file is not understood or doesn't fit the base,
        UsageError for a name that is taken.
        """
        self._refuse_taken(name)
        if isinstance(source, Vector):
            vector = source
        elif layer is None:
            raise UsageError(f"vector {name!r} is a file, and no layer is given: give the one that it is added after")
        else:
            vector = load_vector(Path(source), layer, self.config, comparable_hash(self.config, self.model.hash), bound)
        self._runner.add_vector(vector)
        if vector.bound is not None:
            self._bounds.add(vector.hash)
        self._name_mixture(name, Mixture(((vector.hash, 1.0),)))
        return vector

    def add_mixture(self, name: str, terms: Mapping[str, float]) -> Mixture:
        """Name a sum of adapters and vectors times coefficients, which requests then give as their ``adapter``.

        ``terms``: from names of adapters, vectors or mixtures to coefficients, of any sign. All mixtures of an adapter
        share its memory and its products. One whose coefficients come to zero answers as the base does, bit for bit.

        >>> engine.add_mixture("half", {"warm": 0.5})
        >>> engine.add_mixture("apart", {"warm": 1, "cold": -1})

        Raises UsageError for a name that is taken or a coefficient that is too large, RequestError for an unknown term.
        """
        self._refuse_taken(name)
        mixture = Mixture.sum_of((self._mixture(term), coefficient) for term, coefficient in terms.items())
        if times := [value for key, value in mixture.terms if key in self._bounds and value != 1.0]:
            raise UsageError(f"{name!r} has a vector with a bound {times[0]:g} times, expected once or not at all")
        self._name_mixture(name, mixture)
        return mixture

    def project_onto(self, vectors: Mapping[str, Vector]) -> None:
        """Give every generation its mean projections onto these vectors' directions, by name; none with an empty one.

        Projected is the residual stream after the vector's layer, with what is added and bounded there, at the
        positions that tokens were drawn from: the prompt's last, and every token of the answer but the last, or that
        one too where the end token was drawn after it. Nothing else in a result changes. Raises RuntimeError while
        requests are open.
        """
        self._require_idle()
        self._core.project_onto(vectors)

    def _refuse_taken(self, name: str) -> None:
        if name in self.model.mixtures:
            raise UsageError(f"an adapter or mixture named {name!r} is there already: choose another name")

    def _name_mixture(self, name: str, mixture: Mixture) -> None:
        self._runner.add_mixture(mixture)
        self.model.mixtures[name] = mixture

    def probe_adapter(self, name: str) -> float:
        """Return the largest absolute change of the next-token logits after a fixed text, by an adapter or a mixture.

        0 means that it is not applied: a change within ``_ROUNDING`` units in the last place of the largest logit, as
        rounding makes, counts as none.
        """
        tokens = tuple(self.tokenizer.encode(_PROBE_TEXT)) or (0,)
        kept = slice(self._runner.vocab_size)
        base = self._core.probe_logits(tokens, "")[kept]
        moved = float((self._core.probe_logits(tokens, self._mixture(name).key)[kept] - base).abs().max())
        return 0.0 if moved <= _ROUNDING * torch.finfo(torch.float32).eps * float(base.abs().max()) else moved

    def processor(self) -> dict[str, Any]:
        """Return what this machine computes with, for a manifest: its instructions, and a hash of logits' bits.

        The logits are those of the base after two fixed sequences, of 1 and of up to 64 tokens. Machines of equal
        instructions can still differ in bits, by their libraries' settings. With ``fast`` there is no hash. Raises
        InputError where the logits are not finite numbers: the model can't answer.
        """
        if self._processor is None:
            most = min(64, self.config.max_seq_len, self._core.pool.available * self.settings.block_size)
            digest = hashlib.sha256()
            for count in (1, max(1, most)):
                tokens = tuple((17 * k + 3) % self._runner.vocab_size for k in range(count))
                logits = self._core.probe_logits(tokens, "")[: self._runner.vocab_size].float().contiguous()
                if not bool(torch.isfinite(logits).all()):
                    raise InputError(
                        f"{self.model.source.name}: its logits after a fixed text are not finite numbers: the weights "
                        "or the configuration are damaged, or overflow; use another model"
                    )
                digest.update(logits.numpy().tobytes())
            self._processor = {
                "instructions": instructions(str(self._runner.describe().get("device"))),
                "bits": digest.hexdigest(),
            }
        return self._processor

    def mean_hidden(
        self, texts: Iterable[tuple[Sequence[int], Sequence[bool]]], adapter: str | None = None
    ) -> torch.Tensor:
        """Return the mean hidden states over the marked tokens of each text, float32 [texts, layers + 1, hidden].

        texts: (token ids, marks), one text at least and a mark in each. Row 0 is the embeddings', row L what comes
        after layer L, before any norm. Texts are computed together, several in a pass.

        Raises RequestError for a text that is empty, has no mark or is too long.
        """
        given = [(tuple(tokens), tuple(marks)) for tokens, marks in texts]
        for tokens, marks in given:
            check_request(GenerateRequest("text", tokens), self._runner.vocab_size)
            if len(marks) != len(tokens) or not any(marks):
                raise RequestError(f"a text of {len(tokens)} tokens has {sum(marks)} of {len(marks)} marks: mark some")
            if len(tokens) > self.config.max_seq_len:
                raise RequestError(f"a text has {len(tokens)} tokens, the model takes {self.config.max_seq_len}")
        return self._core.mean_hidden(given, self._mixture(adapter).key)

    def add(self, request: Request, urgent: bool = False) -> None:
        """Queue a request; ``results`` answers it. May be called while results are read.

        An urgent one is taken before all that wait. Raises RequestError, and queues nothing, where the request makes no
        sense.
        """
        self._queue(request, self._prepare(request), urgent)

    def _prepare(self, request: Request) -> Matcher | None:
        """Check a request and compile its constraint."""
        if request.id in self._ids:
            raise RequestError(f"request id {request.id!r} is in use: give every request an id of its own")
        self._mixture(request.adapter)
        check_request(request, self._runner.vocab_size)
        if isinstance(request, GenerateRequest) and request.constraint is not None:
            return self._compiler().matcher(request.constraint)
        return None

    def _queue(self, request: Request, matcher: Matcher | None, urgent: bool = False) -> None:
        self._ids.add(request.id)
        self._core.add(request, self._mixture(request.adapter).key, matcher, urgent)

    def results(self, interrupted: Collection[object] = ()) -> Generator[Result, None, None]:
        """Run until nothing is left and give each result as it finishes.

        Where something is in ``interrupted``, it ends after the step that runs: what has no result stays queued.
        """
        while True:
            while self._core.unread:
                yield self._take()
            if interrupted or not self._core.busy:
                return
            self.step()

    def take(self) -> list[Result]:
        """Return the results that are finished and were not read yet, for callers that run each ``step`` themselves."""
        return [self._take() for _ in range(len(self._core.unread))]

    def _take(self) -> Result:
        result = self._core.unread.popleft()
        self._ids.discard(result.id)
        return result

    def progress(self, request_id: str, start: int = 0) -> Progress | None:
        """Return what a generation has so far, from its token ``start`` on; None once it is finished."""
        return self._core.progress(request_id, start)

    def generate(
        self, prompts: Iterable[Prompt], *, params: SamplingParams | None = None, adapter: str | None = None
    ) -> list[GenerateResult]:
        """Answer prompts and return their results in the order given.

        A prompt is a text, which the user says; a list of messages (``[{"role": "user", "content": "..."}]``); or a
        ``GenerateRequest``, for prompts of token ids, constraints and more. ``params`` (greedy, at most 256 tokens,
        unless given) and ``adapter`` (a name given to ``add_adapter``, ``add_vector`` or ``add_mixture``; the base
        itself unless given) hold for texts and conversations; a request has its own. With a temperature, each place in
        the list draws its own noise, and the same noise under every adapter.

        Raises RequestError, and answers none, where a prompt can't be run as it stands.
        """
        requests = as_requests(prompts, self.tokenizer, params, adapter)
        return [r for r in self._answer(requests) if isinstance(r, GenerateResult)]

    def score(self, requests: Iterable[ScoreRequest]) -> list[ScoreResult]:
        """Answer score requests and return their results in the order given."""
        return [r for r in self._answer(list(requests)) if isinstance(r, ScoreResult)]

    def cancel(self, request_id: str | None = None) -> None:
        """Drop a request that is queued, running or not read yet; all of them unless one is given.

        Its cache blocks are free at once, and the bits of the others stay what they are. An unknown id is no error: the
        result may just have been read.
        """
        if request_id is None:
            self._core.cancel_all()
            self._ids.clear()
        else:
            self._core.cancel(request_id)
            self._ids.discard(request_id)

    @property
    def occupancy(self) -> Occupancy:
        """What the requests take at the moment."""
        scheduler, pool = self._core.scheduler, self._core.pool
        return Occupancy(len(scheduler.running), scheduler.num_waiting, pool.num_blocks - 1, pool.available)

    @property
    def quantization(self) -> dict[str, Any] | None:
        """How the layers' weights are quantised: kind, scheme in words, group, and by whom; None where they aren't."""
        return about_weights(self.config.quantization, self.settings.weights)

    @property
    def max_seq_len(self) -> int:
        """The most tokens of prompt and answer together."""
        return self._core.scheduler.max_seq_len

    @property
    def max_num_seqs(self) -> int:
        """The most sequences that run at once."""
        return self._core.scheduler.max_num_seqs

    @property
    def vocab_size(self) -> int:
        """Token ids that a prompt may have, and an answer can have."""
        return self._runner.vocab_size

    def reset_prefix_cache(self) -> None:
        """Forget cached prefixes that nothing uses at the moment, for benchmarks."""
        self._core.pool.forget_idle()

    def describe(self) -> dict[str, Any]:
        """Return what determines the numbers, for a manifest: JSON types only."""
        return {
            "model": self.model.source.name,
            "origin": self.model.source.origin,
            "revision": self.model.source.revision,
            "weights": self.model.hash,
            "family": self.config.family,
            "machine": platform.machine(),
            **({"quantization": self.quantization} if self.quantization else {}),
            **({"kv_dtype": self.settings.kv_dtype} if self.settings.kv_dtype != AUTO else {}),
            "deterministic": not self.settings.fast,
            "numerics": NUMERICS_VERSION,
            "settings": asdict(self.settings),
            "cache_slots": (self._runner.num_blocks - 1) * self.settings.block_size,
            "versions": {name: _version(name) for name in _PACKAGES},
            **self._runner.describe(),
        }

    def _answer(self, requests: list[Request] | list[GenerateRequest] | list[ScoreRequest]) -> list[Result]:
        self._require_idle()
        ids = [request.id for request in requests]
        if len(set(ids)) < len(ids):
            raise RequestError("two requests have the same id: give every request an id of its own")
        # All are checked before one is queued.
        matchers = [self._prepare(request) for request in requests]
        for request, matcher in zip(requests, matchers, strict=True):
            self._queue(request, matcher)
        by_id = {result.id: result for result in self.results()}
        return [by_id[request.id] for request in requests]

    def _require_idle(self) -> None:
        if self._core.busy or self._core.unread:
            raise RuntimeError("results of earlier requests are still to be read: exhaust results() first")

    @property
    def busy(self) -> bool:
        """Something is queued or runs."""
        return self._core.busy

    def step(self) -> int:
        """Run one step; returns the tokens it computes. ``take`` gives what it finishes."""
        before, began = self.stats.computed_tokens, time.monotonic()
        self._core.step()
        self.stats.longest_step = max(self.stats.longest_step, time.monotonic() - began)
        return self.stats.computed_tokens - before

    def _compiler(self) -> ConstraintCompiler:
        if self._core.compiler is None:
            self._core.compiler = ConstraintCompiler(
                self.tokenizer.vocabulary(),
                self.tokenizer.special_tokens.values(),
                self.config.stop_token_ids,
                self.config.vocab_size,
                partial(self.tokenizer.encode, inside=True),
            )
        return self._core.compiler

    def _mixture(self, name: str | None) -> Mixture:
        if name is None:
            return BASE
        if name not in self.model.mixtures:
            known = ", ".join(sorted(self.model.mixtures)) or "none"
            raise RequestError(f"adapter {name!r} is not loaded; loaded: {known}")
        return self.model.mixtures[name]


def _version(name: str) -> str | None:
    """Return the installed version of a distribution; None where it isn't there, as for benchmarks without text."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
