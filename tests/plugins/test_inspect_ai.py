"""The provider of Inspect: an evaluation of its own runs on the engine, and its log says what the server would."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task, eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import GenerateConfig, Model, ResponseSchema, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message, use_tools
from inspect_ai.tool import tool
from inspect_ai.util import JSONSchema
from openai.types.chat import ChatCompletion
from serving import engine_with_personas, serving

from warmeng.plugins.inspect_ai import divided
from warmeng.study.imports.read import read_imports

QUESTIONS = [f"What is {k} and {k + 1}?" for k in range(12)]


def task(**config: Any) -> Task:
    samples = [Sample(text, target=str(2 * k + 1), id=k) for k, text in enumerate(QUESTIONS)]
    return Task(samples, solver=generate(), scorer=includes(), config=GenerateConfig(**config))


def opened(folder: Path, name: str = "", **args: Any) -> Model:
    return get_model(f"warmeng/{folder}{name and ':' + name}", device="cpu", max_seq_len=512, **args)


def run(task: Task, model: Model, logs: Path) -> EvalLog:
    (log,) = eval(task, model=model, log_dir=str(logs), display="none", score_display=False)
    return log


def texts(log: EvalLog) -> list[str]:
    assert log.status == "success", log.error
    assert log.samples is not None
    return [sample.output.completion for sample in log.samples]


@pytest.mark.slow
def test_an_evaluation_runs_and_its_log_is_read_back(
    tiny_model: Callable[[str], Path], tiny_adapters: list[Path], tmp_path: Path
) -> None:
    base = tiny_model("llama")
    warm = f"warm={tiny_adapters[0]}"
    found = {}
    logs = []
    for persona, args in (("", {}), ("warm", {"persona": warm}), ("kind", {"persona": "kind=@text:Be kind."})):
        log = run(task(temperature=0.0, max_tokens=6), opened(base, persona, **args), tmp_path)
        found[persona] = texts(log)
        again = read_eval_log(log.location)
        logs.append(Path(log.location))
        assert again.eval.model == f"warmeng/{base}{persona and ':' + persona}"
        assert texts(again) == found[persona]
        for sample in again.samples or ():
            usage = sample.output.usage
            assert usage is not None
            assert (usage.output_tokens, sample.output.stop_reason) in {(6, "max_tokens")} or usage.output_tokens < 6
            cached = usage.input_tokens_cache_read or 0
            assert usage.total_tokens == usage.input_tokens + cached + usage.output_tokens
    assert len({tuple(some) for some in found.values()}) == 3
    frame, info = read_imports(logs)
    assert set(frame.persona.names) == {f"warmeng/{base}", "warm", "kind"}
    assert (info.planned, frame.task.names, len(frame.item.names)) == (36, ("task",), 12)
    assert frame.chars.tolist() == [len(text) for some in found.values() for text in some]
    # The server's answers to the same questions.
    with serving(engine_with_personas(base, tiny_adapters)) as running:
        for persona, some in found.items():
            name = f"tiny{persona and ':' + persona}"
            for question, text in zip(QUESTIONS, some, strict=True):
                messages = [{"role": "user", "content": question}]
                answer: ChatCompletion = running.client.chat.completions.create(
                    model=name, messages=messages, temperature=0, max_tokens=6
                )  # type: ignore[call-overload]
                assert answer.choices[0].message.content == text


def one(model: Model, text: str = "Say it.", **config: Any) -> Any:
    return asyncio.run(model.generate(text, config=GenerateConfig(**config)))


def test_what_inspect_asks_for_is_what_it_gets(tiny_model: Callable[[str], Path]) -> None:
    model = opened(tiny_model("llama"))
    seeded = {"max_tokens": 12, "temperature": 0.9, "top_p": 0.9, "top_k": 40, "seed": 5}
    first = one(model, num_choices=3, logprobs=True, top_logprobs=2, **seeded)
    assert len({choice.message.text for choice in first.choices}) == 3
    for choice in first.choices:
        assert choice.logprobs is not None
        assert all(len(token.top_logprobs or ()) == 2 and token.logprob < 0 for token in choice.logprobs.content)
    # Another event loop, another batch, the same answer; and without a seed it says which one it drew.
    assert one(model, **seeded).completion == first.completion
    drawn = one(model, max_tokens=12)
    assert one(model, max_tokens=12, seed=drawn.metadata["seed"]).completion == drawn.completion
    whole = one(model, max_tokens=12, temperature=0.0).completion
    stop = next(character for character in whole[1:] if character.isascii() and character.isprintable())
    cut = one(model, max_tokens=12, temperature=0.0, stop_seqs=[stop])
    assert (cut.completion, cut.stop_reason) == (whole[: whole.index(stop)], "stop")
    schema = ResponseSchema(name="n", json_schema=JSONSchema(type="boolean"))
    assert one(model, response_schema=schema, max_tokens=12).completion in ("true", "false")
    long = one(model, "x" * 600)
    assert (long.stop_reason, long.completion) == ("model_length", "")
    assert "600" in (long.error or "") or "the model takes 512" in (long.error or "")


def test_after_an_interrupt_the_next_evaluation_has_the_engine_to_itself(tiny_model: Callable[[str], Path]) -> None:
    model = opened(tiny_model("llama"))
    expected = one(model, max_tokens=8, temperature=0.0).completion

    async def cut_off() -> None:
        asked = [model.generate("a", config=GenerateConfig(max_tokens=400, seed=k)) for k in range(8)]
        await asyncio.wait_for(asyncio.gather(*asked), 0.05)

    for _ in range(2):
        with pytest.raises(TimeoutError):
            asyncio.run(cut_off())
        assert one(model, max_tokens=8, temperature=0.0).completion == expected
    held = model.api._engine.occupancy
    assert (held.running, held.waiting, held.available_blocks) == (0, 0, held.blocks)


@tool
def clock() -> Any:
    async def execute() -> str:
        """Tell the time."""
        return "noon"

    return execute


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty is 0.5, which is not supported: leave it out"),
        ({"reasoning_effort": "high"}, "reasoning_effort is 'high', which is not supported: leave it out"),
        ({"prompt_logprobs": 2}, "prompt_logprobs is not a parameter here: leave it out"),
        ({"top_p": 0.0}, "top_p is 0.0, expected a number above 0 and at most 1"),
        ({"max_tokens": 4096}, "max_completion_tokens is 4096, but 4"),
    ],
)
def test_what_can_not_be_served_is_refused_by_name(
    config: dict[str, Any], match: str, tiny_model: Callable[[str], Path]
) -> None:
    with pytest.raises(ValueError, match=match):
        one(opened(tiny_model("llama")), **config)


@pytest.mark.slow
def test_tools_and_second_system_prompts_are_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny_model("llama")
    asking = Task([Sample("a")], solver=[use_tools(clock()), generate()])
    log = run(asking, opened(base), tmp_path)
    assert log.status == "error"
    assert "tools are given, which are not supported" in (log.error.message if log.error else "")
    told = Task([Sample("a")], solver=[system_message("Be cold."), generate()])
    log = run(told, opened(base, "kind", persona="kind=@text:Be kind."), tmp_path)
    assert "leave the system message out" in (log.error.message if log.error else "")


@pytest.mark.parametrize(
    ("persona", "args", "match"),
    [
        ("angry", {}, "no persona is named 'angry'"),
        ("", {"persona": "warm"}, "name the model .*:warm"),
        ("", {"dtype": "float16"}, "dtype is 'float16', expected one of"),
        ("", {"base_url": "http://localhost"}, "the engine runs in this process"),
    ],
)
def test_models_that_are_none_are_refused(
    persona: str, args: dict[str, Any], match: str, tiny_model: Callable[[str], Path]
) -> None:
    with pytest.raises(PrerequisiteError, match=match):
        opened(tiny_model("llama"), persona, **args)


def test_names_are_divided_at_the_last_colon(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    assert divided("smollm2-135m-instruct:warm") == ("smollm2-135m-instruct", "warm")
    assert divided("owner/name") == ("owner/name", None)
    assert divided(f"{tmp_path}/a:b") == (f"{tmp_path}/a:b", None)
    assert divided(f"{tmp_path}/a:b:cold") == (f"{tmp_path}/a:b", "cold")
    assert divided("C:/models/base") == ("C:/models/base", None)


@pytest.mark.slow
def test_inspect_finds_the_provider_by_itself(tiny_model: Callable[[str], Path]) -> None:
    code = f"from inspect_ai.model import get_model; print(get_model('warmeng/{tiny_model('llama')}').api)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "WarmengAPI" in done.stdout, done.stderr
