"""From results to the bodies of answers, as OpenAI's clients read them."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import Any

from warmeng.engine.request import GenerateResult, Result, ScoreRequest, ScoreResult, TopLogprobs
from warmeng.engine.tokenizer import Tokenizer
from warmeng.serve.compose import Asked
from warmeng.serve.errors import ApiError
from warmeng.serve.text import GrowingText

_STATUS = {"too_long": 400, "bad_constraint": 400, "out_of_memory": 503, "not_finite": 500}
_CODE = {
    "too_long": "context_length_exceeded",
    "bad_constraint": "invalid_value",
    "out_of_memory": "out_of_memory",
    "not_finite": "not_finite",
}
_PARAM = {"bad_constraint": "response_format"}


class Writer:
    """Writes answers of one engine's requests."""

    def __init__(self, tokenizer: Tokenizer, fingerprint: str) -> None:
        self._tokenizer, self._fingerprint = tokenizer, fingerprint

    def head(self, asked: Asked, kind: str) -> dict[str, Any]:
        """Return what all objects of an answer begin with."""
        return {
            "id": asked.id,
            "object": kind,
            "created": asked.created,
            "model": asked.served.id,
            "system_fingerprint": self._fingerprint,
        }

    def chat(self, asked: Asked, results: Sequence[Result]) -> dict[str, Any]:
        """Return the answer of /v1/chat/completions."""
        choices = []
        for place, result in enumerate(generations(results)):
            text, kept = self._text(asked, result)
            choices.append(
                {
                    "index": place,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": self.chat_logprobs(asked, result.token_ids, result.logprobs, result.top_logprobs, kept),
                    "finish_reason": result.finish_reason,
                }
            )
        return {**self.head(asked, "chat.completion"), "choices": choices, "usage": usage(asked, results)}

    def completion(self, asked: Asked, results: Sequence[Result]) -> dict[str, Any]:
        """Return the answer of /v1/completions."""
        choices = []
        for place, result in enumerate(generations(results)):
            text, kept = self._text(asked, result) if asked.generates else ("", range(0))
            echo = asked.requests[place].prompt if asked.echoed is not None else ()
            whole = (asked.echoed[place] if asked.echoed is not None else "") + text
            logprobs = None
            if asked.top is not None:
                # No token comes before the first one, so it has no log-probability.
                first: list[Any] = [None] if echo else []
                count = len(kept)
                tokens = result.token_ids[:count]
                if asked.generates and result.end_token is not None:
                    # Told as OpenAI's API tells it, though it is none of the text: clients count on it.
                    tokens, count = (*tokens, result.end_token), count + 1
                logprobs = self.text_logprobs(
                    asked,
                    [*echo, *tokens],
                    [*first, *result.prompt_logprobs, *result.logprobs[:count]],
                    [*first, *result.prompt_top_logprobs, *result.top_logprobs[:count]],
                )
            reason = result.finish_reason if asked.generates else "length"
            choices.append({"index": place, "text": whole, "logprobs": logprobs, "finish_reason": reason})
        return {**self.head(asked, "text_completion"), "choices": choices, "usage": usage(asked, results)}

    def score(self, asked: Asked, results: Sequence[Result], labels: Sequence[Any]) -> dict[str, Any]:
        """Return the answer of /v1/score; ``labels`` as they were given."""
        (result,), (request,) = results, asked.requests
        assert isinstance(result, ScoreResult)
        assert isinstance(request, ScoreRequest)
        _refuse(result)
        scored = [
            {
                "index": place,
                "label": label,
                "logprob": result.logprobs[place],
                "tokens": [self.token(token) for token in request.labels[place]],
                "token_logprobs": list(result.token_logprobs[place]),
            }
            for place, label in enumerate(labels)
        ]
        return {**self.head(asked, "score"), "labels": scored, "mass": result.mass, "usage": usage(asked, results)}

    def token(self, token_id: int) -> str:
        """Return a token as text; one that is a part of a character as ``bytes:\\\\xe2``, as OpenAI's API has it."""
        return _as_text(self._bytes(token_id))

    def chat_logprobs(
        self,
        asked: Asked,
        token_ids: Sequence[int],
        logprobs: Sequence[float],
        tops: Sequence[TopLogprobs],
        places: range,
    ) -> dict[str, Any] | None:
        """Return the log-probabilities of tokens at ``places``; None where none were asked for."""
        if asked.top is None:
            return None
        content = [
            {
                **self._named(token_ids[place], logprobs[place]),
                "top_logprobs": [self._named(*one) for one in tops[place]] if asked.top else [],
            }
            for place in places
        ]
        return {"content": content, "refusal": None}

    def text_logprobs(
        self,
        asked: Asked,
        token_ids: Sequence[int],
        logprobs: Sequence[float | None],
        tops: Sequence[TopLogprobs | None],
        offset: int = 0,
    ) -> dict[str, Any]:
        """Return the log-probabilities of tokens in the form of completions; ``offset`` of the first, in characters."""
        decoder, offsets = getincrementaldecoder("utf-8")("replace"), []
        for token in token_ids:
            offsets.append(offset)
            offset += len(decoder.decode(self._bytes(token)))
        likeliest = None
        if asked.top:
            # Also the token that is there, as OpenAI's API does.
            places = zip(token_ids, logprobs, tops, strict=True)
            likeliest = [None if top is None else self._by_text((*top, (token, at))) for token, at, top in places]
        return {
            "tokens": [self.token(token) for token in token_ids],
            "token_logprobs": list(logprobs),
            "top_logprobs": likeliest,
            "text_offset": offsets,
        }

    def _by_text(self, top: Sequence[tuple[int, float | None]]) -> dict[str, float | None]:
        """Return log-probabilities by the tokens' texts; of two tokens with one text the first counts."""
        found: dict[str, float | None] = {}
        for token, value in top:
            found.setdefault(self.token(token), value)
        return found

    def _named(self, token_id: int, logprob: float) -> dict[str, Any]:
        raw = self._bytes(token_id)
        return {"token": _as_text(raw), "bytes": list(raw), "logprob": logprob}

    def _bytes(self, token_id: int) -> bytes:
        return self._tokenizer.decode_bytes((token_id,), skip_special=False)

    def _text(self, asked: Asked, result: GenerateResult) -> tuple[str, range]:
        growing = GrowingText(self._tokenizer, asked.stops)
        growing.feed(result.token_ids)
        return growing.finish()


def generations(results: Sequence[Result]) -> list[GenerateResult]:
    """Return the results of generations. Raises ApiError where one was not answered."""
    for result in results:
        _refuse(result)
    return [result for result in results if isinstance(result, GenerateResult)]


def usage(asked: Asked, results: Sequence[Result]) -> dict[str, Any]:
    """Return the tokens of an answer; a prompt with several answers counts once."""
    prompt = sum(result.prompt_tokens for result in results[:: asked.n])
    cached = sum(result.cached_tokens for result in results[:: asked.n])
    output = sum(len(result.token_ids) for result in results if isinstance(result, GenerateResult) and asked.generates)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _refuse(result: Result) -> None:
    if result.status != "ok":
        raise ApiError(_STATUS[result.status], result.detail, _PARAM.get(result.status), _CODE[result.status])


def _as_text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
