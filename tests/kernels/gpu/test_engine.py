"""The whole engine on the CUDA backend's kernels, interpreted: the CPU backend's tokens, whatever the batches."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiers import full, slow

from warmeng.engine.adapters import load_adapter
from warmeng.engine.config import read_config
from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.mixture import Mixture
from warmeng.engine.request import (
    Constraint,
    GenerateRequest,
    GenerateResult,
    Request,
    Result,
    SamplingParams,
    ScoreRequest,
)

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    os.environ["TRITON_INTERPRET"] != "1", reason="kernels are compiled in this process, and these are interpreted"
)

SETTINGS = EngineSettings(kv_bytes=2 * 2**20, max_num_seqs=12, max_batched_tokens=64)
TEXT = "You are asked something by somebody who is sad today. What is the answer to the question? "
CLOSE = 2e-4  # of log-probabilities: single precision over three layers, in two orders of summation


def make_requests(engine: Engine, adapters: list[str | None]) -> list[Request]:
    """Requests of every kind, few because an interpreted step takes a second: greedy, sampled, constrained, scores."""
    rng = random.Random(4)
    found: list[Request] = []
    for i in range(10):
        prompt = tuple(engine.tokenizer.encode(TEXT[: rng.randint(1, 40)] + str(i)))
        params = SamplingParams(
            max_new_tokens=rng.randint(1, 6), temperature=0.7 * (i % 2), top_k=5 * (i == 3),
            top_p=0.9 if i == 5 else 1.0, seed=7, logprobs=True, ignore_eos=i % 4 == 0,
        )  # fmt: skip
        constraint = Constraint("regex", "[a-f]{3,6}") if i % 5 == 2 else None
        found.append(
            GenerateRequest(
                f"g{i}", prompt, params, adapters[i % len(adapters)], (f"item-{i // 2}", i % 2), constraint, i % 3 == 0
            )
        )
    for i in range(3):
        prompt = tuple(engine.tokenizer.encode(TEXT[: 5 + 20 * i]))
        labels = tuple(tuple(engine.tokenizer.encode(text)) for text in ("yes", "no", "n", "perhaps not"))
        found.append(ScoreRequest(f"s{i}", prompt, labels, adapters[i % len(adapters)]))
    return found


def answer(engine: Engine, requests: list[Request]) -> dict[str, Result]:
    """Answer all requests, whatever their kind."""
    for request in requests:
        engine.add(request)
    return {result.id: result for result in engine.results()}


def numbers(result: Result) -> list[float]:
    """Every log-probability of a result."""
    if isinstance(result, GenerateResult):
        return [*result.logprobs, *result.prompt_logprobs]
    return [value for label in result.token_logprobs for value in label]


def assert_same(found: dict[str, Result], expected: dict[str, Result]) -> None:
    """Equal tokens and reasons; log-probabilities within rounding."""
    assert found.keys() == expected.keys()
    for key, result in found.items():
        other = expected[key]
        if isinstance(result, GenerateResult):
            assert isinstance(other, GenerateResult)
            assert (result.token_ids, result.finish_reason) == (other.token_ids, other.finish_reason), key
        assert numbers(result) == pytest.approx(numbers(other), abs=CLOSE), key


def both(folder: Path, adapters: list[Path], settings: EngineSettings) -> tuple[Engine, Engine, list[str | None]]:
    """The same model on both backends, with adapters p0, p1, ..."""
    engines = [Engine.load(str(folder), device=device, settings=settings) for device in ("interpret", "cpu")]
    for engine in engines:
        for i, adapter in enumerate(adapters):
            engine.add_adapter(f"p{i}", adapter)
    return engines[0], engines[1], [None, *(f"p{i}" for i in range(len(adapters)))]


# The others differ from these in shapes alone.
FAMILIES = [*slow("llama-3.1-rope", "qwen2-bias", "qwen3-norm"), *full("llama-tied", "llama-mha", "mistral-head-dim")]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_tokens_of_the_cpu(family: str, tiny_model: Callable[[str], Path]) -> None:
    kernels, plain, names = both(tiny_model(family), [], SETTINGS)
    requests = make_requests(plain, names)[::3]
    assert_same(answer(kernels, requests), answer(plain, requests))


def test_personas_in_one_batch(
    tiny_model: Callable[[str], Path],
    tiny_adapters: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    count: Callable[..., int],
) -> None:
    """Base and five adapters together, two in the quick tier.

    Logits are made for five rows at a time, so that a step has several parts.
    """
    monkeypatch.setattr("warmeng.engine.gpu.runner._LOGIT_ROWS", 5)
    kernels, plain, names = both(tiny_model("llama"), tiny_adapters, SETTINGS)
    requests = make_requests(plain, names)[:: count(1, 1, quick=12)]
    found = answer(kernels, requests)
    assert_same(found, answer(plain, requests))
    assert kernels.stats.steps < 25  # they did share steps
    assert kernels.probe_adapter("p1") == pytest.approx(plain.probe_adapter("p1"), abs=1e-3)
    assert kernels.probe_adapter("p1") > 0


def of_prompts(result: Result) -> list[float]:
    """The log-probabilities that no step's rounding leads to other tokens before: of prompts and of labels."""
    return list(result.prompt_logprobs) if isinstance(result, GenerateResult) else numbers(result)


# Of log-probabilities, where rows are rounded to 8 bits: what falls on the other side of a half is a step away.
STEPS = {"int8": 0.05, "fp8": 0.1, "int4": CLOSE}


@pytest.mark.parametrize("kind", [*slow("int8", "fp8"), "int4"])
@pytest.mark.slow
def test_quantised_weights_give_the_numbers_of_the_cpu(
    kind: str, tiny_model: Callable[[str], Path], tiny_adapters: list[Path]
) -> None:
    """Base and an adapter together, and the base alone."""
    settings = replace(SETTINGS, weights=kind)
    kernels, plain, names = both(tiny_model("llama"), tiny_adapters[:1], settings)
    prompts = [tuple(plain.tokenizer.encode(TEXT[: 10 + 7 * i])) for i in range(2)]
    params = SamplingParams(max_new_tokens=3, logprobs=True, ignore_eos=True)
    requests = [
        GenerateRequest(f"{name}-{i}", prompt, params, name, prompt_logprobs=True)
        for name in names
        for i, prompt in enumerate(prompts)
    ]
    found, expected = answer(kernels, requests), answer(plain, requests)
    for key, result in found.items():
        if kind == "int4":
            assert result.token_ids == expected[key].token_ids, key
        # Of the prompt: after it, a step may lead to another token.
        assert of_prompts(result) == pytest.approx(of_prompts(expected[key]), abs=STEPS[kind]), key
    kernels.reset_prefix_cache()
    alone = answer(kernels, [request for request in requests if request.adapter is None][:1])
    assert of_prompts(alone["None-0"]) == pytest.approx(of_prompts(found["None-0"]), abs=STEPS[kind])
    changed = [numbers(found[f"None-{i}"]) != numbers(found[f"p0-{i}"]) for i in range(2)]
    assert all(changed)


@pytest.mark.slow
def test_keys_and_values_of_fp8_give_the_numbers_of_the_cpu(
    tiny_model: Callable[[str], Path], tiny_adapters: list[Path]
) -> None:
    """With a cached prefix, too, and alone."""
    kernels, plain, names = both(tiny_model("llama"), tiny_adapters[:1], replace(SETTINGS, kv_dtype="fp8"))
    requests = make_requests(plain, names)[::3]
    found, expected = answer(kernels, requests), answer(plain, requests)
    for key, result in found.items():
        assert of_prompts(result) == pytest.approx(of_prompts(expected[key]), abs=0.1), key
    for _ in range(2):
        alone = answer(kernels, requests[:1])
        assert of_prompts(alone[requests[0].id]) == pytest.approx(of_prompts(found[requests[0].id]), abs=0.1)
        kernels.reset_prefix_cache()
    assert kernels.describe()["kv_dtype"] == "fp8"


@pytest.mark.slow
def test_doses_and_sums_in_one_batch(tiny_model: Callable[[str], Path], tiny_adapters: list[Path]) -> None:
    kernels, plain, _ = both(tiny_model("llama"), tiny_adapters[:3], SETTINGS)
    mixtures = {"half": {"p0": 0.5}, "none": {"p0": 0.0}, "against": {"p2": -1.0}, "sum": {"p0": 0.5, "p2": -0.3}}
    for name, terms in mixtures.items():
        for engine in (kernels, plain):
            engine.add_mixture(name, terms)
    requests = make_requests(plain, [None, "p0", "p1", *mixtures])
    assert {r.adapter for r in requests} == {None, "p0", "p1", *mixtures}
    assert_same(answer(kernels, requests), answer(plain, requests))
    assert (kernels.probe_adapter("none"), kernels.probe_adapter("sum") > 0) == (0.0, True)


def test_columns_do_not_depend_on_the_order_in_which_adapters_came(
    tiny_model: Callable[[str], Path], tiny_adapters: list[Path]
) -> None:
    """The order of the columns is that of a mixture's sum, so of its bits; on a device that is all they depend on."""
    from warmeng.engine.gpu.lora import AdapterBank

    config = read_config(tiny_model("llama"))
    adapters = [load_adapter(folder, config) for folder in tiny_adapters[:3]]
    mixture = Mixture.sum_of((Mixture(((a.hash, 1.0),)), c) for a, c in zip(adapters, (0.5, -1.0, 2.0), strict=True))
    banks = []
    for order in (adapters, adapters[::-1]):
        bank = AdapterBank(config, torch.float32, torch.device("cpu"))
        bank.add(order[0])
        bank.add_mixture(Mixture(((order[0].hash, 1.0),)))
        for adapter in order[1:]:
            bank.add(adapter)
        bank.add_mixture(mixture)
        banks.append(bank)
    one, other = banks
    assert one.columns == other.columns
    assert one.spans[one.mixtures[mixture.key]] == (0, one.weights.shape[1])
    assert torch.equal(one.weights[one.mixtures[mixture.key]], other.weights[other.mixtures[mixture.key]])
    for layer, same in zip(one.layers, other.layers, strict=True):
        for name, lora in layer.items():
            assert torch.equal(lora.a, same[name].a)
            assert torch.equal(lora.b, same[name].b)
    for adapter, coefficient in zip(adapters, (0.5, -1.0, 2.0), strict=True):
        first, stop = one.columns[adapter.hash]
        assert (one.weights[one.mixtures[mixture.key], first:stop] == coefficient).all()
        a, b = adapter.layers[1]["down"]
        assert torch.equal(one.layers[1]["down"].a[first : first + adapter.rank], a)
        assert torch.equal(one.layers[1]["down"].b[:, first : first + adapter.rank], b * adapter.scale)


@pytest.mark.slow
def test_preemption_and_small_steps_change_nothing(
    tiny_model: Callable[[str], Path], tiny_adapters: list[Path]
) -> None:
    """Answers of unforeseen length in few blocks: some sequences give theirs back while a step is under way."""
    tight = replace(SETTINGS, kv_bytes=4 * 6144, max_batched_tokens=20)
    kernels, plain, names = both(tiny_model("llama"), tiny_adapters[:2], tight)
    requests: list[Request] = [
        GenerateRequest(
            f"r{i}", tuple(plain.tokenizer.encode(TEXT[: 14 + i])),
            SamplingParams(max_new_tokens=20, temperature=0.7 * (i % 2), logprobs=True, ignore_eos=True),
            names[i], (f"item-{i}", 0),
        )
        for i in range(2)
    ]  # fmt: skip
    found = answer(kernels, requests)
    assert kernels.stats.preemptions > 0
    assert_same(found, answer(plain, requests))


@pytest.mark.slow
def test_fast_mode(tiny_model: Callable[[str], Path], tiny_adapters: list[Path]) -> None:
    kernels, plain, names = both(tiny_model("qwen3-norm"), [], replace(SETTINGS, fast=True))
    requests = make_requests(plain, names)[1::2]
    assert_same(answer(kernels, requests), answer(plain, requests))


@pytest.mark.slow
def test_contexts_of_several_chunks(tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks so short that contexts have several: the same numbers, put together from their parts."""
    from warmeng.engine.gpu import tiles as module

    whole = module.tiling_for
    monkeypatch.setattr(module, "tiling_for", lambda *args: replace(whole(*args), chunk=64))
    kernels, plain, _ = both(tiny_model("llama"), [], SETTINGS)
    assert kernels.describe()["attention"]["chunk"] == 64
    params = SamplingParams(max_new_tokens=4, logprobs=True)
    requests = [
        GenerateRequest(f"r{i}", tuple(plain.tokenizer.encode((TEXT * 3)[: 50 + 60 * i])), params) for i in range(3)
    ]
    assert_same(answer(kernels, list(requests)), answer(plain, list(requests)))
