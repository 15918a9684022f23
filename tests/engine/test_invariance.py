"""The same request gives the same tokens and the same bits, whatever runs beside it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from batches import essence, make_requests, run
from tiers import slow

from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.request import GenerateRequest, SamplingParams, ScoreRequest
from warmeng.engine.settings import AUTO, WEIGHTS
from warmeng.kernels.arrangement import multiplies_bf16

ROOMY = EngineSettings(kv_bytes=8 * 2**20, max_num_seqs=96)
TINY = ("tiny", "tiny in bfloat16")
MORE = slow("tiny in int8", "tiny in fp8", "tiny in int4", "built-in")


@pytest.fixture(scope="module", params=[*TINY, *MORE])
def setting(request, tiny_model: Callable[[str], Path], tiny_adapters: list[Path]):
    """An engine with five personas, and 64 requests over them (the built-in model has no adapters to offer here)."""
    if request.param == "built-in":
        engine = request.getfixturevalue("built_in")
        return engine, make_requests(engine, 64, [None])
    half = request.param == "tiny in bfloat16"
    if half and not multiplies_bf16():
        pytest.skip("this processor does not multiply bfloat16")
    kind = request.param.rpartition(" ")[2]
    settings = replace(ROOMY, dtype="bfloat16" if half else "float32", weights=kind if kind in WEIGHTS else AUTO)
    engine = Engine.load(str(tiny_model("llama")), device="cpu", settings=settings)
    for i, adapter in enumerate(tiny_adapters):
        engine.add_adapter(f"p{i}", adapter)
    return engine, make_requests(engine, 64, [None, "p0", "p1", "p2", "p3", "p4"])


@pytest.fixture(scope="module")
def together(setting) -> dict[str, tuple[object, ...]]:
    engine, requests = setting
    return run(engine, requests)


def test_alone(setting, together) -> None:
    engine, requests = setting
    # The built-in model, which has no adapters here, takes seconds for each.
    for request in requests[:: 9 if any(r.adapter for r in requests) else 21]:
        assert run(engine, [request])[request.id] == together[request.id]


def test_among_seven(setting, together) -> None:
    engine, requests = setting
    some = run(engine, requests[20:28])
    assert some == {key: together[key] for key in some}


def test_on_one_thread(setting, together) -> None:
    engine, requests = setting
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        some = run(engine, requests[10:22])
    finally:
        torch.set_num_threads(threads)
    assert some == {key: together[key] for key in some}


def test_shuffled(setting, together) -> None:
    engine, requests = setting
    shuffled = requests[:]
    random.Random(1).shuffle(shuffled)
    assert run(engine, shuffled) == together


def test_with_a_cached_prefix(setting, together) -> None:
    engine, requests = setting
    plain = [r for r in requests if not r.prompt_logprobs][:6]
    run(engine, plain)
    results = engine.generate(plain)  # the cache is full of their prompts now
    assert any(r.cached_tokens for r in results)
    for result in results:
        assert essence(result) == together[result.id]


def test_with_the_beginning_of_a_block_copied(setting) -> None:
    engine, _ = setting
    persona = next(iter(engine.model.adapters), None)
    asked = [
        GenerateRequest(f"{k}", (*range(3, 27), 40 + k, 50, *range(60, 60 + 9 * k)), SamplingParams(12), persona)
        for k in range(5)
    ]
    alone = {}
    for request in asked:
        engine.reset_prefix_cache()
        (result,) = engine.generate([request])
        assert result.cached_tokens == 0
        alone |= {request.id: essence(result)}
    engine.reset_prefix_cache()
    results = engine.generate(asked)
    assert sum(r.cached_tokens == 24 for r in results) >= 3
    assert {result.id: essence(result) for result in results} == alone


@pytest.mark.slow
def test_preempted(tiny_model: Callable[[str], Path], tiny_adapters: list[Path]) -> None:
    engine = Engine.load(str(tiny_model("llama")), settings=ROOMY)
    small = Engine.load(str(tiny_model("llama")), settings=replace(ROOMY, kv_bytes=112 * 2**10, max_batched_tokens=32))
    for e in (engine, small):
        e.add_adapter("p0", tiny_adapters[0])
    requests = [
        replace(r, sampling=replace(r.sampling, max_new_tokens=120, ignore_eos=True))
        for r in make_requests(engine, 12, [None, "p0"])
    ]
    assert run(small, requests) == run(engine, requests)
    assert small.stats.preemptions > 0


def test_one_persona_or_five(tiny_model: Callable[[str], Path], tiny_adapters: list[Path], setting, together) -> None:
    engine, requests = setting
    if not engine.model.adapters:
        pytest.skip("needs adapters")
    single = Engine.load(str(tiny_model("llama")), settings=engine.settings)
    single.add_adapter("p3", tiny_adapters[3])
    mine = [r for r in requests if r.adapter == "p3"]
    found = run(single, mine)
    assert found == {key: together[key] for key in found}


def test_scores_are_invariant_too(setting) -> None:
    engine, requests = setting
    labels = tuple((*engine.tokenizer.encode(text), 2) for text in (" yes", " no it is not", "a"))
    scores = [ScoreRequest(f"s{r.id}", r.prompt, labels, r.adapter) for r in requests[:20]]
    engine.reset_prefix_cache()
    many = {s.id: s.token_logprobs for s in engine.score(scores)}
    for score in scores[::5]:
        engine.reset_prefix_cache()
        assert engine.score([score])[0].token_logprobs == many[score.id]
        assert engine.score([score])[0].token_logprobs == many[score.id]  # now with a cached prefix


def test_personas_draw_the_same_noise(tiny_model: Callable[[str], Path]) -> None:
    """One item asked under two request ids gives one answer; another sample of it, or another item, another."""
    engine = Engine.load(str(tiny_model("llama")), settings=ROOMY)
    prompt = tuple(engine.tokenizer.encode("Say something"))
    params = SamplingParams(max_new_tokens=30, temperature=1.5, ignore_eos=True)
    keys = [("item", 0), ("item", 0), ("item", 1), ("other", 0)]
    found = engine.generate([GenerateRequest(str(i), prompt, params, noise_key=k) for i, k in enumerate(keys)])
    texts = [r.token_ids for r in found]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3
