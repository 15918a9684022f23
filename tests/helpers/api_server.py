"""A server on loopback that speaks OpenAI's API as a script tells it to, faults included, and counts requests."""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from api_jobs import Jobs
from openai_types import check

CANARY = "sk-canary-3f9a1c77d2e84b06"
MODEL, ANSWERING, FINGERPRINT = "tiny", "tiny-2026-01-01", "fp_one"
# Tokens that the server counts: prices are the same for each.
PROMPT_TOKENS, OUTPUT_TOKENS = 30, 3


@dataclass(frozen=True)
class Fault:
    """What the server does instead of answering: a status with headers and a body, or something with the connection.

    ``kind``: ``status``, ``cut`` (in the answer's middle), ``drop`` (before it), ``drip`` (a byte at a time, for ever),
    ``body`` (another body with status 200). ``after``: what was asked of files and jobs is done all the same.
    """

    kind: str = "status"
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    after: bool = False


BUSY = Fault(status=429, headers={"retry-after-ms": "20"}, body={"error": {"message": "slow down", "code": "rate"}})
FAULTS = {
    "429 with retry-after-ms": BUSY,
    "429 with retry-after": Fault(status=429, headers={"retry-after": "0.02"}, body={"error": {"message": "slow"}}),
    "429 with a reset": Fault(
        status=429, headers={"x-ratelimit-reset-requests": "20ms", "x-ratelimit-remaining-requests": "0"}, body={}
    ),
    "429 without a hint": Fault(status=429, body={"error": {"message": "slow down", "code": "rate_limit_exceeded"}}),
    "500": Fault(status=500, body={"error": {"message": f"a proxy shows {CANARY}"}}),
    "503": Fault(status=503, body="<html>overloaded</html>"),
    "cut": Fault("cut"),
    "drop": Fault("drop"),
    "drip": Fault("drip"),
    "no JSON": Fault("body", 200, body='{"id": "x", "choices": [{"ind'),
    "no choices": Fault("body", 200, body={"id": "x", "object": "chat.completion", "model": ANSWERING}),
    "another shape": Fault("body", 200, body=[1, 2, 3]),
    "a list for a text": Fault(
        "body", 200, body={"model": ANSWERING, "choices": [{"message": {"content": [1]}, "finish_reason": "stop"}]}
    ),
}
Top = list[tuple[str, float]] | None
Script = Callable[[int, Mapping[str, Any]], Fault | None]


def written(body: Mapping[str, Any]) -> str:
    """Return the answer to a conversation: its hash, so that each has its own."""
    asked = json.dumps([body["model"], body["messages"], body.get("seed")], sort_keys=True)
    return f"Answer {hashlib.sha256(asked.encode()).hexdigest()[:8]}."


class ApiServer:
    """Answers every conversation by ``answer``; ``script`` gives a fault, or none, for the n-th request (from 0)."""

    def __init__(self, script: Script = lambda n, body: None) -> None:
        self.script = script
        self.answer: Callable[[Mapping[str, Any]], str] = written
        # Of a request for likeliest tokens: which there are; None tells none.
        self.top: Callable[[Mapping[str, Any]], Top] = lambda body: [("B", -0.1), ("A", -2.5)]
        self.model, self.fingerprint = ANSWERING, FINGERPRINT
        self.usage = True
        self.delay = 0.0
        self.asked: list[Mapping[str, Any]] = []
        self.asked_in_batches: list[Mapping[str, Any]] = []
        self.jobs = Jobs(self)
        self.keys: set[str] = set()
        # Conversations whose answers went out whole.
        self.answered: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.guard = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.post(self)

            def do_GET(self) -> None:
                server.job(self, b"")

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True

    @property
    def url(self) -> str:
        """Its address, with the version."""
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def post(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        raw = handler.rfile.read(size := int(handler.headers["content-length"]))
        if len(raw) < size:
            # A client that left while it asked.
            handler.close_connection = True
            return
        if not handler.path.endswith("/chat/completions"):
            self.job(handler, raw)
            return
        body = json.loads(raw)
        with self.guard:
            n = len(self.asked)
            self.asked.append(body)
            self.keys.add(handler.headers.get("authorization", ""))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.delay)
            fault = self.script(n, body)
            if fault is None:
                raw = json.dumps(self.completion(body)).encode()
                with self.guard:
                    self.answered[written(body)] += 1
                self.send(handler, 200, raw)
            else:
                self.fail(handler, json.dumps(self.completion(body)).encode(), fault)
        finally:
            with self.guard:
                self.at_once -= 1

    def job(self, handler: BaseHTTPRequestHandler, raw: bytes) -> None:
        """Answer a request for files, batches or fine-tuning."""
        kind, method = handler.headers.get("content-type", ""), handler.command
        with self.guard:
            fault = self.jobs.script(len(self.jobs.calls), method, handler.path.partition("?")[0])
            self.jobs.calls.append((method, handler.path))
            self.keys.add(handler.headers.get("authorization", ""))
            status, found = (200, b"{}")
            if fault is None or fault.after or fault.kind in ("cut", "drip"):
                status, found = self.jobs.handle(method, handler.path, raw, kind)
        if fault is None:
            self.send(handler, status, found)
        else:
            self.fail(handler, found, fault)

    def check(self) -> None:
        """Raise for a request body that the ``openai`` package's parameters do not have."""
        for body in (*self.asked, *self.asked_in_batches):
            check("/v1/chat/completions", body)
        for path, body in self.jobs.bodies:
            check(path, body)

    def completion(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer's body."""
        text, limit = self.answer(body), body.get("max_tokens", body.get("max_completion_tokens"))
        choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}}
        choice["finish_reason"] = "stop"
        if body.get("logprobs") and (top := self.top(body)) is not None:
            told = [{"token": token, "logprob": at, "bytes": None} for token, at in top]
            choice["logprobs"] = {"content": [{**told[0], "top_logprobs": told}] if told else []}
        found = {"id": "c", "object": "chat.completion", "created": 1, "model": self.model, "choices": [choice]}
        if self.fingerprint is not None:
            found["system_fingerprint"] = self.fingerprint
        if self.usage:
            output = min(OUTPUT_TOKENS, limit)
            found["usage"] = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": output,
                              "total_tokens": PROMPT_TOKENS + output}  # fmt: skip
        return found

    def fail(self, handler: BaseHTTPRequestHandler, whole: bytes, fault: Fault) -> None:
        """Do what a fault is; ``whole`` is the body that there would be without it."""
        if fault.kind in ("status", "body"):
            raw = (fault.body if isinstance(fault.body, str) else json.dumps(fault.body)).encode()
            self.send(handler, fault.status if fault.kind == "status" else 200, raw, fault.headers)
            return
        handler.close_connection = True
        if fault.kind != "drop":
            raw = whole
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n".encode()
            handler.wfile.write(head + (raw[: len(raw) // 2] if fault.kind == "cut" else b""))
            for k in range(len(raw) if fault.kind == "drip" else 0):
                try:
                    handler.wfile.write(raw[k : k + 1])
                    handler.wfile.flush()
                except OSError:
                    break
                time.sleep(0.05)
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)

    def send(
        self, handler: BaseHTTPRequestHandler, status: int, raw: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole response; a client may have left."""
        try:
            handler.send_response(status)
            for name, value in {"content-type": "application/json", **(headers or {})}.items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(raw)))
            handler.end_headers()
            handler.wfile.write(raw)
        except OSError:
            handler.close_connection = True


@contextmanager
def api_server(script: Script = lambda n, body: None, **more: Any) -> Iterator[ApiServer]:
    """Serve until the end of the block."""
    server = ApiServer(script)
    for name, value in more.items():
        assert hasattr(server, name)
        setattr(server, name, value)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
    server.check()


def found_in(secret: str, folder: Path) -> list[str]:
    """Return the files below a folder that hold a text."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


if __name__ == "__main__":
    with api_server() as running:
        print(running.url, flush=True)
        sys.stdin.read()
