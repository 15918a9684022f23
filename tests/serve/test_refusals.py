"""What is not understood, too large, too slow or not allowed: refused by name, in OpenAI's envelope."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import orjson
import pytest
from openai.types import completion_create_params as of_completions
from openai.types.chat import completion_create_params as of_chat
from serving import BASE, Running, engine_with_personas, serving

from warmeng.engine.engine import EngineSettings
from warmeng.serve.limits import Limits
from warmeng.serve.protocol import NEUTRAL, WITHOUT_EFFECT, ChatBody, CompletionBody

CHAT: dict[str, Any] = {"model": BASE, "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
TEXT: dict[str, Any] = {"model": BASE, "prompt": "a", "max_tokens": 2}
SCORE: dict[str, Any] = {"model": BASE, "messages": CHAT["messages"], "labels": ["a", "b"]}
KEY = "a key that is long enough".replace(" ", "-")


def said(reply: httpx2.Response) -> dict[str, Any]:
    """The error of a reply, whose envelope has what OpenAI's has and nothing else."""
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in body["error"]["message"]
    assert "Traceback" not in reply.text
    assert "/tmp" not in reply.text
    return body["error"]


WRONG: list[tuple[str, dict[str, Any], str | None]] = [
    ("/v1/chat/completions", {"tools": [{}]}, "tools"),
    ("/v1/chat/completions", {"frequency_penalty": 0.5}, "frequency_penalty"),
    ("/v1/chat/completions", {"frequency_penalty": False}, "frequency_penalty"),
    ("/v1/chat/completions", {"store": True}, "store"),
    ("/v1/chat/completions", {"chat_template": "{{ 1 }}"}, "chat_template"),
    ("/v1/chat/completions", {"max_tokens": "2"}, "max_tokens"),
    ("/v1/chat/completions", {"max_tokens": 0}, "max_tokens"),
    ("/v1/chat/completions", {"max_tokens": 2, "max_completion_tokens": 2}, "max_tokens"),
    ("/v1/chat/completions", {"max_tokens": 10**6}, "max_tokens"),
    ("/v1/chat/completions", {"temperature": -1}, "temperature"),
    ("/v1/chat/completions", {"temperature": True}, "temperature"),
    ("/v1/chat/completions", {"top_p": 0}, "top_p"),
    ("/v1/chat/completions", {"seed": -1}, "seed"),
    ("/v1/chat/completions", {"seed": 2**32}, "seed"),
    ("/v1/chat/completions", {"n": 0}, "n"),
    ("/v1/chat/completions", {"n": 129}, "n"),
    ("/v1/chat/completions", {"stop": [""]}, "stop"),
    ("/v1/chat/completions", {"stop": ["a"] * 17}, "stop"),
    ("/v1/chat/completions", {"top_logprobs": 2}, "top_logprobs"),
    ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("/v1/chat/completions", {"messages": []}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "a"}]}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 600}]}, "messages"),
    ("/v1/chat/completions", {"response_format": {"type": "xml"}}, "response_format"),
    ("/v1/chat/completions", {"response_format": {"type": "regex"}}, "response_format"),
    ("/v1/chat/completions", {"response_format": {"type": "text", "regex": "a"}}, "response_format"),
    ("/v1/chat/completions", {"response_format": {"type": "regex", "regex": "("}}, "response_format"),
    ("/v1/chat/completions", {"response_format": {"type": "regex", "regex": "a" * 70_000}}, "response_format"),
    ("/v1/chat/completions", {"response_format": {"type": "choice", "choice": ["ab" * 400] * 100}}, "response_format"),
    ("/v1/chat/completions", {"stop": "a" * 257}, "stop"),
    ("/v1/completions", {"prompt": ["a"] * 100, "n": 128}, "prompt"),
    ("/v1/score", {"labels": [str(k) for k in range(257)]}, "labels"),
    ("/v1/completions", {"prompt": "a" * 100_000}, "prompt"),
    ("/v1/score", {"opening": "a" * 100_000}, "labels"),
    ("/v1/chat/completions", {"stream": 1}, "stream"),
    ("/v1/completions", {"prompt": ""}, "prompt"),
    ("/v1/completions", {"prompt": []}, "prompt"),
    ("/v1/completions", {"prompt": [[]]}, "prompt"),
    ("/v1/completions", {"prompt": [1, "a"]}, "prompt"),
    ("/v1/completions", {"prompt": [10**6]}, "prompt"),
    ("/v1/completions", {"prompt": [-1]}, "prompt"),
    ("/v1/completions", {"best_of": 2}, "best_of"),
    ("/v1/completions", {"suffix": "x"}, "suffix"),
    ("/v1/completions", {"logprobs": 21}, "logprobs"),
    ("/v1/completions", {"logprobs": True}, "logprobs"),
    ("/v1/completions", {"model": f"{BASE}:kind"}, "model"),
    ("/v1/completions", {"echo": True, "stream": True}, "echo"),
    ("/v1/score", {"labels": []}, "labels"),
    ("/v1/score", {"labels": ["a", "a"]}, "labels"),
    ("/v1/score", {"labels": [[1], [2]]}, "labels"),
    ("/v1/score", {"prompt": [5]}, "messages"),
    ("/v1/score", {"temperature": 0}, "temperature"),
]


@pytest.mark.parametrize(("path", "change", "param"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_named(running: Running, path: str, change: dict[str, Any], param: str | None) -> None:
    body = {"/v1/chat/completions": CHAT, "/v1/completions": TEXT, "/v1/score": SCORE}[path]
    reply = running.post(path, body | change)
    assert reply.status_code == 400
    assert said(reply)["param"] == param


def test_what_asks_for_nothing_is_taken(running: Running) -> None:
    nothing = {"tools": None, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "user": "somebody",
               "metadata": {"a": "b"}, "store": False, "stop": None, "seed": None, "n": 1}  # fmt: skip
    assert running.post("/v1/chat/completions", CHAT | nothing).status_code == 200


def test_every_parameter_of_the_api_is_known(running: Running) -> None:
    """What the ``openai`` package can send is taken, or refused as not supported: never as unknown."""
    mine = {*NEUTRAL, *WITHOUT_EFFECT}
    for kind, base in ((ChatBody, of_chat), (CompletionBody, of_completions)):
        theirs = set(base.CompletionCreateParamsBase.__annotations__)
        assert theirs - mine - set(kind.model_fields) == set()
    for name in NEUTRAL:
        reply = running.post("/v1/chat/completions", CHAT | {name: "odd"})
        assert (reply.status_code, said(reply)["code"]) == (400, "unsupported_parameter"), name


def test_the_client_raises_its_own_errors(running: Running) -> None:
    client = running.client
    with pytest.raises(openai.BadRequestError, match="seed is -1"):
        client.chat.completions.create(**CHAT, seed=-1)
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(**CHAT | {"model": "gpt-4o"})
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_stream_that_fails_says_so(running: Running) -> None:
    wrong = {"stream": True, "response_format": {"type": "regex", "regex": "("}}
    with pytest.raises(openai.APIError, match="constraint regex can't be used"):
        list(running.client.chat.completions.create(**CHAT, **wrong))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"a"', b"\xff", b'{"a":NaN}', b"[" * 100_000])
def test_bodies_that_are_none(running: Running, raw: bytes) -> None:
    headers = {"content-type": "application/json"}
    reply = running.http.post("/v1/chat/completions", content=raw, headers=headers)
    assert reply.status_code == 400
    said(reply)


def test_other_paths_methods_and_kinds(running: Running) -> None:
    zipped = {"content-type": "application/json", "content-encoding": "gzip"}
    replies = {
        404: running.http.get("/v1/files"),
        405: running.http.get("/v1/chat/completions"),
        415: running.http.post("/v1/completions", data={"a": "b"}),
        403: running.http.get("/v1/models", headers={"host": "example.org"}),
    }
    assert [reply.status_code for reply in replies.values()] == list(replies)
    for reply in replies.values():
        said(reply)
    assert running.http.post("/v1/completions", content=b"x", headers=zipped).status_code == 415


@pytest.fixture
def closing() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_an_error_of_the_servers_own_is_told_to_its_terminal_alone(
    running: Running, monkeypatch: pytest.MonkeyPatch, closing: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # A connection is closed after such an error, which a client that uses it again may see as one.
    closing.setitem(running.http.headers, "connection", "close")

    def fail(body: object) -> None:
        raise RuntimeError("what nobody should read")

    monkeypatch.setattr(running.service._composer, "chat", fail)
    reply = running.post("/v1/chat/completions", CHAT)
    assert reply.status_code == 500
    assert said(reply)["type"] == "server_error"
    assert "nobody" not in reply.text
    assert "warmeng: /v1/chat/completions: RuntimeError: what nobody should read" in capfd.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(running.engine, "_compiler", lambda: 1 / 0)
    wrong = running.post("/v1/chat/completions", CHAT | {"response_format": {"type": "json_object"}})
    assert wrong.status_code == 500
    monkeypatch.undo()
    assert running.post("/v1/chat/completions", CHAT).status_code == 200


@pytest.fixture(scope="module")
def strict_server(tiny_model: Callable[[str], Path], tiny_adapters: list[Path]):
    """A server with a key and limits so small that a test reaches them."""
    settings = EngineSettings(kv_bytes=2**21, max_num_seqs=2, max_batched_tokens=64)
    engine = engine_with_personas(tiny_model("llama"), tiny_adapters, settings)
    limits = Limits(max_open=4, max_body=2000, head_seconds=1, body_seconds=0.4, write_seconds=0.5)
    with serving(engine, limits, KEY) as found:
        # An idle connection is closed after a second, which a client that uses it again may see as an error.
        found.http.headers["connection"] = "close"
        yield found


AUTHORIZED = {"authorization": f"Bearer {KEY}"}


def test_the_key(strict_server: Running) -> None:
    http = strict_server.http
    assert http.get("/health").status_code == 200
    for headers in ({}, {"authorization": "Bearer"}, {"authorization": f"Bearer {KEY}x"}, {"authorization": KEY},
                    {"authorization": "Bearer é".encode("latin-1")}):  # fmt: skip
        for path in ("/v1/models", "/metrics"):
            reply = http.get(path, headers=headers)
            assert reply.status_code == 401
            assert KEY not in reply.text
            said(reply)
    assert http.get("/v1/models", headers=AUTHORIZED).status_code == 200
    assert len(list(openai.OpenAI(base_url=f"{strict_server.url}/v1", api_key=KEY).models.list())) == 7


def test_a_full_queue_is_told_when_to_come_again(strict_server: Running) -> None:
    long = {"type": "regex", "regex": "[a-z]{380}"}
    body = CHAT | {"n": 4, "max_tokens": 400, "stream": True, "response_format": long}
    with strict_server.http.stream("POST", "/v1/chat/completions", json=body, headers=AUTHORIZED) as reply:
        lines = reply.iter_lines()  # the connection closes when nobody holds this any more
        assert next(lines)
        refused = strict_server.post("/v1/chat/completions", CHAT, headers=AUTHORIZED)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert said(refused)["code"] == "queue_full"
    until(strict_server.idle)
    assert strict_server.post("/v1/chat/completions", CHAT, headers=AUTHORIZED).status_code == 200
    assert strict_server.post("/v1/chat/completions", CHAT | {"n": 5}, headers=AUTHORIZED).status_code == 400


def test_bodies_that_are_too_large(strict_server: Running) -> None:
    headers = AUTHORIZED | {"content-type": "application/json"}
    assert strict_server.post("/v1/completions", TEXT | {"prompt": "a" * 2000}, headers=AUTHORIZED).status_code == 413
    in_parts = (b" " * 500 for _ in range(10))
    assert strict_server.http.post("/v1/completions", content=in_parts, headers=headers).status_code == 413


@pytest.mark.slow
def test_clients_that_are_slow(strict_server: Running) -> None:
    """Headers that never end, a body that doesn't come, and a stream that nobody reads."""
    address = strict_server.url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    body = f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    cases = ((b"", b""), (b"GET / HT", b""), (head.encode(), b""), (body.encode(), b"HTTP/1.1 408"))
    for sent, expected in cases:
        with socket.create_connection((address[0], int(address[1]))) as client:
            client.settimeout(20)
            client.sendall(sent)
            assert client.recv(12) == expected
    assert strict_server.post("/v1/completions", TEXT, headers=AUTHORIZED).status_code == 200


def test_a_stream_that_nobody_reads_ends(strict_server: Running) -> None:
    """Its answers would be megabytes, far more than lies between the two ends."""
    long = {"type": "regex", "regex": "[a-z]{390}"}
    body = CHAT | {"n": 4, "max_tokens": 400, "stream": True, "response_format": long, "logprobs": True}
    raw = orjson.dumps(body | {"top_logprobs": 20})
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    host, port = strict_server.url.removeprefix("http://").split(":")
    before = strict_server.engine.stats.output_tokens
    with socket.socket() as client:
        # What the system itself would hold: new connections have the buffers of the socket that listens.
        strict_server.server._bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        client.sendall(head.encode() + raw)
        until(lambda: strict_server.engine.occupancy.running > 0)
        until(strict_server.idle)
    # Of finished answers.
    assert strict_server.engine.stats.output_tokens - before < 4 * 390


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)
