"""Texts and conversations beside requests: the same answers as the request that a caller could have made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from warmeng import Engine, EngineSettings, GenerateRequest, RequestError, SamplingParams
from warmeng.engine.shapes import shape_config
from warmeng.engine.testing import random_engine

SMALL = EngineSettings(kv_bytes=4 * 2**20, max_num_seqs=8, max_batched_tokens=64)
SHORT = SamplingParams(max_new_tokens=6)
SAMPLED = SamplingParams(max_new_tokens=6, temperature=1.0)
TEXTS = ["Name a colour.", "Name a river.", "Name a bird."]


@pytest.fixture(scope="module")
def engine(tiny_model: Callable[[str], Path], tiny_adapters: list[Path]) -> Engine:
    engine = Engine.load(str(tiny_model("llama")), settings=SMALL)
    engine.add_adapter("warm", tiny_adapters[0])
    return engine


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def request(engine: Engine, text: str, **more: object) -> GenerateRequest:
    return GenerateRequest(text, tuple(engine.tokenizer.chat(user(text))), SHORT, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("adapter", [None, "warm"])
def test_texts_and_conversations_are_answered_as_requests_are_and_in_order(engine: Engine, adapter: str | None) -> None:
    expected = engine.generate([request(engine, text, adapter=adapter) for text in TEXTS])
    texts = engine.generate(TEXTS, params=SHORT, adapter=adapter)
    chats = engine.generate((user(text) for text in TEXTS), params=SHORT, adapter=adapter)
    assert [result.id for result in texts] == ["0", "1", "2"]
    for found in (texts, chats):
        assert [r.token_ids for r in found] == [r.token_ids for r in expected]
    assert len({r.token_ids for r in expected}) == len(TEXTS)


def test_all_messages_of_a_conversation_are_seen(engine: Engine) -> None:
    more = [{"role": "system", "content": "Be kind."}, *user("Hello."), {"role": "assistant", "content": "Hi!"}]
    result = engine.generate([[*more, *user("Name a colour.")]], params=SHORT)[0]
    assert result.prompt_tokens == len(engine.tokenizer.chat([*more, *user("Name a colour.")]))


def test_the_adapter_is_used(engine: Engine) -> None:
    base = engine.generate(TEXTS, params=SHORT)
    warm = engine.generate(TEXTS, params=SHORT, adapter="warm")
    assert [r.token_ids for r in base] != [r.token_ids for r in warm]


def test_requests_and_texts_go_together(engine: Engine) -> None:
    asked = replace(request(engine, TEXTS[1]), sampling=SamplingParams())
    mixed = engine.generate([TEXTS[0], asked, user(TEXTS[2])])
    assert [r.id for r in mixed] == ["0", TEXTS[1], "2"]
    assert [r.token_ids for r in mixed] == [r.token_ids for r in engine.generate(TEXTS)]


def test_each_place_draws_noise_of_its_own_and_the_same_in_every_call(engine: Engine) -> None:
    first, second = engine.generate([TEXTS[0]] * 2, params=SAMPLED)
    assert first.token_ids != second.token_ids
    again = engine.generate([TEXTS[0]] * 2, params=SAMPLED)
    assert [r.token_ids for r in again] == [first.token_ids, second.token_ids]
    other = engine.generate([TEXTS[0]] * 2, params=replace(SAMPLED, seed=1))
    assert [r.token_ids for r in other] != [first.token_ids, second.token_ids]


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ("Name a colour.", "expected a list: put it in brackets"),
        (user("a")[0], "expected a list: put it in brackets"),
        (user("a"), "prompt 0 is .* expected text, a list of messages"),  # a conversation that is in no list
        (["fine", 7], "prompt 1 is 7, expected text"),
        ([(5, 6)], "prompt 0 is .* or a GenerateRequest"),
        (["fine", []], "prompt 1: the conversation has no messages"),
        (["fine", [{"role": "user"}]], "prompt 1: a message has role "),
        ([[{"role": "tool", "content": "x"}]], "prompt 0: a message has "),
    ],
)
def test_prompts_of_another_form_are_refused_by_name(engine: Engine, prompts: object, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        engine.generate(prompts)  # type: ignore[arg-type]
    assert not engine.busy


def test_an_adapter_that_is_not_loaded_is_refused(engine: Engine) -> None:
    with pytest.raises(RequestError, match="adapter 'cold' is not loaded; loaded: warm"):
        engine.generate(TEXTS, adapter="cold")
    assert not engine.busy


@pytest.mark.parametrize("given", [{"params": SHORT}, {"adapter": "warm"}])
def test_params_beside_a_request_are_refused(engine: Engine, given: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="leave them out"):
        engine.generate([TEXTS[0], request(engine, TEXTS[1])], **given)  # type: ignore[arg-type]


def test_an_engine_without_a_tokenizer_refuses_text() -> None:
    config = replace(shape_config("llama-3.1-8b"), num_layers=1, hidden_size=64, intermediate_size=64, vocab_size=100)
    engine = random_engine(config, device="cpu", settings=SMALL)
    with pytest.raises(RequestError, match="no tokenizer: give prompts of token ids, as GenerateRequest"):
        engine.generate(TEXTS)
