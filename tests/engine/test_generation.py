"""What a caller sees: stopping, constraints, streaming, refusals, requests added on the way."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiers import slow

from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.request import (
    Constraint,
    GenerateRequest,
    GenerateResult,
    RequestError,
    SamplingParams,
    ScoreRequest,
    ScoreResult,
)

SMALL = EngineSettings(kv_bytes=4 * 2**20, max_num_seqs=8, max_batched_tokens=64)


@pytest.fixture(scope="module")
def engine(tiny_model: Callable[[str], Path]) -> Engine:
    return Engine.load(str(tiny_model("llama")), settings=SMALL)


def ask(engine: Engine, text: str, **params: object) -> GenerateRequest:
    prompt = tuple(engine.tokenizer.chat([{"role": "user", "content": text}]))
    return GenerateRequest(text, prompt, SamplingParams(**{"max_new_tokens": 40, **params}))  # type: ignore[arg-type]


@pytest.mark.slow
def test_end_token_stops_and_is_left_out(built_in: Engine) -> None:
    result = built_in.generate([ask(built_in, "What is the capital of France? Answer briefly.", logprobs=True)])[0]
    assert result.finish_reason == "stop"
    assert "Paris" in result.text
    assert not set(result.token_ids) & set(built_in.config.stop_token_ids)
    assert len(result.logprobs) == len(result.token_ids) + 1  # the end token's own comes last
    on = built_in.generate([ask(built_in, "What is the capital of France? Answer briefly.", ignore_eos=True)])[0]
    assert on.finish_reason == "length"
    assert len(on.token_ids) == 40
    assert on.token_ids[: len(result.token_ids)] == result.token_ids


@pytest.mark.slow
def test_stop_string_cuts_the_text_before_it(built_in: Engine) -> None:
    free = built_in.generate([ask(built_in, "Count from one to ten in words.")])[0]
    word = free.text.split()[3]
    cut = built_in.generate([ask(built_in, "Count from one to ten in words.", stop=(word,))])[0]
    assert cut.finish_reason == "stop"
    assert cut.text == free.text[: free.text.index(word)]
    assert len(cut.token_ids) < len(free.token_ids)


def test_stop_token(engine: Engine) -> None:
    prompt = tuple(engine.tokenizer.encode("abc"))
    free = engine.generate([GenerateRequest("a", prompt, SamplingParams(max_new_tokens=10, ignore_eos=True))])[0]
    stop = free.token_ids[4]
    at = free.token_ids.index(stop)
    params = SamplingParams(max_new_tokens=10, ignore_eos=True, stop_token_ids=(stop,))
    assert engine.generate([GenerateRequest("a", prompt, params)])[0].token_ids == free.token_ids[:at]


@pytest.mark.parametrize("temperature", slow(0.0, 1.0))
def test_constraints_hold(built_in: Engine, temperature: float) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    constraints = {
        "regex": Constraint("regex", r"[0-9]{3}-[a-z]{2}"),
        "choice": Constraint("choice", ("certainly", "certainly not", "perhaps")),
        "json": Constraint("json_schema", json.dumps(schema)),
    }
    requests = [
        replace(ask(built_in, "Say something.", temperature=temperature), id=name, constraint=constraint)
        for name, constraint in constraints.items()
    ]
    free = replace(ask(built_in, "Say something.", temperature=temperature), id="free")
    alone = built_in.generate([free])[0].token_ids
    found = {r.id: r for r in built_in.generate([*requests, free])}
    assert re.fullmatch(r"[0-9]{3}-[a-z]{2}", found["regex"].text)
    assert found["choice"].text in ("certainly", "certainly not", "perhaps")
    if found["json"].finish_reason == "stop":
        assert isinstance(json.loads(found["json"].text)["n"], int)
    assert found["free"].token_ids == alone


@pytest.mark.slow
def test_bad_constraints_are_refused(built_in: Engine) -> None:
    for constraint in (Constraint("regex", "("), Constraint("json_schema", "{"), Constraint("choice", ())):
        with pytest.raises(RequestError):
            built_in.generate([replace(ask(built_in, "x"), constraint=constraint)])
    assert built_in.generate([ask(built_in, "Say hello.")])[0].status == "ok"


def test_results_stream_and_requests_may_be_added_on_the_way(engine: Engine) -> None:
    def request(name: str, length: int) -> GenerateRequest:
        params = SamplingParams(max_new_tokens=length, ignore_eos=True)
        return GenerateRequest(name, tuple(engine.tokenizer.encode("prompt " + name)), params)

    for name, length in (("short", 3), ("long", 40)):
        engine.add(request(name, length))
    order: list[str] = []
    for result in engine.results():
        order.append(result.id)
        if result.id == "short":
            assert isinstance(result, GenerateResult)
            labels = tuple((i,) for i in result.token_ids)
            graded = tuple(engine.tokenizer.encode("grade it"))
            engine.add(ScoreRequest("grade", graded, tuple(dict.fromkeys(labels))), urgent=True)
        else:
            assert isinstance(result, ScoreResult | GenerateResult)
    assert order == ["short", "grade", "long"]


def test_what_can_never_fit_is_answered_not_cut(engine: Engine) -> None:
    limit = engine.config.max_seq_len
    fits = GenerateRequest("fits", (5,) * (limit - 2), SamplingParams(max_new_tokens=50, ignore_eos=True))
    results = engine.generate([GenerateRequest("long", (5,) * limit), fits])
    assert results[0].status == "too_long"
    assert str(limit) in results[0].detail
    assert results[1].status == "ok"
    assert len(results[1].token_ids) == 2
    assert engine.score([ScoreRequest("s", (5,) * limit, ((1,), (2,)))])[0].status == "too_long"


def test_a_cache_too_small_is_said(tiny_model: Callable[[str], Path]) -> None:
    engine = Engine.load(str(tiny_model("llama")), settings=replace(SMALL, kv_bytes=40_000))
    result = engine.generate([GenerateRequest("a", (5,) * 300)])[0]
    assert result.status == "too_long"
    assert "kv_bytes" in result.detail


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (GenerateRequest("a", ()), "empty"),
        (GenerateRequest("a", (10**6,)), "expected 0 to"),
        (GenerateRequest("a", (5,), adapter="nobody"), "not loaded"),
        (ScoreRequest("a", (5,), ()), "no labels"),
        (ScoreRequest("a", (5,), ((1,), (1,))), "twice"),
        (ScoreRequest("a", (5,), ((1,), ())), "empty"),
    ],
)
def test_requests_that_make_no_sense(engine: Engine, request_: GenerateRequest | ScoreRequest, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        engine.add(request_)


def test_two_requests_of_one_id(engine: Engine) -> None:
    engine.add(GenerateRequest("twin", (5,), SamplingParams(max_new_tokens=2)))
    with pytest.raises(RequestError, match="in use"):
        engine.add(GenerateRequest("twin", (6,)))
    assert len(list(engine.results())) == 1


def test_sampling_values_are_checked() -> None:
    for bad in ({"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"max_new_tokens": 0}, {"stop": ("",)}):
        with pytest.raises(RequestError):
            SamplingParams(**bad)  # type: ignore[arg-type]
