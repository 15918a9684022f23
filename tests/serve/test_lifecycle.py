"""The command: what it says, whom it lets in, and how it ends."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from launching import Launcher, Process
from serving import Running, engine_with_personas, serving

from warmeng.common.errors import UsageError
from warmeng.common.hosts import is_loopback
from warmeng.serve.catalog import Catalog
from warmeng.serve.server import KEY, key_for
from warmeng.study.personas import Persona

LONG = {
    "model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 400, "temperature": 0,
    "response_format": {"type": "regex", "regex": "[a-z]{390}"},
}  # fmt: skip


@contextmanager
def started(real_launcher: Launcher, *options: Any) -> Iterator[tuple[Process, httpx2.Client]]:
    """Run the command until it listens."""
    process = real_launcher.start(["serve", "--port", "0", *options])
    end = time.monotonic() + 120
    try:
        while not (match := re.search(r"on (http://\S+)/v1", process.err.read_text())):
            assert process.alive(), process.err.read_text()
            assert time.monotonic() < end
            time.sleep(0.01)
        with httpx2.Client(base_url=match[1], timeout=60) as client:
            yield process, client
    finally:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended, and was waited for
            process.kill(signal.SIGKILL)


@pytest.mark.slow
def test_a_signal_lets_open_requests_finish(real_launcher: Launcher, tiny_model: Callable[[str], Path]) -> None:
    """Of a plain answer and of a stream; then the process ends by itself, and takes nobody new meanwhile."""
    options = ("--model", tiny_model("llama"), "--name", "m", "--persona", "original", "--persona", "warm-prompt")
    with started(real_launcher, *options) as (process, client):
        listed = client.get("/v1/models").json()
        assert [one["id"] for one in listed["data"]] == ["m", "m:original", "m:warm-prompt"]
        found: dict[str, Any] = {}

        def ask() -> None:
            found["plain"] = client.post("/v1/chat/completions", json=LONG)

        with httpx2.Client(base_url=client.base_url, timeout=60) as second:
            thread = threading.Thread(target=ask)
            thread.start()
            with second.stream("POST", "/v1/chat/completions", json=LONG | {"stream": True}) as reply:
                lines = reply.iter_lines()
                next(lines)
                process.kill(signal.SIGTERM)
                rest = [line for line in lines if line]
            thread.join()
        ended = process.wait()
    assert ended.code == 0, ended.err
    assert found["plain"].json()["choices"][0]["finish_reason"] == "stop"
    text = "".join(json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in rest[:-1])
    assert text == found["plain"].json()["choices"][0]["message"]["content"]
    assert rest[-1] == "data: [DONE]"


@pytest.mark.slow
def test_a_drain_has_an_end(real_launcher: Launcher, tiny_model: Callable[[str], Path]) -> None:
    """A client that keeps asking for more than the time allows is left, and the process ends all the same."""
    options = ("--model", tiny_model("llama"), "--name", "m", "--persona", "original", "--drain-seconds", "1")
    with started(real_launcher, *options) as (process, client):
        many = LONG | {"n": 128, "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=many) as reply:
            lines = reply.iter_lines()
            next(lines)
            process.kill(signal.SIGTERM)
            began = time.monotonic()
            ended = process.wait()
        assert time.monotonic() - began < 20
    assert ended.code == 0, ended.err


def test_the_key_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    assert key_for("127.0.0.1") is None
    for host in ("0.0.0.0", "192.168.1.2", "example.org", "::"):
        with pytest.raises(UsageError, match=KEY):
            key_for(host)
    for bad in ("", "short", "with blanks in it, long", "é" * 20):
        monkeypatch.setenv(KEY, bad)
        with pytest.raises(UsageError, match="no usable key"):
            key_for("127.0.0.1")
    monkeypatch.setenv(KEY, "x" * 16)
    assert key_for("0.0.0.0") == "x" * 16


def test_what_loopback_is() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "")] == [False] * 5


def test_beyond_this_machine_only_with_a_key(launcher: Launcher) -> None:
    ended = launcher.run(["serve", "--host", "0.0.0.0", "--port", "0"])
    assert ended.code == 2
    assert KEY in ended.err
    assert "Traceback" not in ended.err


def test_what_cant_be_served(launcher: Launcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options, said in (
            (["--port", 0, "--persona", "full=full:owner/model"], "start another server"),
            (["--port", 0, "--name", "a b"], "can't be a model's id"),
            (["--port", port], "can't listen"),
        ):
            ended = launcher.run(["serve", *options])
            assert ended.code == 2, ended.err
            assert said in ended.err


def test_a_folders_path_is_nobodys_business(tmp_path: Path) -> None:
    assert list(Catalog("owner/model", [Persona("kind", system="Be kind.")]).models) == [
        "owner/model",
        "owner/model:kind",
    ]
    for bad in ("/tmp/model", "a/b/c", "", "a:b", "../x"):
        with pytest.raises(UsageError):
            Catalog(bad)


def test_an_engine_that_fails_is_told_to_all_and_ends_the_server(
    tiny_model: Callable[[str], Path], tiny_adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_with_personas(tiny_model("llama"), tiny_adapters)
    real = engine.step

    def step() -> int:
        if engine.stats.steps > 3:
            raise RuntimeError("a secret of the device")
        return real()

    monkeypatch.setattr(engine, "step", step)

    body = LONG | {"model": "tiny", "n": 2}
    with serving(engine, healthy=False) as running:
        reply = running.post("/v1/chat/completions", body)
        assert reply.status_code == 503
        assert "secret" not in reply.text
        assert running.http.get("/health").status_code == 503
        assert running.post("/v1/chat/completions", body).status_code == 503
        assert isinstance(running.server.failure, RuntimeError)


def test_metrics_count_what_was_asked(running: Running) -> None:
    def metric(name: str) -> float:
        text = running.http.get("/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    asked = 'warmeng_http_requests_total{path="/v1/completions",status="200"}'
    before = metric(asked), metric("warmeng_output_tokens_total"), metric("warmeng_prompt_tokens_total")
    body = {
        "model": "tiny",
        "prompt": "abc",
        "max_tokens": 5,
        "response_format": {"type": "regex", "regex": "[ab]{5,}"},
    }
    assert running.post("/v1/completions", body).status_code == 200
    after = metric(asked), metric("warmeng_output_tokens_total"), metric("warmeng_prompt_tokens_total")
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 5, 3]
    assert metric("warmeng_cache_blocks_available") == metric("warmeng_cache_blocks ")
    assert metric("warmeng_http_first_byte_seconds_count") > 0
