"""Many clients at once, some of whom leave: the others' answers keep their bits, and nothing stays behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from serving import BASE, SYSTEM, Running

from warmeng.engine.engine import Engine
from warmeng.engine.request import SamplingParams

ADAPTERS: dict[str, str | None] = {"": None, ":warm": "warm", ":apart": "apart", ":kind": None}


def bodies(count: int, seed: int) -> list[dict[str, Any]]:
    """Requests of every persona, greedy and sampled, streamed or not."""
    draw = random.Random(seed)
    made = []
    for k in range(count):
        persona = draw.choice(list(ADAPTERS))
        text = "Which one is it? " * draw.randint(1, 4) + str(k)
        made.append(
            {
                "model": BASE + persona, "messages": [{"role": "user", "content": text}],
                "max_tokens": draw.randint(4, 40), "temperature": draw.choice([0, 0.8]), "seed": draw.randint(0, 9),
                "n": draw.choice([1, 1, 2]), "logprobs": True, "stream": draw.random() < 0.4,
            }
        )  # fmt: skip
    return made


def expected(plain: Engine, body: dict[str, Any]) -> list[tuple[str, list[float]]]:
    """What the engine alone answers: texts and every bit of the log-probabilities."""
    params = SamplingParams(
        max_new_tokens=body["max_tokens"], temperature=float(body["temperature"]), seed=body["seed"], logprobs=True
    )
    persona = body["model"].removeprefix(BASE)
    talk = body["messages"]
    if persona == ":kind":
        talk = [{"role": "system", "content": SYSTEM}, *talk]
    found = plain.generate([talk] * body["n"], params=params, adapter=ADAPTERS[persona])
    return [(one.text, list(one.logprobs[: len(one.token_ids)])) for one in found]


async def asked(client: httpx2.AsyncClient, body: dict[str, Any]) -> list[tuple[str, list[float]]]:
    """What the server answers."""
    texts, logprobs = [""] * body["n"], [list[float]() for _ in range(body["n"])]
    if not body["stream"]:
        reply = (await client.post("/v1/chat/completions", json=body)).json()
        for one in reply["choices"]:
            texts[one["index"]] = one["message"]["content"]
            logprobs[one["index"]] = [token["logprob"] for token in one["logprobs"]["content"]]
        return list(zip(texts, logprobs, strict=True))
    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                for one in httpx2.Response(200, content=line[6:]).json()["choices"]:
                    texts[one["index"]] += one["delta"].get("content") or ""
                    if one["logprobs"]:
                        logprobs[one["index"]] += [token["logprob"] for token in one["logprobs"]["content"]]
    return list(zip(texts, logprobs, strict=True))


async def crowd(running: Running, some: list[dict[str, Any]], seed: int) -> tuple[dict[int, Any], int]:
    """Ask all at once; a third of the clients leave at a moment of their own. Returns answers, and how many left."""
    draw = random.Random(seed)
    async with httpx2.AsyncClient(
        base_url=running.url, timeout=120, limits=httpx2.Limits(max_connections=64)
    ) as client:
        tasks = [asyncio.create_task(asked(client, body)) for body in some]
        for task in tasks:
            if draw.random() < 0.33:
                asyncio.get_running_loop().call_later(draw.random() * 0.5, task.cancel)
        found = await asyncio.gather(*tasks, return_exceptions=True)
    left = sum(isinstance(one, asyncio.CancelledError) for one in found)
    for one in found:
        assert isinstance(one, list | asyncio.CancelledError), one
    return {k: one for k, one in enumerate(found) if isinstance(one, list)}, left


@pytest.mark.slow
def test_answers_among_others_who_come_and_go_have_the_bits_of_those_alone(
    running: Running, plain: Engine, count: Callable[..., int]
) -> None:
    left = 0
    for seed in range(count(3, 60, quick=1)):
        some = bodies(16, seed)
        answers, gone = asyncio.run(crowd(running, some, seed))
        left += gone
        for k, answer in answers.items():
            assert answer == expected(plain, some[k]), some[k]
        asyncio.run(settled(running))
    assert left


async def settled(running: Running) -> None:
    """Everything comes back within the time of some steps."""
    for _ in range(1000):
        if running.idle():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"held: {running.engine.occupancy}, open: {running.service.loop.open}")


def test_a_client_that_leaves_frees_its_blocks_at_once(running: Running) -> None:
    """With a plain answer and with a stream, long before either would be finished."""
    body = bodies(1, 0)[0] | {"max_tokens": 400, "n": 4, "response_format": {"type": "regex", "regex": "[a-z]{390}"}}
    body["messages"] = [{"role": "user", "content": "a"}]

    async def leave(stream: bool) -> int:
        before = running.engine.stats.output_tokens
        async with httpx2.AsyncClient(base_url=running.url, timeout=60) as client:
            task = asyncio.create_task(asked(client, body | {"stream": stream}))
            while not running.engine.occupancy.running:
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await settled(running)
        return running.engine.stats.output_tokens - before

    for stream in (False, True):
        assert asyncio.run(leave(stream)) == 0  # tokens of finished requests: none was
