"""The application: paths, and what happens between a body and its answer."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from warmeng.common.errors import one_line, without_secrets
from warmeng.engine.engine import Engine
from warmeng.serve.answers import Writer
from warmeng.serve.catalog import Catalog
from warmeng.serve.compose import CHAT, Asked, Composer
from warmeng.serve.errors import ApiError
from warmeng.serve.guard import Guard, read_body
from warmeng.serve.limits import Limits
from warmeng.serve.loop import EngineLoop
from warmeng.serve.metrics import CONTENT_TYPE, Metrics
from warmeng.serve.protocol import ChatBody, CompletionBody, ScoreBody, parse
from warmeng.serve.replies import JsonReply
from warmeng.serve.stream import ClientGone, EventStream, Stream, unless_gone

COMPLETIONS, SCORE = "/v1/completions", "/v1/score"
PATHS = (CHAT, COMPLETIONS, SCORE, "/v1/models", "/health", "/metrics")
# Threads that encode prompts: most of that work holds Python's lock, or one process's that renders templates.
ENCODERS = 4

Handler = Callable[[Request], Awaitable[Any]]


class Service:
    """Answers requests with one engine."""

    def __init__(self, engine: Engine, catalog: Catalog, limits: Limits) -> None:
        self.engine, self.catalog, self.limits = engine, catalog, limits
        self.loop = EngineLoop(engine, limits.max_open)
        self.metrics = Metrics(engine, self.loop, PATHS)
        self._composer = Composer(engine, catalog, limits.max_open)
        described = orjson.dumps(engine.describe(), option=orjson.OPT_SORT_KEYS)
        self._writer = Writer(engine.tokenizer, f"fp_{hashlib.sha256(described).hexdigest()[:12]}")
        self._encoders = asyncio.Semaphore(ENCODERS)

    async def chat(self, request: Request) -> ASGIApp:
        """Answer a conversation."""
        body = parse(ChatBody, await read_body(request, self.limits))
        return await self._generated(request, await self._composed(self._composer.chat, body), True)

    async def completion(self, request: Request) -> ASGIApp:
        """Continue texts or token ids."""
        body = parse(CompletionBody, await read_body(request, self.limits))
        return await self._generated(request, await self._composed(self._composer.completion, body), False)

    async def score(self, request: Request) -> ASGIApp:
        """Give labels' exact probabilities."""
        body = parse(ScoreBody, await read_body(request, self.limits))
        asked = await self._composed(self._composer.score, body)
        return JsonReply(self._writer.score(asked, await self._results(request, asked), body.labels))

    async def models(self, request: Request) -> ASGIApp:
        """List the models."""
        return JsonReply({"object": "list", "data": [self._model(name) for name in self.catalog.models]})

    async def model(self, request: Request) -> ASGIApp:
        """Tell of one model."""
        return JsonReply(self._model(self.catalog.find(request.path_params["name"]).id))

    async def health(self, request: Request) -> ASGIApp:
        """Tell whether the engine runs."""
        return JsonReply({"status": "ok"}) if self.loop.failure is None else JsonReply({"status": "failed"}, 503)

    async def show_metrics(self, request: Request) -> ASGIApp:
        """Show counters in Prometheus' format."""
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.catalog.created, "owned_by": "warmeng"}

    async def _composed(self, compose: Callable[[Any], Asked], body: Any) -> Asked:
        """Encode in a thread: templates are rendered by another process, and long texts take a while."""
        async with self._encoders:
            return await asyncio.to_thread(compose, body)

    async def _generated(self, request: Request, asked: Asked, chat: bool) -> ASGIApp:
        headers = {"x-warmeng-seed": str(asked.seed)}
        if asked.stream:
            ticket = self.loop.submit(asked.requests, streams=True)
            stream = Stream(self._writer, self.engine.tokenizer, asked, ticket, chat)
            return EventStream(stream, ticket, self.loop, list(headers.items()))
        results = await self._results(request, asked)
        write = self._writer.chat if chat else self._writer.completion
        return JsonReply(write(asked, results), headers=headers)

    async def _results(self, request: Request, asked: Asked) -> list[Any]:
        ticket = self.loop.submit(asked.requests)
        try:
            found: list[Any] = await unless_gone(request.receive, ticket.results())
            return found
        finally:
            self.loop.cancel(ticket)


def application(service: Service, key: str | None = None, hosts: Collection[str] | None = None) -> ASGIApp:
    """Return the ASGI application of a service; see ``Guard`` for ``key`` and ``hosts``."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.loop.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.loop.stop)

    routes = [
        Route(CHAT, _endpoint(service.chat), methods=["POST"]),
        Route(COMPLETIONS, _endpoint(service.completion), methods=["POST"]),
        Route(SCORE, _endpoint(service.score), methods=["POST"]),
        Route("/v1/models", _endpoint(service.models)),
        Route("/v1/models/{name:path}", _endpoint(service.model)),
        Route("/health", _endpoint(service.health)),
        Route("/metrics", _endpoint(service.show_metrics)),
    ]
    app = Starlette(
        routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _no_such_path, Exception: _failed}
    )
    return service.metrics.around(Guard(app, key, hosts))


def _endpoint(handler: Handler) -> Callable[[Request], Awaitable[Any]]:
    """Return what Starlette calls for a path: a refusal, or an error of ours, becomes an answer without a traceback."""

    async def endpoint(request: Request) -> Any:
        try:
            return await handler(request)
        except ApiError as error:
            return JsonReply(error.body(), error.status, error.headers)
        except ClientGone:
            return _nothing

    return endpoint


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a client that is gone: the server closes what is left of the connection."""


async def _failed(request: Request, error: Exception) -> Response:
    """Say that something of ours failed; what it was is for whoever runs the server."""
    sys.stderr.write(f"warmeng: {request.url.path}: {type(error).__name__}: {one_line(error)}\n")
    if os.environ.get("WARMENG_DEBUG") == "1":
        sys.stderr.write(without_secrets("".join(traceback.format_exception(error))))
    return JsonReply(ApiError(500, "the server failed: see its terminal", code="server_error").body(), 500)


async def _no_such_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {one_line(request.url.path, 100)}: {one_line(error.detail, 100)}"
    headers = {} if error.headers is None else dict(error.headers)
    return JsonReply(ApiError(error.status_code, message).body(), error.status_code, headers)
