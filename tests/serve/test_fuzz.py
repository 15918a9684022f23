"""Bodies of every shape end in 200 or in a refusal, never in an error of the server's own."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import httpx2
import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import BASE, Running

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/score")
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20), st.sampled_from(["", "user", "text", BASE, f"{BASE}:warm", "<|im_end|>", "\x00", "("]),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
TOKENS = st.lists(st.integers(-2, 300), max_size=6)
SCHEMA = st.sampled_from(
    [{}, {"type": "string"}, {"enum": ["a", 1]}, {"$ref": "#"}, {"type": "array", "items": {"$ref": "#"}},
     {"$ref": "file:///etc/passwd"}, {"type": "object", "required": ["a"], "properties": {"a": False}},
     {"pattern": "(", "type": "string"}, {"minLength": 10**9, "type": "string"}, {"x-guidance": 1}, True, False]
)  # fmt: skip
FORMAT = st.one_of(
    st.fixed_dictionaries({"type": st.just("regex"), "regex": st.text(max_size=12) | st.just("(a{99}){99}")}),
    st.fixed_dictionaries({"type": st.just("choice"), "choice": st.lists(st.text(max_size=5), max_size=4)}),
    st.fixed_dictionaries(
        {"type": st.just("json_schema"), "json_schema": st.fixed_dictionaries({"name": st.just("a"), "schema": SCHEMA})}
    ),
    st.sampled_from([{"type": "json_object"}, {"type": "text"}, {"type": "json_schema"}, {}]),
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant", "developer", "tool"]),
            "content": st.text(max_size=30) | ANYTHING,
        }
    ),
    max_size=4,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from([BASE, f"{BASE}:warm", f"{BASE}:kind", "other"]),
    "messages": MESSAGES,
    "prompt": st.text(max_size=30) | st.lists(st.text(max_size=9), max_size=3) | TOKENS | st.lists(TOKENS, max_size=3),
    "labels": st.lists(st.text(max_size=6), max_size=4) | st.lists(TOKENS, max_size=3),
    "opening": st.text(max_size=9),
    "end": st.booleans(),
    "max_tokens": st.integers(-1, 6) | st.just(10**6),
    "max_completion_tokens": st.integers(0, 5),
    "temperature": st.floats(-0.5, 3) | st.just(1e308),
    "top_p": st.floats(0, 1.1) | st.just(5e-324),
    "top_k": st.integers(-1, 2**64 - 1),
    "seed": st.integers(-1, 2**33),
    "n": st.integers(-1, 4) | st.just(10**9),
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=5),
    "logprobs": st.booleans() | st.integers(-1, 120),
    "top_logprobs": st.integers(-1, 25),
    "echo": st.booleans(),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans() | ANYTHING}),
    "response_format": FORMAT,
    "user": ANYTHING,
    "tools": ANYTHING,
    "logit_bias": ANYTHING,
}
NEEDED = {PATHS[0]: ("model", "messages"), PATHS[1]: ("model", "prompt"), PATHS[2]: ("model", "messages", "labels")}
BASES = {
    "model": BASE,
    "messages": [{"role": "user", "content": "a"}],
    "prompt": "a",
    "labels": ["a", "b"],
    "max_tokens": 3,
}


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A path and a body: sound but for some fields, each of which is nearly right or anything."""
    path = draw(st.sampled_from(PATHS))
    body = {name: BASES[name] for name in NEEDED[path]} | ({"max_tokens": 3} if path != PATHS[2] else {})
    for name in draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=5)):
        body[name] = draw(ANYTHING if draw(st.integers(0, 5)) == 0 else VALUES[name])
    if draw(st.integers(0, 9)) == 0:
        body[draw(st.text(max_size=10))] = draw(ANYTHING)
    if draw(st.integers(0, 9)) == 0 and body:
        del body[draw(st.sampled_from(sorted(body)))]
    return path, body


def test_no_body_ends_in_an_error_of_ours(running: Running, count: Callable[..., int]) -> None:
    statuses: dict[int, int] = {}

    @settings(
        max_examples=count(300, 20_000, quick=60), deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(requests())
    def ask(given_: tuple[str, dict[str, Any]]) -> None:
        path, body = given_
        reply = client.post(
            path,
            content=orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS),
            headers={"content-type": "application/json"},
        )
        statuses[reply.status_code] = statuses.get(reply.status_code, 0) + 1
        assert reply.status_code in (200, 400, 404), (reply.status_code, reply.text)
        assert "Traceback" not in reply.text
        assert "server_error" not in reply.text
        if reply.status_code != 200:
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}

    with httpx2.Client(base_url=running.url, timeout=120) as client:
        ask()
    assert statuses[200]
    assert statuses[400]
    assert running.post("/v1/completions", {"model": BASE, "prompt": "a"}).status_code == 200
    assert running.service.loop.failure is None


def test_bytes_that_are_no_http_end_the_connection_alone(running: Running) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    for raw in (
        b"\x00" * 50,
        b"GET\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"A" * 70_000,
    ):
        with socket.create_connection((host, int(port))) as client:
            client.settimeout(20)
            client.sendall(raw)
            assert client.recv(100).startswith((b"HTTP/1.1 4", b""))
    assert running.post("/v1/completions", {"model": BASE, "prompt": "a"}).status_code == 200
