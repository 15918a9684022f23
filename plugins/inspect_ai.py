"""``warmeng`` as a provider of Inspect: ``warmeng/BASE:PERSONA``, all samples in one continuous batch in this process.

Inspect finds it by an entry point. A conversation goes the way that the server's do, without HTTP: the same parameters
are understood, the others are refused in the same words, and a seed gives the same answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import orjson
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from warmeng.common.errors import UsageError, WarmengError, one_line
from warmeng.engine.settings import AUTO, EngineSettings
from warmeng.serve.answers import Writer
from warmeng.serve.catalog import load
from warmeng.serve.compose import Composer
from warmeng.serve.errors import ApiError
from warmeng.serve.loop import EngineLoop
from warmeng.serve.protocol import ChatBody, parse
from warmeng.study.personas import load_personas

_LOG = getLogger(__name__)
# Answers that may be under way; Inspect's own limit, its number of connections, is below it.
MAX_OPEN = 4096
# Inspect's names of what the protocol has by another.
NAMES = {"max_tokens": "max_completion_tokens", "stop_seqs": "stop", "num_choices": "n"}
# What Inspect does itself, or what changes no answer of this engine.
INSPECTS_OWN = frozenset(
    (
        "adaptive_connections", "attempt_timeout", "cache", "cache_prompt", "fail_on_refusal", "internal_tools",
        "max_connections", "max_retries", "max_tool_output", "reasoning_history", "stream_idle_timeout",
        "system_message", "timeout",
    )
)  # fmt: skip


@modelapi(name="warmeng")
class WarmengAPI(ModelAPI):  # type: ignore[misc]
    """A base or one of its personas.

    ``model_name``: ``BASE`` or ``BASE:PERSONA``. Model arguments (``-M``): ``persona`` for one that is not built in, as
    ``--persona`` of ``warmeng run`` has it; ``revision``, ``device``, ``max_seq_len``, ``dtype``, ``weights`` and
    ``fast``, as ``warmeng serve`` has them. Raises PrerequisiteError, which Inspect shows as one line.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        try:
            self._open(model_name, base_url, **model_args)
        except WarmengError as error:
            raise PrerequisiteError(f"{model_name}: {one_line(error, 400)}") from None

    def _open(
        self,
        model_name: str,
        base_url: str | None,
        persona: str | None = None,
        revision: str | None = None,
        device: str = "auto",
        max_seq_len: int = EngineSettings.max_seq_len,
        dtype: str = AUTO,
        weights: str = AUTO,
        fast: bool = False,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise UsageError(f"the model argument {one_line(next(iter(unknown)))!r} is not supported: leave it out")
        if base_url is not None:
            raise UsageError("a base URL is given, but the engine runs in this process: use the provider openai-api")
        base, name = divided(model_name)
        specs = [] if name is None else [persona or name]
        if persona is not None and (name is None or persona.partition("=")[0] != name):
            raise UsageError(f"the persona {one_line(persona)} is given: name the model {base}:{persona.split('=')[0]}")
        settings = EngineSettings(dtype=dtype, weights=weights, fast=fast, max_seq_len=max_seq_len)
        personas = load_personas(specs)
        self._engine, catalog = load(base, personas, settings, revision=revision, device=device, say=_LOG.info)
        self._id = list(catalog.models)[-1]
        self._composer = Composer(self._engine, catalog, MAX_OPEN)
        self._writer = Writer(self._engine.tokenizer, "")
        self._loop: EngineLoop | None = None
        self._runs_in: asyncio.AbstractEventLoop | None = None

    def close(self) -> None:
        """End the engine's thread."""
        if self._loop is not None:
            self._loop.stop()
            self._engine.cancel()
            self._loop = self._runs_in = None

    async def aclose(self) -> None:
        """End the engine's thread."""
        await asyncio.to_thread(self.close)

    def connection_key(self) -> str:
        """Each engine has its own batch."""
        return str(id(self._engine))

    async def count_text_tokens(self, text: str) -> int:
        """Return the number of the text's own tokens."""
        return len(self._engine.tokenizer.encode(text))

    async def tokenize(self, text: str) -> list[int]:
        """Return the text's tokens."""
        return self._engine.tokenizer.encode(text)

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answer a conversation. Raises UsageError for what can't be served; a conversation that is too long stops with
        ``model_length``.
        """
        if tools:
            raise UsageError("tools are given, which are not supported: use a solver without tools")
        loop = self._running()
        try:
            body = parse(ChatBody, orjson.dumps(_body(self._id, input, config)))
            asked = await asyncio.to_thread(self._composer.chat, body)
            ticket = loop.submit(asked.requests)
            try:
                results = await ticket.results()
            finally:
                loop.cancel(ticket)
            return _output(self.model_name, self._writer.chat(asked, results), asked.seed)
        except ApiError as error:
            if error.code == "context_length_exceeded" and error.param == "messages":
                return ModelOutput.from_content(self.model_name, "", stop_reason="model_length", error=error.message)
            raise UsageError(f"{self.model_name}: {error}") from None

    def _running(self) -> EngineLoop:
        """Return the engine's thread for the event loop that runs here: Inspect starts one for each evaluation."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError("Inspect runs on trio, expected asyncio: unset INSPECT_ASYNC_BACKEND") from None
        if self._loop is None or self._runs_in is not here:
            self.close()
            self._loop, self._runs_in = EngineLoop(self._engine, MAX_OPEN), here
            self._loop.start()
        return self._loop


def divided(model_name: str) -> tuple[str, str | None]:
    """Return the base and the persona of ``BASE`` or ``BASE:PERSONA``; a folder's name may have a colon itself."""
    base, colon, persona = model_name.rpartition(":")
    if not colon or "/" in persona or Path(model_name).is_dir():
        return model_name, None
    return base, persona


def _body(model: str, messages: Sequence[ChatMessage], config: GenerateConfig) -> dict[str, Any]:
    """Return what the server would get; what has no name there keeps Inspect's, by which it is refused."""
    body: dict[str, Any] = {"model": model, "messages": [_message(message) for message in messages]}
    given = config.model_dump(exclude_none=True, mode="json")
    schema = given.pop("response_schema", None)
    if schema is not None:
        named = {"name": schema["name"], "schema": schema["json_schema"], "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    return body | {NAMES.get(name, name): value for name, value in given.items() if name not in INSPECTS_OWN}


def _message(message: ChatMessage) -> dict[str, Any]:
    """Return a message of text. Raises UsageError for one with tools or other content than text."""
    if message.role not in ("system", "user", "assistant") or getattr(message, "tool_calls", None):
        raise UsageError(f"a message of role {message.role} belongs to tools, which are not supported: leave it out")
    parts = [] if isinstance(message.content, str) else [part.type for part in message.content]
    if others := [kind for kind in parts if kind != "text"]:
        raise UsageError(f"a message has content of type {others[0]}, expected text: leave it out")
    return {"role": message.role, "content": message.text}


def _output(model: str, answer: dict[str, Any], seed: int) -> ModelOutput:
    usage = answer["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return ModelOutput(
        model=model,
        choices=[
            ChatCompletionChoice(
                message=ChatMessageAssistant(content=choice["message"]["content"], model=model, source="generate"),
                stop_reason="max_tokens" if choice["finish_reason"] == "length" else "stop",
                logprobs=None if choice["logprobs"] is None else Logprobs(content=choice["logprobs"]["content"]),
            )
            for choice in answer["choices"]
        ],
        usage=ModelUsage(
            # Inspect counts what the cache had beside the rest.
            input_tokens=usage["prompt_tokens"] - cached,
            input_tokens_cache_read=cached,
            output_tokens=usage["completion_tokens"],
            total_tokens=usage["total_tokens"],
        ),
        # Inspect gives none unless asked to: with this one the answer can be had again.
        metadata={"seed": seed},
        response_id=answer["id"],
    )
