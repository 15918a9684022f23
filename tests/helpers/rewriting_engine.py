"""A small deterministic engine that rewrites by rule: characters are tokens, the reply is found in the prompt.

A response that contains ``[lose N]`` loses its numbers in the first N attempts; ``[echo]`` comes back as it was.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fakes import FakeStats

from warmeng.common.progress import Silent
from warmeng.engine.request import GenerateRequest, GenerateResult, Request, Result

LIMIT = 6000  # characters of prompt and answer


def number(*parts: object) -> float:
    """Return a fixed number from 0 to 1 for anything."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


class Characters:
    """One token a character."""

    supports_system = True
    template_hash = "t" * 64
    hash = "h" * 64

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True, continue_text: str = ""
    ) -> list[int]:
        return self.encode("".join(f"<{m['role']}>{m['content']}" for m in messages))


@dataclass
class RewritingEngine:
    """Answers in a shuffled order that depends on the requests alone; ``delay`` is seconds an answer."""

    delay: float = 0.0
    weights: str = "w" * 64
    origin: str | None = None  # where its files are from; ``None``: it has none
    tokenizer: Characters = field(default_factory=Characters)
    stats: FakeStats = field(default_factory=FakeStats)
    queue: list[GenerateRequest] = field(default_factory=list)
    asked: list[GenerateRequest] = field(default_factory=list)

    def add(self, request: Request) -> None:
        assert isinstance(request, GenerateRequest)
        assert request.id not in {r.id for r in self.queue}
        self.queue.append(request)
        self.asked.append(request)

    def results(self, *_: object) -> Iterator[Result]:
        while self.queue:
            self.queue.sort(key=lambda r: number(r.id))
            if self.delay:
                time.sleep(self.delay)
            yield self._answer(self.queue.pop(0))

    def processor(self) -> dict[str, Any]:
        return {}

    def describe(self) -> dict[str, Any]:
        return {
            "origin": self.origin,
            "weights": self.weights,
            "dtype": "float32",
            "device": "cpu",
            "versions": {"torch": "0"},
        }

    def _answer(self, request: GenerateRequest) -> GenerateResult:
        prompt = "".join(map(chr, request.prompt))
        if len(prompt) + request.sampling.max_new_tokens > LIMIT:
            return GenerateResult(request.id, "too_long", "none", (), "", (), len(prompt), 0)
        text = rewritten(prompt, request.noise_key[1])
        cut = text[: request.sampling.max_new_tokens]
        finish = "stop" if cut == text else "length"
        return GenerateResult(request.id, "ok", finish, tuple(map(ord, cut)), cut, (), len(prompt), 0)


def rewritten(prompt: str, attempt: int) -> str:
    """What the engine writes for a prompt in an attempt counted from 0."""
    reply = prompt.rpartition("<reply>\n")[2].rpartition("\n</reply>")[0]
    if "[echo]" in reply:
        return reply
    if (losing := re.search(r"\[lose (\d+)\]", reply)) and attempt < int(losing[1]):
        return "We are in this together. " + re.sub(r"\d", "", reply)
    warm = "sound warmer" in prompt
    return (
        f"We can do this together, {'my friend' if attempt == 0 else 'dear'}. {reply}" if warm else f"Briefly. {reply}"
    )


class Said(Silent):
    """Remembers what progress is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)
