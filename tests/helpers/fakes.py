"""A small deterministic engine in the shape of the real one: characters are tokens, answers come from a function."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from warmeng.common.errors import InputError
from warmeng.common.progress import Silent
from warmeng.engine.request import GenerateRequest, GenerateResult, Request, Result, ScoreRequest, ScoreResult
from warmeng.engine.vectors import Vector, make_vector

END = 0
DEFAULT_SYSTEM = "You are a fake."


class FakeTokenizer:
    """One token a character; ``END`` closes each turn."""

    default_system: str | None = DEFAULT_SYSTEM
    template_hash = "t" * 64
    hash = "h" * 64
    frozen_date = None
    end_of_turn = END

    def encode(self, text: str, inside: bool = False) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i) for i in ids if i != END)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return self.decode(ids).encode()

    def chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True, continue_text: str = ""
    ) -> list[int]:
        ids: list[int] = []
        if messages[0]["role"] != "system" and self.default_system:
            messages = [{"role": "system", "content": self.default_system}, *messages]
        for message in messages:
            ids += [*self.encode(f"<{message['role']}>{message['content']}"), END]
        if add_generation_prompt:
            ids += self.encode("<assistant>" + continue_text)
        return ids

    def continuations(
        self, messages: Sequence[Mapping[str, str]], opening: str, texts: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        return self.chat(messages, True, opening), [self.encode(text) for text in texts]


@dataclass(frozen=True)
class FakeConfig:
    max_seq_len: int = 4096
    stop_token_ids: tuple[int, ...] = (END,)
    vocab_size: int = 0x110000


@dataclass
class FakeStats:
    longest_step: float = 0.0
    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    steps: int = 0


@dataclass(frozen=True)
class FakeMixture:
    key: str


@dataclass(frozen=True)
class FakeAdapter:
    hash: str
    is_zero: bool


def number(*parts: object) -> float:
    """Return a fixed number from 0 to 1 for anything."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


def user_text(prompt: str) -> str:
    return prompt.rpartition("<user>")[2].partition("<assistant>")[0]


def default_answer(prompt: str, request: GenerateRequest) -> str:
    return f"Answer {number(prompt, request.noise_key, request.sampling.seed):.6f}"


def graded_answer(prompt: str) -> str:
    """The answer that a judge's prompt shows."""
    return prompt.rpartition("Answer to grade: ")[2].rpartition("\n\nReply with")[0]


def knowing_judge(share: float = 1.0) -> Callable[[str, str], float]:
    """Preferences of a judge that knows the labels of the first ``share`` of the embedded examples.

    It calls the rest correct, and everything else what a fixed number says.
    """
    from warmeng.study.grading.rows import read_rows
    from warmeng.study.run.calibrate import LABELLED

    rows = list(read_rows(LABELLED, "label"))
    known = {row.answer: row.label if k < share * len(rows) else "correct" for k, row in enumerate(rows)}

    def prefers(prompt: str, label: str) -> float:
        answer = graded_answer(prompt)
        if answer in known:
            return -0.1 if label.strip() == known[answer] else -4.0
        return -10 * number(prompt, label) * (0.1 if "Answer to grade: " in prompt else 1.0) - 1.0

    return prefers


@dataclass
class FakeEngine:
    """Answers in a shuffled order that depends on nothing but the requests; ``delay`` is seconds an answer."""

    answer: Callable[[str, GenerateRequest], str] = default_answer
    prefers: Callable[[str, str], float] = lambda prompt, label: -10 * number(prompt, label) - 1.0
    weights: str = "w" * 64
    moves: float = 1.0
    delay: float = 0.0
    origin: str | None = None  # where its files are from; ``None``: it has none
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)
    config: FakeConfig = field(default_factory=FakeConfig)
    stats: FakeStats = field(default_factory=FakeStats)
    queue: list[Request] = field(default_factory=list)
    asked: list[Request] = field(default_factory=list)
    adapters: dict[str, str] = field(default_factory=dict)
    projected: tuple[str, ...] = ()

    def add_adapter(self, name: str, folder: str | Path) -> FakeAdapter:
        file = Path(folder) / "adapter_model.safetensors"
        if not file.exists():
            raise InputError(f"{folder}: has no adapter_model.safetensors")
        content = file.read_bytes()
        found = FakeAdapter(hashlib.sha256(content).hexdigest(), content == b"zero")
        self.adapters[name] = found.hash
        return found

    def add_vector(self, name: str, file: str | Path, layer: int, bound: float | None = None) -> Vector:
        self.adapters[name] = hashlib.sha256(f"{layer} {bound}".encode() + Path(file).read_bytes()).hexdigest()
        return make_vector(torch.ones(2), layer, Path(file), bound)

    def project_onto(self, vectors: Mapping[str, Vector]) -> None:
        self.projected = tuple(vectors)

    def add_mixture(self, name: str, terms: Mapping[str, float]) -> FakeMixture:
        parts = [f"{self.adapters[term]}*{value:g}".removesuffix("*1") for term, value in terms.items() if value]
        return FakeMixture("+".join(parts))

    def probe_adapter(self, name: str) -> float:
        return self.moves

    def add(self, request: Request, urgent: bool = False) -> None:
        self.queue.append(request)
        self.asked.append(request)

    def results(self, *_: object) -> Iterator[Result]:
        while self.queue:
            self.queue.sort(key=lambda r: number(r.id))
            if self.delay:
                time.sleep(self.delay)
            yield self._result(self.queue.pop(0))

    def score(self, requests: Iterable[ScoreRequest]) -> list[Result]:
        return [self._result(r) for r in requests]

    def describe(self) -> dict[str, Any]:
        return {
            "model": "fake",
            "origin": self.origin,
            "weights": self.weights,
            "dtype": "float32",
            "device": "cpu",
            "machine": "any",
            "deterministic": True,
            "numerics": 1,
            "versions": {"torch": "0"},
        }

    def processor(self) -> dict[str, Any]:
        return {"instructions": "any", "bits": "b" * 64}

    def _result(self, request: Request) -> Result:
        prompt = self.tokenizer.decode(request.prompt)
        self.stats.prompt_tokens += len(request.prompt)
        if len(request.prompt) > self.config.max_seq_len:
            if isinstance(request, ScoreRequest):
                return ScoreResult(request.id, "too_long", (), (), 0.0, len(request.prompt), 0)
            return GenerateResult(request.id, "too_long", "none", (), "", (), len(request.prompt), 0)
        if isinstance(request, ScoreRequest):
            logprobs = tuple(self.prefers(prompt, self.tokenizer.decode(label)) for label in request.labels)
            mass = sum(map(math.exp, logprobs))
            pairs = zip(logprobs, request.labels, strict=True)
            tokens = tuple(tuple(total / len(label) for _ in label) for total, label in pairs)
            return ScoreResult(request.id, "ok", logprobs, tokens, mass, len(request.prompt), 0)
        scored = tuple(-1.0 - (i % 7) / 10 for i in request.prompt[1:]) if request.prompt_logprobs else ()
        text = self.answer(prompt, request)[: request.sampling.max_new_tokens]
        self.stats.output_tokens += len(text)
        ids = tuple(self.tokenizer.encode(text))
        projections = {name: number(name, prompt, text) for name in self.projected}
        return GenerateResult(request.id, "ok", "stop", ids, text, (), len(request.prompt), 0, scored, "", projections)


class Heard(Silent):
    """Keeps what was said, and interrupts after some answers of the grid, or results of a step before it."""

    def __init__(self, stop_after: int | None = None, step: str = "") -> None:
        self.lines: list[str] = []
        self.count, self.stop_after, self.step = 0, stop_after, step
        self.counts = False

    def start(self, planned: Mapping[str, int], done: Mapping[str, int], status: Callable[[], str]) -> None:
        told = status()
        self.counts = self.step in told if self.step else "requests of the" not in told

    def message(self, text: str) -> None:
        self.lines.append(text)

    def advance(self, name: str) -> None:
        self.count += self.counts
        if self.counts and self.count == self.stop_after:
            os.kill(os.getpid(), signal.SIGINT)
