"""From a request's body to what the engine is asked, with every limit that does not depend on the engine's state."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from warmeng.common.errors import InputError, one_line
from warmeng.engine.engine import Engine
from warmeng.engine.request import (
    Constraint,
    GenerateRequest,
    Request,
    RequestError,
    SamplingParams,
    ScoreRequest,
    check_request,
)
from warmeng.serve.catalog import Catalog, Served
from warmeng.serve.errors import ApiError
from warmeng.serve.protocol import (
    MAX_CONSTRAINT,
    ChatBody,
    CompletionBody,
    Message,
    ResponseFormat,
    Sampling,
    ScoreBody,
)

CHAT = "/v1/chat/completions"
# Of /v1/completions, where nothing is said.
DEFAULT_MAX_TOKENS = 16

# The most characters of a text for each token of the context; of prose a token has four.
CHARACTERS = 16
# Between the parts of an answer in JSON.
BLANKS = r"[ \n]{0,16}"
T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """What one HTTP request asks the engine, and what its answer needs to know."""

    id: str
    created: int
    served: Served
    requests: Sequence[Request]
    # Answers to each prompt.
    n: int = 1
    seed: int = 0
    # The text of each request's prompt, where it is echoed.
    echoed: Sequence[str] | None = None
    # The answer itself is shown, and not the echoed prompt alone.
    generates: bool = True
    stops: tuple[str, ...] = ()
    # Tokens beside each chosen one whose log-probabilities are shown; None shows none at all.
    top: int | None = None
    stream: bool = False
    with_usage: bool = False


class Composer:
    """Makes requests for one engine. It may be used from several threads at once."""

    def __init__(self, engine: Engine, catalog: Catalog, max_answers: int) -> None:
        """``max_answers``: to one body."""
        self._engine, self._catalog, self._max_answers = engine, catalog, max_answers

    def chat(self, body: ChatBody) -> Asked:
        """Return what a conversation asks for. Raises ApiError, as all of these do."""
        served = self._catalog.find(body.model)
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs is given without logprobs: set logprobs to true", "top_logprobs")
        if body.max_tokens is not None and body.max_completion_tokens is not None:
            raise ApiError(400, "max_tokens and max_completion_tokens are both given: leave one out", "max_tokens")
        asked, name = body.max_completion_tokens, "max_completion_tokens"
        if asked is None:
            asked, name = body.max_tokens, "max_tokens"
        if asked == 0:
            raise ApiError(400, "max_tokens is 0, expected a whole number from 1", "max_tokens")
        talk = _conversation(served, body.messages)
        prompt = self._encode("messages", _texts(talk), lambda: self._engine.tokenizer.chat(talk))
        left = self._room(prompt, "messages")
        top = (body.top_logprobs or 0) if body.logprobs else None
        return self._generations("chatcmpl", body, served, [prompt], self._within(left, asked, name), top)

    def completion(self, body: CompletionBody) -> Asked:
        """Return what a text's continuation asks for."""
        served = self._catalog.find(body.model)
        if served.system is not None:
            raise ApiError(400, f"{served.id} is a system prompt, which a text has not: use {CHAT}", "model")
        if body.echo and body.stream:
            raise ApiError(400, "echo is not supported in a stream: leave one out", "echo", "unsupported_parameter")
        given = body.prompt
        prompts = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
        if not prompts:
            raise ApiError(400, "prompt is an empty list, expected at least one prompt", "prompt")
        if (count := len(prompts) * (body.n or 1)) > self._max_answers:
            raise ApiError(
                400, f"{count} answers are asked for at once, expected at most {self._max_answers}", "prompt"
            )
        tokens = [self._prompt(prompt) for prompt in prompts]
        left = min(self._room(prompt, "prompt") for prompt in tokens)
        asked = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
        if asked == 0 and not body.echo:
            raise ApiError(400, "max_tokens is 0, expected at least 1 unless the prompt is echoed", "max_tokens")
        # At the context's end the default is what is left, as a number that was asked for is refused.
        limit = self._within(left, max(1, min(asked, left) if body.max_tokens is None else asked), "max_tokens")
        echoed = None
        if body.echo:
            decode = self._engine.tokenizer.decode_bytes
            echoed = [decode(prompt, skip_special=False).decode("utf-8", "replace") for prompt in tokens]
        return self._generations(
            "cmpl", body, served, tokens, limit, body.logprobs, echoed=echoed, generates=asked > 0
        )  # fmt: skip

    def score(self, body: ScoreBody) -> Asked:
        """Return what a question about labels' probabilities asks for."""
        served = self._catalog.find(body.model)
        texts = [label for label in body.labels if isinstance(label, str)]
        ids = [label for label in body.labels if not isinstance(label, str)]
        if (body.messages is None) == (body.prompt is None):
            raise ApiError(400, "expected either messages or a prompt of token ids", "messages")
        if body.messages is not None:
            if ids:
                raise ApiError(400, "labels are token ids, but the prompt is messages: give texts", "labels")
            talk, opening = _conversation(served, body.messages), body.opening or ""
            # Before the prompt is encoded with each label.
            encoded = self._encode("messages", _texts(talk), lambda: self._engine.tokenizer.chat(talk))
            self._room(encoded, "messages")
            prompt, found = self._encode(
                "labels", [opening, *texts], lambda: self._engine.tokenizer.continuations(talk, opening, texts)
            )
        else:
            if texts or body.opening is not None:
                raise ApiError(400, "labels or opening are text, but the prompt is token ids: give ids", "labels")
            if served.system is not None:
                raise ApiError(400, f"{served.id} is a system prompt, and token ids have none: give messages", "model")
            prompt, found = list(body.prompt or ()), ids
        end = [self._engine.tokenizer.end_of_turn] if body.end else []
        labels = tuple((*label, *end) for label in found)
        request = ScoreRequest(f"score-{secrets.token_hex(12)}", tuple(prompt), labels, served.adapter)
        self._check(request, "labels")
        self._room(prompt, "messages" if body.messages else "prompt", max(map(len, labels)))
        return Asked(request.id, int(time.time()), served, [request])

    def _generations(
        self,
        kind: str,
        body: Sampling,
        served: Served,
        prompts: Sequence[Sequence[int]],
        limit: int,
        top: int | None,
        *,
        echoed: Sequence[str] | None = None,
        generates: bool = True,
    ) -> Asked:
        """Return requests for ``n`` answers to each prompt; the place of each is the number of its noise's sample, as
        in ``Engine.generate``.
        """
        name = f"{kind}-{secrets.token_hex(12)}"
        seed = secrets.randbits(32) if body.seed is None else body.seed
        try:
            sampling = SamplingParams(
                max_new_tokens=limit,
                temperature=1.0 if body.temperature is None else float(body.temperature),
                top_k=body.top_k or 0,
                top_p=1.0 if body.top_p is None else float(body.top_p),
                seed=seed,
                stop=body.stops,
                logprobs=top is not None,
                top_logprobs=min(top or 0, self._engine.vocab_size),
            )
        except RequestError as error:
            raise ApiError(400, str(error), "stop") from None
        constraint = _constraint(body.response_format)
        n = body.n or 1
        requests = [
            GenerateRequest(
                f"{name}/{place}", tuple(prompt), sampling, served.adapter, ("", place), constraint,
                prompt_logprobs=echoed is not None and top is not None,
            )
            for place, prompt in enumerate(prompt for prompt in prompts for _ in range(n))
        ]  # fmt: skip
        for request in requests[::n]:
            self._check(request, "prompt")
        return Asked(
            name,
            int(time.time()),
            served,
            requests,
            n,
            seed,
            None if echoed is None else [text for text in echoed for _ in range(n)],
            generates,
            body.stops,
            top,
            bool(body.stream),
            body.with_usage,
        )

    def _prompt(self, prompt: str | int | list[int]) -> list[int]:
        if isinstance(prompt, list):
            return prompt
        text = str(prompt)
        return self._encode("prompt", [text], lambda: self._engine.tokenizer.encode(text))

    def _encode(self, param: str, texts: Sequence[str], encode: Callable[[], T]) -> T:
        """Return what the tokenizer makes of texts, or refuse them in its words, without the folder that it names.

        It holds Python's lock meanwhile, and so everybody up: texts that are far too long are refused before.
        """
        length, most = sum(map(len, texts)), CHARACTERS * self._engine.max_seq_len
        if length > most:
            raise ApiError(
                400, f"{param} has {length} characters, expected at most {most}: make it shorter", param,
                "context_length_exceeded",
            )  # fmt: skip
        try:
            return encode()
        except InputError as error:
            said = str(error).removeprefix(f"{self._engine.tokenizer.origin}: ")
            raise ApiError(400, one_line(said, 400), param, "invalid_value") from None

    def _check(self, request: Request, param: str) -> None:
        try:
            check_request(request, self._engine.vocab_size)
        except RequestError as error:
            raise ApiError(400, str(error).replace(f" of request {request.id!r}", ""), param, "invalid_value") from None

    def _room(self, prompt: Sequence[int], param: str, continuation: int = 1) -> int:
        """Return how many tokens fit after a prompt."""
        left = self._engine.max_seq_len - len(prompt)
        if left < continuation:
            raise ApiError(
                400,
                f"{param} has {len(prompt)} tokens and its continuation at least {continuation}; the model takes "
                f"{self._engine.max_seq_len} together: make it shorter",
                param,
                "context_length_exceeded",
            )
        return left

    def _within(self, left: int, asked: int | None, param: str) -> int:
        if asked is not None and asked > left:
            raise ApiError(
                400,
                f"{param} is {asked}, but {left} tokens fit after the prompt; the model takes "
                f"{self._engine.max_seq_len} together: ask for less",
                param,
                "context_length_exceeded",
            )
        return left if asked is None else asked


def _texts(messages: Sequence[Mapping[str, str]]) -> list[str]:
    return [message["content"] for message in messages]


def _conversation(served: Served, messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return a conversation as the tokenizer takes it, after the persona's system prompt."""
    return served.conversation(
        [
            {"role": "system" if message.role == "developer" else message.role, "content": message.text}
            for message in messages
        ]
    )


def _constraint(wanted: ResponseFormat | None) -> Constraint | None:
    """Return what an answer must be; each type has its own field, and no other's."""
    if wanted is None:
        return None
    own = wanted.type if wanted.type in ("json_schema", "regex", "choice") else None
    for name in ("json_schema", "regex", "choice"):
        if (getattr(wanted, name) is not None) != (name == own):
            raise ApiError(
                400, f"response_format is of type {wanted.type}: {'give' if name == own else 'leave out'} {name}",
                "response_format", "invalid_value",
            )  # fmt: skip
    if wanted.type == "text":
        return None
    if wanted.regex is not None:
        found = Constraint("regex", wanted.regex)
    elif wanted.choice is not None:
        found = Constraint("choice", tuple(wanted.choice))
    else:
        found = _json({"type": "object"} if wanted.json_schema is None else wanted.json_schema.schema_)
    size = len(found.value) if isinstance(found.value, str) else sum(map(len, found.value))
    if size > MAX_CONSTRAINT:
        raise ApiError(
            400, f"response_format has {size} characters, expected at most {MAX_CONSTRAINT}: make it simpler",
            "response_format", "invalid_value",
        )  # fmt: skip
    return found


def _json(schema: dict[str, Any] | bool) -> Constraint:
    """Return the constraint of a schema, with blanks that end: a small model may write nothing else for ever."""
    bounded = {"x-guidance": {"whitespace_pattern": BLANKS}, **schema} if isinstance(schema, dict) else schema
    return Constraint("json_schema", orjson.dumps(bounded).decode())
