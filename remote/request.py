"""What a model behind an API is asked and what it answers: plain frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Prompt tokens beyond the texts' bytes that a chat template may add, to all and to each message.
OVERHEAD, OVERHEAD_EACH = 64, 16
# (role, content)
Message = tuple[str, str]


@dataclass(frozen=True)
class ChatRequest:
    """A conversation to be answered; or, with ``labels``, the probabilities of these as the answer's first token.

    ``seed`` is sent where the server takes one. It promises nothing: it is the same for the same question and sample.
    """

    id: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    labels: tuple[str, ...] = ()

    @property
    def most_prompt(self) -> int:
        """The most prompt tokens to expect: no tokenizer makes more than one token of a byte."""
        texts = sum(len(role.encode()) + len(content.encode()) for role, content in self.messages)
        return texts + OVERHEAD_EACH * len(self.messages) + OVERHEAD

    @property
    def most_output(self) -> int:
        """The most output tokens: some servers count the token that ends an answer too."""
        return self.max_tokens + 1


# ``too_long``: the conversation does not fit the model; ``filtered``: the server does not let it, or its answer, pass.
ChatStatus = Literal["ok", "too_long", "filtered"]


@dataclass(frozen=True)
class ChatResult:
    """An answer, or the probabilities of labels.

    ``model`` and ``fingerprint`` are what the server says that answered. ``logprobs``: of each label, in nats; ``None``
    where none of the likeliest tokens begins it; empty where the server tells no tokens. ``mass``: the probability of
    all labels together.
    """

    id: str
    status: ChatStatus
    finish_reason: Literal["stop", "length", "none"]
    text: str
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    model: str
    fingerprint: str | None
    logprobs: tuple[float | None, ...] = ()
    mass: float = 0.0
