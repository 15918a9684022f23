"""Answers as they grow: server-sent events, one for what each step adds to each choice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from warmeng.engine.request import GenerateRequest, GenerateResult, Progress, Result, TopLogprobs
from warmeng.engine.tokenizer import Tokenizer
from warmeng.serve.answers import Writer, generations, usage
from warmeng.serve.compose import Asked
from warmeng.serve.errors import ApiError
from warmeng.serve.loop import EngineLoop, Ticket
from warmeng.serve.text import GrowingText

DONE = b"data: [DONE]\n\n"


class _Choice:
    """One answer while it grows."""

    def __init__(self, tokenizer: Tokenizer, asked: Asked, place: int, ends: bool) -> None:
        """``ends``: the token that ends it is told too."""
        self._ends = ends
        request = asked.requests[place]
        assert isinstance(request, GenerateRequest)
        self.text = GrowingText(tokenizer, asked.stops)
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.tops: list[TopLogprobs] = []
        # Characters told so far.
        self.length = 0

    def take(self, event: Progress | GenerateResult) -> tuple[str, range]:
        """Take what a step added; return the text and the tokens that have become certain."""
        known = len(self.token_ids) if isinstance(event, GenerateResult) else 0
        added = event.token_ids[known:]
        self.token_ids += added
        self.logprobs += event.logprobs[known : known + len(added)]
        self.tops += event.top_logprobs[known : known + len(added)]
        self.text.feed(added)
        if not isinstance(event, GenerateResult):
            return self.text.take()
        text, tokens = self.text.finish()
        if self._ends and event.end_token is not None:
            self.token_ids.append(event.end_token)
            self.logprobs += event.logprobs[known + len(added) :]
            self.tops += event.top_logprobs[known + len(added) :]
            tokens = range(tokens.start, tokens.stop + 1)
        return text, tokens


class Stream:
    """Makes the events of one answer."""

    def __init__(self, writer: Writer, tokenizer: Tokenizer, asked: Asked, ticket: Ticket, chat: bool) -> None:
        self._writer, self._asked, self._ticket, self._chat = writer, asked, ticket, chat
        self._choices = [_Choice(tokenizer, asked, place, not chat) for place in range(len(asked.requests))]
        self._head = writer.head(asked, "chat.completion.chunk" if chat else "text_completion")

    async def events(self) -> AsyncIterator[bytes]:
        """Give the events; an answer that fails ends with an error's."""
        results: dict[int, Result] = {}
        try:
            if self._chat:
                for place in range(len(self._choices)):
                    yield self._event(place, {"role": "assistant", "content": "", "refusal": None}, None, None)
            async for place, event in self._ticket.events():
                if not isinstance(event, Progress):
                    results[place] = event
                    generations([event])
                assert isinstance(event, Progress | GenerateResult)
                choice = self._choices[place]
                text, tokens = choice.take(event)
                reason = event.finish_reason if isinstance(event, GenerateResult) else None
                if text or tokens or reason:
                    yield self._event(place, *self._content(choice, text, tokens), reason)
        except ApiError as error:
            yield _encoded(error.body())
            return
        if self._asked.with_usage:
            total = usage(self._asked, [results[place] for place in range(len(results))])
            yield _encoded({**self._head, "choices": [], "usage": total})
        yield DONE

    def _content(self, choice: _Choice, text: str, tokens: range) -> tuple[Any, dict[str, Any] | None]:
        if self._chat:
            told = choice.token_ids, choice.logprobs, choice.tops
            return ({"content": text} if text or tokens else {}), self._writer.chat_logprobs(self._asked, *told, tokens)
        logprobs = None
        if self._asked.top is not None:
            part = slice(tokens.start, tokens.stop)
            told_ = choice.token_ids[part], choice.logprobs[part], choice.tops[part]
            logprobs = self._writer.text_logprobs(self._asked, *told_, offset=choice.length)
        choice.length += len(text)
        return text, logprobs

    def _event(self, place: int, content: Any, logprobs: dict[str, Any] | None, reason: str | None) -> bytes:
        choice = {"index": place, ("delta" if self._chat else "text"): content, "logprobs": logprobs}
        with_usage = {"usage": None} if self._asked.with_usage else {}
        return _encoded({**self._head, "choices": [{**choice, "finish_reason": reason}], **with_usage})


def _encoded(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


class EventStream:
    """An ASGI response of events. It ends, and its requests are dropped, when the client is gone."""

    def __init__(self, stream: Stream, ticket: Ticket, loop: EngineLoop, headers: Sequence[tuple[str, str]]) -> None:
        self._stream, self._ticket, self._loop, self._headers = stream, ticket, loop, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        given = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        given += [(name.encode(), value.encode()) for name, value in self._headers]
        # What is not finished then is no answer: the server closes the connection.
        with suppress(ClientGone):
            try:
                await unless_gone(receive, self._send(send, given))
            finally:
                self._loop.cancel(self._ticket)

    async def _send(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for event in self._stream.events():
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class ClientGone(Exception):
    """The client closed its connection."""


async def unless_gone(receive: Receive, work: Any) -> Any:
    """Return what ``work`` returns. Raises ClientGone, and ends it, where the client is gone before."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
