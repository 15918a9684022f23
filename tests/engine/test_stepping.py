"""Callers that run each step themselves: answers as they grow, requests dropped on the way, the likeliest tokens."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiers import slow

from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.request import (
    Constraint,
    GenerateRequest,
    GenerateResult,
    RequestError,
    Result,
    SamplingParams,
    ScoreRequest,
)

SMALL = EngineSettings(kv_bytes=2**20, max_num_seqs=6, max_batched_tokens=48)


@pytest.fixture(scope="module")
def engine(tiny_model: Callable[[str], Path]) -> Engine:
    return Engine.load(str(tiny_model("llama")), settings=SMALL)


def ask(engine: Engine, name: str, **params: object) -> GenerateRequest:
    values = {"max_new_tokens": 12, "logprobs": True, "top_logprobs": 3, "ignore_eos": True, **params}
    return GenerateRequest(
        name, tuple(engine.tokenizer.encode(f"prompt {name} " * 2)), SamplingParams(**values), None, (name, 0)
    )  # fmt: skip


def run(engine: Engine) -> dict[str, Result]:
    found = {}
    while engine.busy:
        engine.step()
        found |= {result.id: result for result in engine.take()}
    return found


def bits(result: Result) -> Result:
    return replace(result, cached_tokens=0)


def test_what_grows_step_by_step_is_the_answer(engine: Engine) -> None:
    requests = [ask(engine, str(k), max_new_tokens=5 + 3 * k, temperature=0.8 * (k % 2)) for k in range(8)]
    expected = {result.id: bits(result) for result in engine.generate(requests)}
    for request in requests:
        engine.add(request)
    told: dict[str, list[tuple[object, ...]]] = {request.id: [] for request in requests}
    found: dict[str, Result] = {}
    while engine.busy:
        engine.step()
        found |= {result.id: bits(result) for result in engine.take()}
        for request in requests:
            progress = engine.progress(request.id, len(told[request.id]))
            assert (progress is None) == (request.id in found)
            if progress is not None:
                told[request.id] += zip(
                    progress.token_ids, progress.logprobs, progress.top_logprobs, strict=True
                )  # fmt: skip
    assert found == expected
    for key, result in found.items():
        assert isinstance(result, GenerateResult)
        whole = list(zip(result.token_ids, result.logprobs, result.top_logprobs, strict=True))
        assert told[key] == whole[: len(told[key])]
        assert len(told[key]) >= len(whole) - 1
    assert engine.progress("nobody") is None


@pytest.mark.parametrize("device", ["cpu", *slow("interpret")])
def test_dropped_requests_leave_nothing_and_change_no_others_bits(
    device: str, tiny_model: Callable[[str], Path], count: Callable[..., int]
) -> None:
    """At any moment: while they wait, run, are preempted or wait to be read; blocks are few, so that some are."""
    few = EngineSettings(kv_bytes=112 * 2**10, max_num_seqs=6, max_batched_tokens=32)
    engine = Engine.load(str(tiny_model("llama")), device=device, settings=few)
    long, many = (count(40, 60), 12) if device == "cpu" else (2, 3)
    requests = [ask(engine, str(k), max_new_tokens=long, temperature=0.7 * (k % 3)) for k in range(many)]
    requests[-1] = replace(requests[-1], constraint=Constraint("regex", "[a-f]{1,30}"))
    labels = tuple(tuple(engine.tokenizer.encode(text)) for text in ("yes", "no", "n"))
    scores = [ScoreRequest(f"s{k}", requests[k].prompt, labels) for k in range(3)]
    free = engine.occupancy.available_blocks
    for request in (*requests, *scores):
        engine.add(request)
    alone = {key: bits(result) for key, result in run(engine).items()}
    assert engine.occupancy.available_blocks == free
    for seed in range(count(4, 100, quick=1) if device == "cpu" else 1):
        rng = random.Random(seed)
        everything = [*requests, *scores]
        rng.shuffle(everything)
        dropped: set[str] = set()
        found: dict[str, Result] = {}
        for request in everything:
            engine.add(request)
        while engine.busy:
            engine.step()
            left = [request.id for request in everything if request.id not in {*found, *dropped}]
            if left and rng.random() < (0.3 if device == "cpu" else 0.9):
                victim = rng.choice(left)
                engine.cancel(victim)
                dropped.add(victim)
            found |= {result.id: bits(result) for result in engine.take()}
        assert found == {key: alone[key] for key in alone.keys() - dropped}
        assert dropped
        held = engine.occupancy
        assert (held.running, held.waiting, held.available_blocks) == (0, 0, free)
    if device == "cpu":
        assert engine.stats.preemptions


def test_a_dropped_request_frees_its_blocks_at_once_and_its_id(engine: Engine) -> None:
    free = engine.occupancy.available_blocks
    engine.add(ask(engine, "a", max_new_tokens=200))
    engine.step()
    assert engine.occupancy.available_blocks < free
    engine.cancel("a")
    assert engine.occupancy.available_blocks == free
    assert not engine.busy
    engine.add(ask(engine, "a", max_new_tokens=1))
    assert run(engine)["a"].status == "ok"
    engine.cancel("a")


@pytest.mark.parametrize("device", ["cpu", *slow("interpret")])
def test_the_likeliest_tokens_are_those_of_the_softmax(device: str, tiny_model: Callable[[str], Path]) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_model("llama")
    engine = Engine.load(str(folder), device=device, settings=SMALL)
    prompts = [replace(ask(engine, name, max_new_tokens=4, top_logprobs=5), prompt_logprobs=True) for name in "ab"]
    unasked = ask(engine, "c", top_logprobs=0, max_new_tokens=4)
    *results, other = engine.generate([*prompts, unasked])
    assert (other.top_logprobs, other.prompt_top_logprobs) == ((), ())
    model = AutoModelForCausalLM.from_pretrained(folder)
    for request, result in zip(prompts, results, strict=True):
        tokens = [*request.prompt, *result.token_ids]
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0, :-1, : engine.vocab_size]
        top = logits.log_softmax(-1).topk(5)
        places = [*result.prompt_top_logprobs, *result.top_logprobs]
        assert [[token for token, _ in place] for place in places] == top.indices.tolist()
        values = torch.tensor([[value for _, value in place] for place in places])
        assert torch.allclose(values, top.values, atol=2e-4)
        if device == "cpu":  # greedy: the chosen token is the likeliest, to the bit
            assert [place[0] for place in result.top_logprobs] == list(
                zip(result.token_ids, result.logprobs, strict=True)
            )
            known = dict(zip(request.prompt[1:], result.prompt_logprobs, strict=True))
            for token, place in zip(request.prompt[1:], result.prompt_top_logprobs, strict=True):
                assert dict(place).get(token, known[token]) in result.prompt_logprobs


@pytest.mark.parametrize("device", ["cpu", *slow("interpret")])
def test_the_likeliest_tokens_in_labels_places_are_those_of_the_softmax(
    device: str, tiny_model: Callable[[str], Path]
) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_model("llama")
    # Steps so small that a request's labels are computed in several.
    engine = Engine.load(str(folder), device=device, settings=replace(SMALL, max_batched_tokens=16))
    prompt = ask(engine, "a").prompt
    labels = ((5,), (7, 8, 9), tuple(range(20, 45)), (7, 8, 10))
    asked = [ScoreRequest(name, prompt, labels, top_logprobs=count) for name, count in (("a", 3), ("b", 0), ("c", 1))]
    result, unasked, one = engine.score(asked)
    assert unasked.top_logprobs == ()
    assert (unasked.logprobs, unasked.token_logprobs) == (result.logprobs, result.token_logprobs)
    assert one.top_logprobs == tuple(tuple(place[:1] for place in label) for label in result.top_logprobs)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for label, places in zip(labels, result.top_logprobs, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *label]])).logits[0, len(prompt) - 1 : -1, : engine.vocab_size]
        top = logits.log_softmax(-1).topk(3)
        assert [[token for token, _ in place] for place in places] == top.indices.tolist()
        values = torch.tensor([[value for _, value in place] for place in places])
        assert torch.allclose(values, top.values, atol=2e-4)


def test_more_places_than_tokens_are_refused() -> None:
    for bad in (-1, 101):
        with pytest.raises(RequestError, match="top_logprobs"):
            SamplingParams(top_logprobs=bad)
        with pytest.raises(RequestError, match="top_logprobs"):
            ScoreRequest("a", (1,), ((2,),), top_logprobs=bad)


def test_a_constraint_that_grows_too_complex_ends_its_own_request_alone(engine: Engine) -> None:
    other = ask(engine, "other")
    expected = bits(engine.generate([other])[0])
    many = replace(ask(engine, "many"), constraint=Constraint("choice", tuple(f"word {k}" for k in range(3000))))
    for request in (many, other):
        engine.add(request)
    found = run(engine)
    assert found["many"].status == "bad_constraint"
    assert "too complex" in found["many"].detail or "simpler" in found["many"].detail
    assert bits(found["other"]) == expected


def test_a_schema_nested_too_deeply_is_refused(engine: Engine) -> None:
    deep = '{"items":' * 5000 + "{}" + "}" * 5000
    for schema in (deep, json.dumps({"$ref": "file:///etc/hosts"})):
        with pytest.raises(RequestError, match=r"nested too deeply|can't be used"):
            engine.add(replace(ask(engine, "deep"), constraint=Constraint("json_schema", schema)))
    assert not engine.busy


def test_results_end_after_the_step_that_runs_where_an_interrupt_came(tiny_model: Callable[[str], Path]) -> None:
    engine = Engine.load(tiny_model("llama"), device="cpu", settings=SMALL)
    sampling = SamplingParams(max_new_tokens=8, ignore_eos=True)
    requests = [GenerateRequest(f"{k}", (5, 6, k + 7), sampling) for k in range(3)]
    alone = {result.id: result.token_ids for result in engine.generate(requests)}
    for request in requests:
        engine.add(request)
    steps = engine.stats.steps
    assert list(engine.results([15])) == []
    assert engine.stats.steps == steps
    engine.step()
    assert list(engine.results([15])) == []
    assert {result.id: result.token_ids for result in engine.results()} == alone
    assert engine.stats.longest_step > 0
