"""One attempt: a request to the server, and its response as an answer, a failure to repeat, or an end.

HTTP is the official ``openai`` client's. It repeats nothing itself, so that each attempt can be counted.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from warmeng.common.errors import InputError, UsageError, one_line
from warmeng.remote.errors import Unavailable
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


@dataclass(frozen=True)
class Refusal:
    """A response whose status is no success: the error's code, the parameter that it names, and its words."""

    status: int
    code: str
    param: str
    said: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Rejected(InputError):
    """The server refuses the request, and would again. ``said``: what it names, and its words."""

    def __init__(self, message: str, said: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.said, self.status = said, status


class Client:
    """Speaks with one server. It must be used from one event loop."""

    def __init__(self, base: str, key: str, patience: Patience) -> None:
        """Raises ``UsageError`` where the ``openai`` package is missing."""
        try:
            import openai
        except ImportError as error:
            raise UsageError(f"a package is missing ({error}): pip install 'warmeng[api]'") from None
        self._openai, self.base, self._key = openai, base, key
        self.patience = patience
        self._client = openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=0, timeout=patience.timeout)

    async def attempt(self, model: str, request: ChatRequest, features: Features) -> ChatResult | Failure:
        """Send a conversation once. Raises ``Rejected`` where repeating it is of no use."""
        body = body_of(model, request, features)

        async def send(api: Any) -> Any:
            return (await api.chat.completions.with_raw_response.create(**body)).parse()

        found = await self.call(send)
        return found if isinstance(found, Failure) else self.outcome(request, found)

    async def call(self, send: Callable[[Any], Awaitable[Any]], seconds: float | None = None) -> Any:
        """Make one request: return what ``send`` gives, a ``Failure`` of the connection, or a ``Refusal``.

        ``seconds``: the most that it may take, ``Patience.timeout`` unless given.
        """
        openai, most = self._openai, seconds or self.patience.timeout
        try:
            # The client's own limit is for each read: a server that drips could go on for ever.
            async with asyncio.timeout(most):
                return await send(self._client)
        except TimeoutError:
            return Failure(f"no answer within {most:g} s")
        except openai.APITimeoutError as error:
            return Failure(f"no answer within {most:g} s", billed=not _unsent(error))
        except openai.APIConnectionError as error:
            why = type(error.__cause__).__name__ if error.__cause__ else type(error).__name__
            return Failure(f"the connection failed ({why})", billed=not _unsent(error))
        except openai.APIStatusError as error:
            return self.refusal(int(error.status_code), error.body, error.message, error.response.headers)
        except (openai.APIError, ValueError, TypeError, AttributeError) as error:
            return Failure(f"the response is not what the API has ({type(error).__name__})")

    def outcome(self, request: ChatRequest, found: Any) -> ChatResult | Failure:
        """Return what a conversation came to: ``found`` is the response, or the ``Refusal`` of it.

        Raises ``Rejected`` where repeating it is of no use.
        """
        if isinstance(found, Refusal):
            if found.status in (400, 413, 422) and (found.code in FILTERED or found.code in TOO_LONG):
                kind: ChatStatus = "too_long" if found.code in TOO_LONG else "filtered"
                return ChatResult(request.id, kind, "none", "", 0, 0, 0, "", None)
            return self.failure(found)
        try:
            return _result(request, found, self.clean)
        except _Malformed as error:
            return Failure(f"the response is not what the API has ({error})")

    def parsed(self, body: Mapping[str, Any]) -> Any:
        """Return a response's body as ``call`` gives a response: whatever the server wrote."""
        from openai.types.chat import ChatCompletion

        try:
            return ChatCompletion.construct(**body)
        except (ValueError, TypeError, AttributeError) as error:
            return Failure(f"the response is not what the API has ({type(error).__name__})")

    def refusal(self, status: int, body: object, said: str = "", headers: Mapping[str, str] | None = None) -> Refusal:
        """Return a response with this status and this error; ``said`` where the error has no words."""
        error = body if isinstance(body, Mapping) else {}
        code = str(error.get("code") or error.get("type") or "")
        param = self.clean(one_line(error["param"], 60)) if error.get("param") else ""
        words = self.clean(one_line(error.get("message") or said, 200))
        return Refusal(status, code, param, words, headers or {})

    def failure(self, refusal: Refusal) -> Failure:
        """Return a refusal as a failure that may be repeated. Raises ``Rejected`` where repeating is of no use."""
        status, said = refusal.status, refusal.said
        if status in BUSY and refusal.code not in NO_CREDIT:
            return Failure(f"status {status}: {said}", hint(refusal.headers), True, billed=status != 429)
        if status >= 500 or status in (408, 409):
            return Failure(f"status {status}: {said}", hint(refusal.headers), billed=status >= 500)
        todo = {401: "check the key", 403: "check the key's rights", 404: "check the model's name and --api-base"}
        do = "see to the account" if status == 429 else todo.get(status, "change what it names")
        named = f" ({refusal.param})" if refusal.param else ""
        message = f"{self.base} refuses the request with status {status}{named}: {said}: {do}"
        raise Rejected(message, f"{named} {said}", status)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def clean(self, text: str) -> str:
        """Return a text without the key: a server may send it back."""
        return text if self._key == NO_KEY else text.replace(self._key, "...")


async def persist(
    attempt: Callable[[], Awaitable[Any]], client: Client, ended: Callable[[], bool] = lambda: False, times: int = 1
) -> Any:
    """Try until an attempt gives no ``Failure``, and return what it gives.

    Raises ``Unavailable`` after as many attempts as patience allows, ``times`` as many where it says so, where the
    server asks to wait too long, and after a failure where ``ended``; and what ``attempt`` raises.
    """
    failures, patience = 0, client.patience
    while True:
        found = await attempt()
        if not isinstance(found, Failure):
            return found
        failures += 1
        told = f"{client.base}: {found.why}"
        if failures >= times * patience.attempts or ended():
            raise Unavailable(f"{told}; {failures} attempts are the most for one request")
        if found.wait is not None and found.wait > patience.most:
            raise Unavailable(f"{told}; it asks to wait {found.wait:,.0f} s: go on then")
        await asyncio.sleep(patience.wait(failures) if found.wait is None else found.wait)


def _unsent(error: Exception) -> bool:
    return type(error.__cause__).__name__ in NOT_SENT


def body_of(model: str, request: ChatRequest, features: Features) -> dict[str, Any]:
    """Return what is sent of a conversation."""
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
