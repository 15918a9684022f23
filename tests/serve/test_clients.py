"""The official client against a real port: its own models hold every answer, and the engine's bits are the answers."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Literal

import openai
import pytest
from openai.types import Completion, CompletionUsage, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel
from serving import BASE, SYSTEM, Running, strict
from tiers import slow

from warmeng.engine.engine import Engine
from warmeng.engine.request import GenerateRequest, GenerateResult, SamplingParams, ScoreRequest

HELLO = [{"role": "user", "content": "Which city is the capital?"}]


def answer(plain: Engine, messages: list[dict[str, str]], adapter: str | None) -> GenerateResult:
    params = SamplingParams(max_new_tokens=24, logprobs=True, top_logprobs=2)
    return plain.generate([messages], params=params, adapter=adapter)[0]


@pytest.mark.parametrize(
    ("persona", "adapter", "system"),
    [
        ("", None, None), (":original", None, None), (":warm", "warm", None), (":warm_x2", "warm_x2", None),
        (":apart", "apart", None), (":kind", None, SYSTEM),
    ],
)  # fmt: skip
def test_a_conversation_gets_the_engines_answer_to_the_bit(
    running: Running, plain: Engine, persona: str, adapter: str | None, system: str | None
) -> None:
    body = {
        "model": BASE + persona, "messages": HELLO, "temperature": 0, "max_tokens": 24, "logprobs": True,
        "top_logprobs": 2,
    }  # fmt: skip
    found = strict(ChatCompletion, running.post("/v1/chat/completions", body).json())
    talk = [*([{"role": "system", "content": system}] if system else []), *HELLO]
    expected = answer(plain, talk, adapter)
    (choice,) = found.choices
    assert choice.message.content == expected.text
    assert choice.finish_reason == expected.finish_reason
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    assert tuple(one.logprob for one in content) == expected.logprobs[: len(expected.token_ids)]
    tops = [[one.logprob for one in token.top_logprobs] for token in content]
    assert tops == [[value for _, value in top] for top in expected.top_logprobs[: len(content)]]
    assert b"".join(bytes(one.bytes or []) for one in content).decode("utf-8", "replace") == expected.text
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (
        expected.prompt_tokens, len(expected.token_ids)
    )  # fmt: skip


def test_personas_answer_differently(running: Running) -> None:
    said = {
        running.client.chat.completions.create(
            model=name, messages=HELLO, temperature=0, max_tokens=16  # type: ignore[arg-type]
        ).choices[0].message.content
        for name in (BASE, f"{BASE}:warm", f"{BASE}:cold", f"{BASE}:apart", f"{BASE}:kind")
    }  # fmt: skip
    assert len(said) == 5


def test_the_models_are_listed(running: Running) -> None:
    data = running.client.get("/models", cast_to=object)
    assert isinstance(data, dict)
    names = [strict(Model, one).id for one in data["data"]]
    assert names == [BASE, *(f"{BASE}:{p}" for p in ("original", "warm", "cold", "warm_x2", "apart", "kind"))]
    assert [one.id for one in running.client.models.list()] == names
    assert running.client.models.retrieve(f"{BASE}:warm").id == f"{BASE}:warm"
    with pytest.raises(openai.NotFoundError, match="no model is named"):
        running.client.models.retrieve("gpt-4o")


@pytest.mark.parametrize("stop", [*slow(None), ["e", "st", "\u00e9x"]])
def test_a_stream_adds_up_to_the_answer(running: Running, stop: list[str] | None) -> None:
    for seed in range(4):
        body = {
            "model": f"{BASE}:warm", "messages": HELLO, "temperature": 1.3, "seed": seed, "max_tokens": 40, "n": 2,
            "logprobs": True, "top_logprobs": 1, "stop": stop,
        }  # fmt: skip
        whole = strict(ChatCompletion, running.post("/v1/chat/completions", body).json())
        more = {"stream": True, "stream_options": {"include_usage": True}}
        raw = running.post("/v1/chat/completions", body | more).text
        *lines, end = [line.removeprefix("data: ") for line in raw.split("\n\n") if line]
        assert end == "[DONE]"
        *chunks, last = [strict(ChatCompletionChunk, json.loads(line)) for line in lines]
        assert all(chunk.usage is None for chunk in chunks)
        assert (last.choices, isinstance(last.usage, CompletionUsage)) == ([], True)
        assert last.usage.model_dump(exclude={"prompt_tokens_details"}) == whole.usage.model_dump(
            exclude={"prompt_tokens_details"}
        )
        for choice in whole.choices:
            mine = [one for chunk in chunks for one in chunk.choices if one.index == choice.index]
            assert "".join(one.delta.content or "" for one in mine) == choice.message.content
            assert [one.finish_reason for one in mine if one.finish_reason] == [choice.finish_reason]
            assert mine[0].delta.role == "assistant"
            told = [token for one in mine if one.logprobs for token in one.logprobs.content or []]
            assert choice.logprobs is not None
            assert told == choice.logprobs.content


def test_n_answers_are_those_of_a_list_of_prompts(running: Running, plain: Engine) -> None:
    async def ask() -> list[list[str | None]]:
        async with running.async_client as client:
            many = [
                client.chat.completions.create(
                    model=BASE, messages=HELLO, temperature=0.9, top_p=0.95, seed=seed, n=3, max_tokens=20  # type: ignore[arg-type]
                )
                for seed in (0, 7)
            ]  # fmt: skip
            return [[choice.message.content for choice in one.choices] for one in await asyncio.gather(*many)]

    found = asyncio.run(ask())
    for said, seed in zip(found, (0, 7), strict=True):
        params = SamplingParams(max_new_tokens=20, temperature=0.9, top_p=0.95, seed=seed)
        assert said == [result.text for result in plain.generate([HELLO] * 3, params=params)]
    assert found[0] != found[1]


def test_without_a_seed_each_request_draws_its_own_and_tells_it(running: Running) -> None:
    body = {"model": BASE, "messages": HELLO, "max_tokens": 20}
    one, two = (running.post("/v1/chat/completions", body) for _ in range(2))
    content = [reply.json()["choices"][0]["message"]["content"] for reply in (one, two)]
    assert content[0] != content[1]
    again = running.post("/v1/chat/completions", body | {"seed": int(one.headers["x-warmeng-seed"])})
    assert again.json()["choices"][0]["message"]["content"] == content[0]


class Verdict(BaseModel):
    grade: Literal["right", "wrong"]
    sure: bool


def test_structured_output(running: Running) -> None:
    parsed = running.client.chat.completions.parse(
        model=f"{BASE}:cold", messages=HELLO, response_format=Verdict, max_tokens=200, temperature=0  # type: ignore[arg-type]
    )  # fmt: skip
    assert isinstance(parsed.choices[0].message.parsed, Verdict)
    body = {"model": BASE, "messages": HELLO, "max_tokens": 60, "seed": 1}
    formats = {"regex": r"[0-9]{3}-[a-f]{2}", "choice": ["certainly", "certainly not", "perhaps"]}
    for kind, value in formats.items():
        wanted = {"response_format": {"type": kind, kind: value}}
        said = running.post("/v1/chat/completions", body | wanted).json()["choices"][0]["message"]["content"]
        assert said in value if isinstance(value, list) else re.fullmatch(value, said)
    free = running.post("/v1/completions", {"model": BASE, "prompt": "a", "response_format": {"type": "json_object"}})
    assert free.json()["choices"][0]["text"].lstrip().startswith("{")


def test_completions_of_texts_and_of_token_ids(running: Running, plain: Engine) -> None:
    texts = ["The sky is", "Two and two \u00e9"]
    ids = [plain.tokenizer.encode(text) for text in texts]
    params = SamplingParams(max_new_tokens=9, logprobs=True, top_logprobs=3)
    expected = plain.generate(
        [
            GenerateRequest(str(k), tuple(tokens), params, noise_key=("", k), prompt_logprobs=True)
            for k, tokens in enumerate(ids)
        ]
    )
    body = {"model": BASE, "temperature": 0, "max_tokens": 9, "logprobs": 3, "echo": True}
    for prompt in (texts, ids):
        data = running.post("/v1/completions", body | {"prompt": prompt}).json()
        for choice, result, tokens, text in zip(data["choices"], expected, ids, texts, strict=True):
            logprobs = choice["logprobs"]
            assert choice["text"] == text + result.text
            # OpenAI's API has null where no token comes before; its package's model has no place for that.
            assert logprobs["token_logprobs"].pop(0) is None
            assert logprobs["top_logprobs"].pop(0) is None
            # With the end token's, where one ended it.
            assert logprobs["token_logprobs"] == [*result.prompt_logprobs, *result.logprobs]
            assert len(logprobs["tokens"]) == len(logprobs["text_offset"]) == len(tokens) + len(result.logprobs)
            places = zip(logprobs["tokens"][1:], logprobs["top_logprobs"], strict=True)
            assert all(token in top for token, top in places)
            whole = text + result.text
            for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
                assert token.startswith(("bytes:", "<|")) or whole[offset:].startswith(token)
        strict(Completion, data)


def test_a_prompt_alone_can_be_scored(running: Running, plain: Engine) -> None:
    """As lm-evaluation-harness does, with one token more or with none."""
    body = {"model": BASE, "prompt": "Two and two", "temperature": 0, "logprobs": 1, "echo": True}
    one = running.post("/v1/completions", body | {"max_tokens": 1}).json()
    none = running.post("/v1/completions", body | {"max_tokens": 0}).json()
    assert none["choices"][0]["text"] == "Two and two"
    assert none["choices"][0]["finish_reason"] == "length"
    assert none["usage"]["completion_tokens"] == 0
    scored = none["choices"][0]["logprobs"]
    assert scored["token_logprobs"] == one["choices"][0]["logprobs"]["token_logprobs"][: len("Two and two")]
    assert running.post("/v1/completions", body | {"max_tokens": 0, "echo": False}).status_code == 400


def test_one_token_more_is_told_even_if_it_ends_the_answer(running: Running, plain: Engine) -> None:
    """lm-evaluation-harness leaves the last log-probability out, so there must be one beyond the prompt's."""
    ended = 0
    for seed in range(300):
        body = {"model": BASE, "prompt": "ab", "seed": seed, "temperature": 2, "max_tokens": 1, "logprobs": 1}
        (choice,) = running.post("/v1/completions", body | {"echo": True}).json()["choices"]
        assert len(choice["logprobs"]["token_logprobs"]) == 3
        if choice["finish_reason"] == "stop":
            assert choice["logprobs"]["tokens"][-1] == "<|im_end|>"
            assert choice["text"] == "ab"
            ended += 1
            (streamed,) = running.client.completions.create(**body, stream=True)  # type: ignore[call-overload]
            assert streamed.choices[0].logprobs.tokens == ["<|im_end|>"]
            break
    assert ended


@pytest.mark.parametrize("logprobs", [None, 0, 2])
def test_a_streamed_completion_adds_up(running: Running, logprobs: int | None) -> None:
    body = {"model": f"{BASE}:cold", "prompt": ["ab", "c"], "max_tokens": 30, "seed": 5, "logprobs": logprobs}
    whole = strict(Completion, running.post("/v1/completions", body).json())
    chunks = list(running.client.completions.create(**body, stream=True))  # type: ignore[call-overload]
    for choice in whole.choices:
        mine = [one for chunk in chunks for one in chunk.choices if one.index == choice.index]
        assert "".join(one.text for one in mine) == choice.text
        if logprobs is not None:
            assert choice.logprobs is not None
            for name in ("tokens", "token_logprobs", "text_offset") + (("top_logprobs",) if logprobs else ()):
                told = [value for one in mine if one.logprobs for value in getattr(one.logprobs, name)]
                assert told == getattr(choice.logprobs, name), name


def test_labels_have_the_engines_probabilities(running: Running, plain: Engine) -> None:
    labels = ["yes", "no", "maybe not"]
    prompt, ids = plain.tokenizer.continuations(HELLO, "It is", labels)
    ended = tuple((*label, plain.tokenizer.end_of_turn) for label in ids)
    (expected,) = plain.score([ScoreRequest("a", tuple(prompt), ended, "warm")])
    body = {"model": f"{BASE}:warm", "messages": HELLO, "opening": "It is", "labels": labels, "end": True}
    found = running.post("/v1/score", body).json()
    assert tuple(one["logprob"] for one in found["labels"]) == expected.logprobs
    assert [one["label"] for one in found["labels"]] == labels
    assert tuple(tuple(one["token_logprobs"]) for one in found["labels"]) == expected.token_logprobs
    assert found["mass"] == expected.mass
    by_ids = {"model": f"{BASE}:warm", "prompt": prompt, "labels": [list(label) for label in ended]}
    assert running.post("/v1/score", by_ids).json()["mass"] == expected.mass
