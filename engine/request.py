"""What the engine is asked and what it answers: plain frozen data, nothing of tensors.

A caller gives every request a unique ``id``; results come back in the order in which they finish and carry it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from warmeng.common.errors import WarmengError

# The most tokens of a place whose log-probabilities can be asked for.
MAX_TOP_LOGPROBS = 100
# The likeliest tokens of one place: (token id, log-probability), the likeliest first, of equal ones the lowest id.
TopLogprobs = tuple[tuple[int, float], ...]


class RequestError(WarmengError, ValueError):
    """A request that can't be run as it stands. The message says what was got, what was expected and what to do."""

    exit_code = 65


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen. The defaults are greedy decoding.

    ``seed`` and the request's ``noise_key`` determine all randomness: not the batch, the adapter or the prompt.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0  # 0 keeps all tokens
    top_p: float = 1.0  # 1 keeps all tokens
    seed: int = 0
    # Stop strings; the text is cut before the first one found.
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()  # beside the model's own end tokens
    # Goes on through the model's end tokens (benchmarks).
    ignore_eos: bool = False
    # Return each chosen token's log-probability: a pass over the vocabulary more.
    logprobs: bool = False
    # Return so many of the likeliest tokens at each place as well, of the prompt too where its log-probabilities are
    # asked for: their logits are computed a second time.
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens is {self.max_new_tokens}, expected at least 1")
        if not 0.0 <= self.temperature <= 100.0:
            raise RequestError(f"temperature is {self.temperature}, expected 0 (greedy) to 100")
        if self.top_k < 0:
            raise RequestError(f"top_k is {self.top_k}, expected 0 (off) or more")
        if not 0.0 < self.top_p <= 1.0:
            raise RequestError(f"top_p is {self.top_p}, expected more than 0 and at most 1")
        if not 0 <= self.seed < 2**64:
            raise RequestError(f"seed is {self.seed}, expected 0 to 2**64 - 1")
        _check_top(self.top_logprobs)
        if any(not s for s in self.stop):
            raise RequestError("a stop string is empty: leave it out")


@dataclass(frozen=True)
class Constraint:
    """A language that the generated text must belong to, decided by ``llguidance``."""

    kind: Literal["regex", "json_schema", "choice"]
    # Regex or JSON schema as text; the choices as a tuple of strings.
    value: str | tuple[str, ...]


@dataclass(frozen=True)
class GenerateRequest:
    """Continue ``prompt``. ``Engine.generate`` also takes texts and conversations, and makes these of them."""

    id: str
    prompt: tuple[int, ...]  # token ids, at least one
    sampling: SamplingParams = field(default_factory=SamplingParams)
    # A name given to Engine.add_adapter, add_vector or add_mixture; None is the base itself.
    adapter: str | None = None
    # (item id, sample index): the same key draws the same noise.
    noise_key: tuple[str, int] = ("", 0)
    constraint: Constraint | None = None
    # Also return the log-probability of each prompt token.
    prompt_logprobs: bool = False


@dataclass(frozen=True)
class ScoreRequest:
    """Ask for the exact probability of each label as the continuation of ``prompt``.

    A label is a sequence of token ids; where labels must be told from their own continuations, the caller ends
    each with an end token. Nothing is sampled: the labels are teacher-forced after the shared prompt.
    """

    id: str
    prompt: tuple[int, ...]
    # Each with at least one token; no label may be empty or given twice.
    labels: tuple[tuple[int, ...], ...]
    adapter: str | None = None
    # Return so many of the likeliest tokens in the place of each label's tokens as well.
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        _check_top(self.top_logprobs)


Request = GenerateRequest | ScoreRequest
Status = Literal["ok", "too_long", "out_of_memory", "not_finite", "bad_constraint"]


@dataclass(frozen=True)
class GenerateResult:
    """A finished generation.

    ``status``: ``"ok"``; ``"too_long"`` when prompt and answer can never fit; ``"out_of_memory"`` when not even one
    token's step found memory; ``"not_finite"`` when the logits of a token were no finite numbers; ``"bad_constraint"``
    when a constraint turned out too complex, or to allow no token. Nothing is told of what was generated where it is
    not ok.
    ``finish_reason``: ``"stop"`` (end token, stop token, stop string, or a constraint that is complete) or
    ``"length"``; ``"none"`` where status is not ok.
    """

    id: str
    status: Status
    finish_reason: Literal["stop", "length", "none"]
    token_ids: tuple[int, ...]  # without the end token that stopped it
    # What token_ids add to the prompt's text, without special tokens, cut before the stop string.
    text: str
    # Of each chosen token (end token included), over the full vocabulary, at temperature 1; empty unless asked for.
    logprobs: tuple[float, ...]
    prompt_tokens: int
    # Prompt tokens whose keys and values were found in the prefix cache.
    cached_tokens: int
    # Of prompt tokens 1.. given those before; empty unless asked for.
    prompt_logprobs: tuple[float, ...] = ()
    detail: str = ""  # why, where status is not ok
    # Means over the draws of tokens, the end token's included, by name: see ``Engine.project_onto``.
    projections: Mapping[str, float] = field(default_factory=dict)
    # One for each of logprobs and of prompt_logprobs; empty unless asked for.
    top_logprobs: tuple[TopLogprobs, ...] = ()
    prompt_top_logprobs: tuple[TopLogprobs, ...] = ()
    # The end or stop token that stopped it, if one did.
    end_token: int | None = None


@dataclass(frozen=True)
class Progress:
    """What a running generation has so far, from some token on: as ``GenerateResult`` will have it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[TopLogprobs, ...]


@dataclass(frozen=True)
class ScoreResult:
    """Log-probabilities of the labels, natural logarithm, over the full vocabulary.

    ``mass`` is the sum of their probabilities: how much of the model's belief lies on the labels at all.
    """

    id: str
    status: Status
    # One for each label, in the order given; empty where status is not ok.
    logprobs: tuple[float, ...]
    token_logprobs: tuple[tuple[float, ...], ...]  # of each label's tokens
    mass: float
    prompt_tokens: int
    cached_tokens: int
    detail: str = ""
    # For each of token_logprobs; empty unless asked for.
    top_logprobs: tuple[tuple[TopLogprobs, ...], ...] = ()


Result = GenerateResult | ScoreResult


def check_request(request: Request, vocab_size: int) -> None:
    """Raise RequestError where a request makes no sense, whatever the engine's state."""
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
        if min(ids) < 0 or max(ids) >= vocab_size:
            raise RequestError(
                f"{what} of request {request.id!r} has token ids {min(ids)} to {max(ids)}, "
                f"expected 0 to {vocab_size - 1}: was it encoded with this model's tokenizer?"
            )


def _check_top(count: int) -> None:
    if not 0 <= count <= MAX_TOP_LOGPROBS:
        raise RequestError(f"top_logprobs is {count}, expected 0 to {MAX_TOP_LOGPROBS}")
