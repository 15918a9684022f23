"""Counters for Prometheus. The engine's own are read when they are asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warmeng.engine.engine import Engine
from warmeng.serve.loop import EngineLoop

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)


class EngineMetrics(Collector):
    """What the engine counts, and what it holds at the moment."""

    def __init__(self, engine: Engine, loop: EngineLoop) -> None:
        self._engine, self._loop = engine, loop

    def collect(self) -> Iterator[Metric]:
        """Give each of them with its value."""
        stats, held = self._engine.stats, self._engine.occupancy
        counters = {
            "prompt_tokens": ("Prompt tokens of finished requests.", stats.prompt_tokens),
            "cached_tokens": ("Prompt tokens that the prefix cache had.", stats.cached_tokens),
            "output_tokens": ("Generated tokens of finished requests.", stats.output_tokens),
            "computed_tokens": ("Tokens that steps computed.", stats.computed_tokens),
            "steps": ("Forward passes.", stats.steps),
            "preemptions": ("Sequences that gave their blocks back and were computed again.", stats.preemptions),
            "oom_steps": ("Steps that ran out of memory.", stats.oom_steps),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"warmeng_{name}", text, value)
        gauges = {
            "requests_open": ("Answers that wait or run.", self._loop.open),
            "sequences_running": ("Sequences in the batch.", held.running),
            "sequences_waiting": ("Sequences that wait for a place in the batch.", held.waiting),
            "cache_blocks": ("Blocks of the key-value cache.", held.blocks),
            "cache_blocks_available": ("Blocks that no sequence uses.", held.available_blocks),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"warmeng_{name}", text, value)


class Metrics:
    """Everything that ``/metrics`` shows, and the ASGI middleware that counts requests."""

    def __init__(self, engine: Engine, loop: EngineLoop, paths: tuple[str, ...]) -> None:
        """``paths``: those that are told apart."""
        self._paths = frozenset(paths)
        self._registry = CollectorRegistry()
        self._registry.register(EngineMetrics(engine, loop))
        self._requests = Counter(
            "warmeng_http_requests", "Requests by path and status; 499 where the client left before its answer began.",
            ["path", "status"], registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "warmeng_http_request_seconds", "Time from a request's headers to the end of its answer.",
            ["path"], buckets=BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._first = Histogram(
            "warmeng_http_first_byte_seconds", "Time from a request's headers to the beginning of its answer.",
            ["path"], buckets=BUCKETS, registry=self._registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return an ASGI application that counts what it passes on."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            path = scope["path"] if scope["path"] in self._paths else "other"
            began = time.monotonic()
            status = "499"

            async def noted(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = str(message["status"])
                    self._first.labels(path).observe(time.monotonic() - began)
                await send(message)

            try:
                await app(scope, receive, noted)
            finally:
                self._requests.labels(path, status).inc()
                self._seconds.labels(path).observe(time.monotonic() - began)

        return counted
