"""One attempt: a request's body to the server, and its response as an answer, a failure to repeat, or an end.

HTTP is the official ``openai`` client's. It repeats nothing itself, so that each attempt can be counted.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from warmeng.common.errors import InputError, UsageError, one_line
from warmeng.remote.labels import label_logprobs
from warmeng.remote.names import NO_KEY
from warmeng.remote.pace import Patience, hint
from warmeng.remote.request import ChatRequest, ChatResult, ChatStatus

# What a server may call an answer that it does not let pass, and a conversation that is too long.
FILTERED = ("content_filter", "content_policy_violation", "invalid_prompt", "moderation_blocked")
TOO_LONG = ("context_length_exceeded", "string_above_max_length")
# Of 429: waiting does not help.
NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
# Errors of a connection that was never made: nothing was sent.
NOT_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")
BUSY = (429, 503, 529)


@dataclass(frozen=True)
class Features:
    """What a server takes of the API: the limit of tokens by its name, a seed; how many likeliest tokens it tells."""

    limit: str = "max_completion_tokens"
    seed: bool = True
    top: int = 20

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, of what can make answers others."""
        return {"seed": self.seed, "top_logprobs": self.top}


@dataclass(frozen=True)
class Failure:
    """An attempt without an answer that may be repeated.

    ``wait``: the server's hint in seconds. ``busy``: it takes no more for now. ``billed``: nobody knows whether the
    server computed an answer.
    """

    why: str
    wait: float | None = None
    busy: bool = False
    billed: bool = True


class Rejected(InputError):
    """The server refuses the request, and would again. ``said``: what it names, and its words."""

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said


class Client:
    """Speaks with one server. It must be used from one event loop."""

    def __init__(self, base: str, key: str, patience: Patience) -> None:
        """Raises ``UsageError`` where the ``openai`` package is missing."""
        try:
            import openai
        except ImportError as error:
            raise UsageError(f"a package is missing ({error}): pip install 'warmeng[api]'") from None
        self._openai, self.base, self._key = openai, base, key
        self._timeout = patience.timeout
        self._client = openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=0, timeout=patience.timeout)

    async def attempt(self, model: str, request: ChatRequest, features: Features) -> ChatResult | Failure:
        """Send a request once. Raises ``Rejected`` where repeating it is of no use."""
        openai = self._openai
        try:
            # The client's own limit is for each read: a server that drips could go on for ever.
            async with asyncio.timeout(self._timeout):
                raw = await self._client.chat.completions.with_raw_response.create(**_body(model, request, features))
                found = raw.parse()
        except TimeoutError:
            return Failure(f"no answer within {self._timeout:g} s")
        except openai.APITimeoutError as error:
            return Failure(f"no answer within {self._timeout:g} s", billed=not _unsent(error))
        except openai.APIConnectionError as error:
            why = type(error.__cause__).__name__ if error.__cause__ else type(error).__name__
            return Failure(f"the connection failed ({why})", billed=not _unsent(error))
        except openai.APIStatusError as error:
            return self._status(error, request)
        except (openai.APIError, ValueError, TypeError, AttributeError) as error:
            return Failure(f"the response is not what the API has ({type(error).__name__})")
        try:
            return _result(request, found, self._clean)
        except _Malformed as error:
            return Failure(f"the response is not what the API has ({error})")

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def _clean(self, text: str) -> str:
        """Return a text without the key: a server may send it back."""
        return text if self._key == NO_KEY else text.replace(self._key, "...")

    def _status(self, error: Any, request: ChatRequest) -> ChatResult | Failure:
        status = int(error.status_code)
        body = error.body if isinstance(error.body, Mapping) else {}
        code = str(body.get("code") or body.get("type") or "")
        said = self._clean(one_line(body.get("message") or error.message, 200))
        if status in (400, 413, 422) and (code in FILTERED or code in TOO_LONG):
            kind: ChatStatus = "too_long" if code in TOO_LONG else "filtered"
            return ChatResult(request.id, kind, "none", "", 0, 0, 0, "", None)
        if status in BUSY and code not in NO_CREDIT:
            return Failure(f"status {status}: {said}", hint(error.response.headers), True, billed=status != 429)
        if status >= 500 or status in (408, 409):
            return Failure(f"status {status}: {said}", hint(error.response.headers), billed=status >= 500)
        todo = {401: "check the key", 403: "check the key's rights", 404: "check the model's name and --api-base"}
        do = "see to the account" if status == 429 else todo.get(status, "change what it names")
        named = f" ({self._clean(one_line(body['param'], 60))})" if body.get("param") else ""
        raise Rejected(f"{self.base} refuses the request with status {status}{named}: {said}: {do}", f"{named} {said}")


def _unsent(error: Exception) -> bool:
    return type(error.__cause__).__name__ in NOT_SENT


def _body(model: str, request: ChatRequest, features: Features) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": role, "content": content} for role, content in request.messages],
        "temperature": request.temperature,
        "top_p": request.top_p,
    }
    # By name: which of the two limits a server knows differs.
    body[features.limit] = request.max_tokens
    if features.seed:
        body["seed"] = request.seed
    if request.labels and features.top:
        body |= {"logprobs": True, "top_logprobs": features.top}
    return body


class _Malformed(Exception):
    """What of a response is not what it should be, in words."""


def _result(request: ChatRequest, found: Any, clean: Callable[[str], str]) -> ChatResult:
    """Return a response as a result. The client's types promise nothing: it takes whatever the server sends."""
    choices = getattr(found, "choices", None)
    if not isinstance(choices, list) or len(choices) != 1:
        raise _Malformed("it has not one choice")
    choice, model = choices[0], getattr(found, "model", None)
    message, fingerprint = getattr(choice, "message", None), getattr(found, "system_fingerprint", None)
    if not isinstance(model, str):
        raise _Malformed("it names no model")
    if fingerprint is not None and not isinstance(fingerprint, str):
        raise _Malformed("its fingerprint is no text")
    content, refusal = getattr(message, "content", None), getattr(message, "refusal", None)
    text = content if content is not None else refusal if refusal is not None else ""
    if message is None or not isinstance(text, str):
        raise _Malformed("its answer is no text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Malformed("its answer is no Unicode") from None
    finish = getattr(choice, "finish_reason", None)
    if finish not in ("stop", "length", "content_filter"):
        raise _Malformed(f"its finish_reason is {one_line(clean(repr(finish)), 60)}")
    prompt, output, cached = _usage(getattr(found, "usage", None), request)
    status: ChatStatus = "filtered" if finish == "content_filter" else "ok"
    logprobs: tuple[float | None, ...] = ()
    mass = 0.0
    if request.labels and (top := _top(choice)) is not None:
        logprobs, mass = label_logprobs(request.labels, top)
    kept = fingerprint if fingerprint is None else clean(one_line(fingerprint, 200))
    text = clean(text) if status == "ok" else ""
    reasons: dict[str, Literal["stop", "length", "none"]] = {"stop": "stop", "length": "length"}
    return ChatResult(
        request.id,
        status,
        reasons.get(finish, "none"),
        text,
        output,
        prompt,
        cached,
        clean(one_line(model, 200)),
        kept,
        logprobs,
        mass,
    )


def _usage(usage: Any, request: ChatRequest) -> tuple[int, int, int]:
    """Return prompt, output and cached tokens. A server that does not count is taken to have used all it could."""
    if usage is None:
        return request.most_prompt, request.most_output, 0
    prompt, output = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    cached = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None) or 0
    if not all(type(n) is int and 0 <= n < 2**40 for n in (prompt, output, cached)):
        raise _Malformed("its usage is no count of tokens")
    assert isinstance(prompt, int)
    assert isinstance(output, int)
    return prompt, output, int(cached)


def _top(choice: Any) -> list[tuple[str, float]] | None:
    """Return the likeliest first tokens: none of an answer that ended before one, ``None`` where none are told."""
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    if content is None:
        return None
    if not isinstance(content, list):
        raise _Malformed("its log-probabilities are no list")
    found = []
    for one in (getattr(content[0], "top_logprobs", None) or []) if content else []:
        token, logprob = getattr(one, "token", None), getattr(one, "logprob", None)
        if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
            raise _Malformed("its likeliest tokens are not what the API has")
        if not math.isnan(logprob):
            found.append((token, min(0.0, float(logprob))))
    return found
