"""Bodies of requests, as OpenAI's clients send them. What is not understood is refused by name.

A field that the API has and this server does not may be sent with a value that asks for nothing (``NEUTRAL``). A field
that says who asks, and changes no answer, may have any value (``WITHOUT_EFFECT``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from warmeng.common.errors import one_line, show
from warmeng.serve.errors import ApiError

# Answers to one prompt.
MAX_CHOICES = 128
# Likeliest tokens of each place, as OpenAI's API has it for conversations.
MAX_TOP = 20
MAX_STOPS, MAX_STOP = 16, 256
MAX_LABELS = 256
# Characters of a constraint: larger ones take seconds to compile.
MAX_CONSTRAINT = 2**15

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
WITHOUT_EFFECT = ("metadata", "prompt_cache_key", "safety_identifier", "user")

Text = Annotated[str, StringConstraints(min_length=1)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP)]
TokenId = Annotated[int, Field(ge=0)]


class Body(BaseModel):
    """Strict: no other fields, and no values that only could be read as the right type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Body):
    """A message of a conversation. ``developer`` is OpenAI's newer name for ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=1)]
    # What OpenAI's client adds when an answer is sent back.
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    @property
    def text(self) -> str:
        """The content, in either form."""
        return self.content if isinstance(self.content, str) else self.content[0].text


class JsonSchema(Body):
    """A schema with a name. Only ``strict`` output is given, whatever is asked."""

    name: str
    schema_: dict[str, Any] | bool = Field(alias="schema", default=True)
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Body):
    """The language of the answer; ``regex`` and ``choice`` are this server's own."""

    type: Literal["text", "json_object", "json_schema", "regex", "choice"]
    json_schema: JsonSchema | None = None
    regex: Text | None = None
    choice: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = None


class StreamOptions(Body):
    """What a stream contains beside the answer."""

    include_usage: bool | None = None


class Sampling(Body):
    """What both kinds of generation have."""

    model: str = Field(description="the id of a model, from /v1/models")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description=f"a whole number from 1 to {MAX_CHOICES}")
    seed: int | None = Field(None, ge=0, lt=2**32, description="a whole number from 0 to 2**32 - 1")
    temperature: float | None = Field(None, ge=0, le=100, description="a number from 0 (greedy) to 100")
    top_p: float | None = Field(None, gt=0, le=1, description="a number above 0 and at most 1")
    top_k: int | None = Field(None, ge=0, description="a whole number, 0 for all tokens")
    max_tokens: int | None = Field(None, ge=0, description="a whole number")
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = Field(
        None, description=f"text of 1 to {MAX_STOP} characters, or a list of up to {MAX_STOPS} such texts"
    )
    stream: bool | None = Field(None, description="true or false")
    stream_options: StreamOptions | None = Field(None, description="an object with include_usage")
    response_format: ResponseFormat | None = Field(
        None, description='an object such as {"type": "json_object"}; see docs/serve.md'
    )

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatBody(Sampling):
    """``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)] = Field(
        description="a list of messages with role (system, developer, user, assistant) and content (text, or one text "
        "part), nothing else"
    )
    max_completion_tokens: int | None = Field(None, ge=1, description="a whole number from 1")
    logprobs: bool | None = Field(None, description="true or false")
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP, description=f"a whole number from 0 to {MAX_TOP}")


class CompletionBody(Sampling):
    """``/v1/completions``."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]] = Field(
        description="text, a list of texts, token ids, or a list of lists of token ids"
    )
    echo: bool | None = Field(None, description="true or false")
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP, description=f"a whole number from 0 to {MAX_TOP}")


class ScoreBody(Body):
    """``/v1/score``: exact probabilities of labels, after a conversation or after token ids."""

    model: str = Field(description="the id of a model, from /v1/models")
    messages: Annotated[list[Message], Field(min_length=1)] | None = Field(
        None, description="a list of messages with role and content"
    )
    opening: str | None = Field(None, description="the beginning of the answer, text")
    prompt: Annotated[list[TokenId], Field(min_length=1)] | None = Field(None, description="token ids")
    labels: Annotated[list[Text] | list[list[TokenId]], Field(min_length=1, max_length=MAX_LABELS)] = Field(
        description=f"1 to {MAX_LABELS} labels: a list of texts after messages, of lists of token ids after a prompt"
    )
    end: bool | None = Field(None, description="true to add the token that ends an answer to each label")


B = TypeVar("B", bound=Body)


def parse(kind: type[B], raw: bytes) -> B:
    """Return the body of a request. Raises ApiError 400 that names the parameter which is wrong or not supported."""
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is not JSON ({one_line(error, 120)}): send an object") from None
    if not isinstance(data, dict):
        raise ApiError(400, f"the body is a JSON {type(data).__name__}, expected an object")
    known = {field.alias or name for name, field in kind.model_fields.items()}
    for name in list(data):
        if name in known:
            continue
        if name in NEUTRAL:
            if data[name] is not None and not any(_same(data[name], value) for value in NEUTRAL[name]):
                asked = show(data[name], 60)
                raise ApiError(
                    400, f"{name} is {asked}, which is not supported: leave it out", name, "unsupported_parameter"
                )
        elif name not in WITHOUT_EFFECT:
            shown = one_line(name, 80)
            raise ApiError(400, f"{shown} is not a parameter here: leave it out", shown, "unknown_parameter")
        del data[name]
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _refusal(kind, data, error) from None


def _same(value: Any, neutral: Any) -> bool:
    """Equal, and not only because False is 0."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)


def _refusal(kind: type[Body], data: dict[str, Any], error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    field = kind.model_fields.get(name)
    expected = field.description if field is not None else None
    if name not in data:
        return ApiError(400, f"{name} is missing, expected {expected}", name, "missing_required_parameter")
    path = ".".join(str(part) for part in first["loc"])
    where = f" (at {one_line(path, 80)}: {one_line(first['msg'], 120)})" if len(first["loc"]) > 1 else ""
    return ApiError(400, f"{name} is {show(data[name], 60)}, expected {expected}{where}", name, "invalid_value")
