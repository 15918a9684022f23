"""The engine against ``transformers`` and ``peft``: logits, greedy tokens, adapters in one batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.request import GenerateRequest, SamplingParams, ScoreRequest

SMALL = EngineSettings(kv_bytes=4 * 2**20, max_num_seqs=16, max_batched_tokens=48)
FAMILIES = [
    "llama", "llama-3.1-rope", "llama-tied", "llama-mha", "mistral-head-dim", "qwen2-bias", "qwen3-norm",
]  # fmt: skip
TEXTS = [
    "Hello there",
    "A much longer prompt that spans several blocks of the cache and is prefilled in chunks of forty-eight tokens, "
    "so that its tail attends to blocks written in earlier steps. " * 2,
    "x",
    "Which of these is it? " * 4,
]


def hf_model(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def hf_logprobs(model: torch.nn.Module, ids: tuple[int, ...], vocab: int) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :, :vocab]
    return logits.double().log_softmax(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_equal_transformers(family: str, tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model(family)
    engine, model = Engine.load(str(folder), settings=SMALL), hf_model(folder)
    vocab = engine.tokenizer.vocab_size
    assert vocab < engine.config.vocab_size  # the padded ids must not take part
    params = SamplingParams(max_new_tokens=24, ignore_eos=True, logprobs=True)
    requests = [
        GenerateRequest(str(i), tuple(engine.tokenizer.encode(text)), params, prompt_logprobs=True)
        for i, text in enumerate(TEXTS)
    ]
    for request, result in zip(requests, engine.generate(requests), strict=True):
        ids = request.prompt + result.token_ids
        table = hf_logprobs(model, ids, vocab)
        expected = table[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        found = torch.tensor(result.prompt_logprobs + result.logprobs, dtype=torch.float64)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        assert list(result.token_ids) == table[len(request.prompt) - 1 : -1].argmax(-1).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers(family: str, tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model(family)
    engine = Engine.load(str(folder), settings=SMALL)
    tokens = tuple(engine.tokenizer.encode("The quick answer to a simple question is"))
    with torch.no_grad():
        expected = hf_model(folder)(torch.tensor([tokens])).logits[0, -1, : engine.tokenizer.vocab_size]
    found = engine._core.probe_logits(tokens, "")[: engine.tokenizer.vocab_size]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_labels_equal_teacher_forcing(tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model("llama")
    engine, model = Engine.load(str(folder), settings=SMALL), hf_model(folder)
    vocab = engine.tokenizer.vocab_size
    labels = [" yes", " no, certainly not at all", "m", " maybe it is longer than one block of the cache"]
    requests = [
        ScoreRequest(
            str(i), tuple(engine.tokenizer.encode(text)), tuple((*engine.tokenizer.encode(x), 2) for x in labels)
        )
        for i, text in enumerate(TEXTS)
    ]
    for request, result in zip(requests, engine.score(requests), strict=True):
        for label, logprob, parts in zip(request.labels, result.logprobs, result.token_logprobs, strict=True):
            ids = request.prompt + label
            table = hf_logprobs(model, ids, vocab)
            expected = [float(table[i - 1, ids[i]]) for i in range(len(request.prompt), len(ids))]
            assert parts == pytest.approx(expected, abs=1e-4)
            assert logprob == pytest.approx(sum(expected), abs=1e-3)
        assert result.mass == pytest.approx(sum(map(float, torch.tensor(result.logprobs).exp())), rel=1e-4)


def test_single_token_labels_need_no_step_after_the_prompt(tiny_model: Callable[[str], Path]) -> None:
    engine = Engine.load(str(tiny_model("llama")), settings=SMALL)
    prompt = tuple(engine.tokenizer.encode("A short prompt"))
    every = tuple((token,) for token in range(engine.tokenizer.vocab_size))
    result = engine.score([ScoreRequest("all", prompt, every)])[0]
    assert engine.stats.steps == 1
    assert result.mass == pytest.approx(1.0, abs=1e-5)


def test_mixed_batch_equals_separate_peft_runs(tiny_model: Callable[[str], Path], tiny_adapters: list[Path]) -> None:
    from peft import PeftModel

    folder = tiny_model("llama")
    engine = Engine.load(str(folder), settings=SMALL)
    names: list[str | None] = [None, "a", "b"]
    for name, adapter in zip(("a", "b"), tiny_adapters, strict=False):
        engine.add_adapter(name, adapter)
        assert engine.probe_adapter(name) > 0.01
    params = SamplingParams(max_new_tokens=16, ignore_eos=True, logprobs=True)
    requests = [
        GenerateRequest(f"{name}-{i}", tuple(engine.tokenizer.encode(text)), params, adapter=name)
        for i, text in enumerate(TEXTS)
        for name in names
    ]
    results = {r.id: r for r in engine.generate(requests)}
    models = {None: hf_model(folder)}
    for name, adapter in zip(("a", "b"), tiny_adapters, strict=False):
        models[name] = PeftModel.from_pretrained(hf_model(folder), adapter).eval()
    answers = set()
    for request in requests:
        result = results[request.id]
        ids = request.prompt + result.token_ids
        table = hf_logprobs(models[request.adapter], ids, engine.tokenizer.vocab_size)
        expected = [float(table[i - 1, ids[i]]) for i in range(len(request.prompt), len(ids))]
        assert list(result.logprobs) == pytest.approx(expected, abs=1e-4)
        answers.add((request.prompt, result.token_ids))
    assert len(answers) > 2 * len(TEXTS)  # the adapters do change what is said


@pytest.mark.slow
def test_built_in_model_gives_hf_generate_tokens_on_chats(built_in: Engine, count: Callable[..., int]) -> None:
    from warmeng.bench.generate import chat_prompts
    from warmeng.bench.rivals.hf import Hf
    from warmeng.bench.rivals.rival import Task

    prompts = [built_in.tokenizer.chat([{"role": "user", "content": text}]) for text in chat_prompts()[:: count(16, 1)]]
    assert len(prompts) == count(6, 96)
    stops, params = list(built_in.config.stop_token_ids), SamplingParams(max_new_tokens=48)
    task = Task(str(built_in.model.source.folder), "f32", torch.get_num_threads(), 48, stops, prompts)
    requests = [GenerateRequest(str(i), tuple(prompt), params) for i, prompt in enumerate(prompts)]
    ours = [
        task.ended([*r.token_ids, *(stops[:1] if r.finish_reason == "stop" else [])])
        for r in built_in.generate(requests)
    ]
    assert ours == Hf(task).run(16, mixed=False)
