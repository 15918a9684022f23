"""The process: from settings to a socket that is listened on, until a signal ends it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import traceback
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from warmeng.common.errors import UsageError, WarmengError, one_line, without_secrets
from warmeng.common.hosts import is_loopback
from warmeng.common.interrupts import interruptible
from warmeng.serve.app import Service, application
from warmeng.serve.limits import Limits

KEY = "WARMENG_API_KEY"
LEAST_KEY = 16
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
# Seconds between looks at signals.
_TICK = 0.1


class EngineFailed(WarmengError):
    """The engine can't go on, so the server ends."""

    exit_code = 70


def key_for(host: str) -> str | None:
    """Return the API key of the environment. Raises UsageError where there is none and others may reach the host."""
    key = os.environ.get(KEY)
    if key is None:
        if not is_loopback(host):
            raise UsageError(
                f"{host} can be reached from other machines: set {KEY} in the environment, or use 127.0.0.1"
            )
        return None
    if len(key) < LEAST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{KEY} is no usable key, expected at least {LEAST_KEY} printable ASCII characters, no blanks")
    return key


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound. Raises UsageError where the address can't be used."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, proto)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, UnicodeError, OverflowError) as error:
        raise UsageError(f"can't listen on {one_line(host)} port {port} ({one_line(error)}): choose another") from None
    return found


class Server:
    """Serves one service on a socket, on a thread of its own."""

    def __init__(self, service: Service, bound: socket.socket, key: str | None, loopback: bool) -> None:
        """``key``: what clients must send, if anything; ``loopback``: only names of this machine may be asked for."""
        self._service = service
        limits = service.limits
        app = application(service, key, LOOPBACK_NAMES if loopback else None)
        config = uvicorn.Config(
            app, http=_protocol(limits), ws="none", lifespan="on", log_config=None, log_level="critical",
            access_log=False, server_header=False, proxy_headers=False, limit_concurrency=limits.max_connections,
            h11_max_incomplete_event_size=limits.max_head, timeout_keep_alive=int(limits.head_seconds),
            timeout_graceful_shutdown=max(1, int(limits.drain_seconds)),
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._bound = bound
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)

    @property
    def address(self) -> str:
        """The URL."""
        host, port = self._bound.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def failure(self) -> BaseException | None:
        """What ended the server or its engine, where that was no signal."""
        return self._failure or self._service.loop.failure

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin, and return when requests are taken."""
        self._thread.start()
        while self.running and not self._server.started:
            self._thread.join(0.01)

    def drain(self) -> None:
        """Take no new connections; open requests have ``drain_seconds`` to finish."""
        self._server.should_exit = True

    def wait(self, seconds: float) -> None:
        """Wait for the end, at most so long."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._bound]))
        except BaseException as error:
            self._failure = error


def serve_until_interrupted(server: Server) -> None:
    """Run a server until SIGINT or SIGTERM, then let open requests finish; a second signal ends it at once.

    Raises EngineFailed where the engine ended it.
    """
    with interruptible() as interrupted:
        server.start()
        while server.running:
            server.wait(_TICK)
            if interrupted or server.failure is not None:
                server.drain()
    if (error := server.failure) is not None:
        if os.environ.get("WARMENG_DEBUG") == "1":
            sys.stderr.write(without_secrets("".join(traceback.format_exception(error))))
        raise EngineFailed(f"the engine stopped: {type(error).__name__}: {one_line(error)}")


def _protocol(limits: Limits) -> type[H11Protocol]:
    """Return uvicorn's protocol with two deadlines, for the next request's headers and for what was sent to be taken.

    Whoever misses one is cut off. A connection that is only closed would stay until its client takes what is left.
    """

    class Protocol(H11Protocol):
        _waiting: asyncio.TimerHandle | None = None
        _writing: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def handle_events(self) -> None:
            super().handle_events()
            if self._waiting is not None and self.cycle is not None and not self.cycle.response_complete:
                self._waiting.cancel()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            # The next request on this connection may be there already.
            if self.cycle.response_complete:
                self._wait()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._writing = self.loop.call_later(limits.write_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._writing is not None:
                self._writing.cancel()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            for timer in (self._waiting, self._writing):
                if timer is not None:
                    timer.cancel()

        def _wait(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
            self._waiting = self.loop.call_later(limits.head_seconds, self.transport.abort)

    return Protocol
