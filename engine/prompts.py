"""Prompts as a caller has them, texts and conversations, made into requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from warmeng.common.errors import InputError, show
from warmeng.engine.request import GenerateRequest, RequestError, SamplingParams
from warmeng.engine.tokenizer import Tokenizer

Message = Mapping[str, str]
Prompt = str | Sequence[Message] | GenerateRequest


def as_requests(
    prompts: Iterable[Prompt], tokenizer: Tokenizer, params: SamplingParams | None, adapter: str | None
) -> list[GenerateRequest]:
    """Return a request for each prompt, in order; see ``Engine.generate``. A request is kept as it is.

    The place in the list is the request's id, and in its noise key the number of the sample: the same text twice
    gives two samples. Raises RequestError where a prompt is of another form, or where params or an adapter are given
    beside a request.
    """
    if isinstance(prompts, str | Mapping):
        raise RequestError(f"prompts is {show(prompts)}, expected a list: put it in brackets")
    return [_as_request(i, prompt, tokenizer, params, adapter) for i, prompt in enumerate(prompts)]


def _as_request(
    place: int, prompt: Prompt, tokenizer: Tokenizer, params: SamplingParams | None, adapter: str | None
) -> GenerateRequest:
    if isinstance(prompt, GenerateRequest):
        if params is not None or adapter is not None:
            raise RequestError(
                f"request {prompt.id!r} has sampling and adapter of its own, but params or adapter are given too: "
                "leave them out, or give its prompt as text or messages"
            )
        return prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        raise RequestError(
            f"prompt {place} is {show(prompt)}, expected text, a list of messages "
            '([{"role": "user", "content": "..."}]) or a GenerateRequest'
        )
    try:
        tokens = tuple(tokenizer.chat(messages))
    except InputError as error:
        raise RequestError(f"prompt {place}: {error}") from None
    return GenerateRequest(str(place), tokens, params or SamplingParams(), adapter, noise_key=("", place))
