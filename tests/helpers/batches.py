"""Requests of many kinds for one batch, and what of their results must not change."""

from __future__ import annotations

import random

from warmeng.engine.engine import Engine
from warmeng.engine.request import GenerateRequest, GenerateResult, SamplingParams

PROMPT = "You are asked something by somebody who is sad today. What is the answer to the question? " * 2


def make_requests(engine: Engine, count: int, adapters: list[str | None]) -> list[GenerateRequest]:
    rng = random.Random(4)
    requests = []
    for i in range(count):
        text = PROMPT[: rng.randint(1, len(PROMPT))] + str(i)
        params = SamplingParams(max_new_tokens=20, temperature=rng.choice([0.0, 0.8]), seed=7, logprobs=True)
        requests.append(
            GenerateRequest(
                str(i), tuple(engine.tokenizer.encode(text)), params, adapters[i % len(adapters)], (f"item-{i}", 0),
                prompt_logprobs=i % 3 == 0,
            )
        )  # fmt: skip
    return requests


def essence(result: GenerateResult) -> tuple[object, ...]:
    """What must not change: tokens and every bit of the log-probabilities."""
    return result.token_ids, result.logprobs, result.prompt_logprobs, result.finish_reason


def run(engine: Engine, requests: list[GenerateRequest]) -> dict[str, tuple[object, ...]]:
    engine.reset_prefix_cache()
    return {r.id: essence(r) for r in engine.generate(requests)}
