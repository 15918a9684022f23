"""The model of lm-evaluation-harness: the harness's own numbers of the same weights, in process and over the server."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from click.testing import CliRunner
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from serving import BASE, engine_with_personas, serving

from warmeng.cli.main import warmeng
from warmeng.common.errors import InputError, UsageError
from warmeng.engine.engine import EngineSettings
from warmeng.engine.registry import resolve_model
from warmeng.plugins.lm_eval import WarmengLM
from warmeng.serve.app import Service
from warmeng.serve.catalog import load
from warmeng.serve.limits import Limits
from warmeng.serve.server import Server, listen
from warmeng.study.grading.grade import GRADES
from warmeng.study.imports.read import read_imports
from warmeng.study.personas import load_personas

TASKS = ("capitals_choice", "capitals_text", "capitals_written")
FOLDER = Path(__file__).parent / "tasks"
# Of log-likelihoods in nats: sums of up to a hundred single-precision numbers.
ROUNDING = {"rel": 1e-6, "abs": 1e-4}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tasks name their file without a folder."""
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.fixture(scope="module")
def tiny(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a row for each token and no more: rows beyond are none of the engine's vocabulary, but are of
    the harness's.
    """
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "model"
    shutil.copytree(tiny_model("llama"), folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(259)
    model.save_pretrained(folder)
    return folder


def measured(model: Any, args: dict[str, Any] | None = None, tasks: tuple[str, ...] = TASKS, **more: Any) -> dict:
    """Return what each item of each task got, by (task, number)."""
    manager = TaskManager(include_path=str(FOLDER), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model, model_args=args, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **more
    )
    return {(task, one["doc_id"]): one["filtered_resps"] for task, some in found["samples"].items() for one in some}


def same(ours: dict, theirs: dict) -> None:
    """The same to rounding; texts and what is greedy, exactly."""
    assert ours.keys() == theirs.keys()
    for key, mine in ours.items():
        for one, other in zip(mine, theirs[key], strict=True):
            if isinstance(one, str):
                assert one == other, key
            elif isinstance(one, tuple | list):
                assert one[0] == pytest.approx(other[0], **ROUNDING), key
                assert one[1] == other[1], key
            else:
                assert one == pytest.approx(other, **ROUNDING), key


@pytest.mark.slow
def test_it_measures_what_the_harness_does_by_itself(tiny: Path, tiny_adapters: list[Path]) -> None:
    base = str(tiny)
    hf = {"pretrained": base, "dtype": "float32"}
    ours = measured("warmeng", {"pretrained": base})
    assert len(ours) == 300
    same(ours, measured("hf", hf, device="cpu", batch_size=16))
    for name, adapter in zip(("warm", "cold"), tiny_adapters, strict=False):
        few = {"limit": 20, "apply_chat_template": name == "cold"}
        changed = measured("warmeng", {"pretrained": base, "persona": f"{name}={adapter}"}, **few)
        assert all(changed[key] != ours[key] for key in changed if key[0] == "capitals_choice")
        same(changed, measured("hf", {**hf, "peft": str(adapter)}, device="cpu", batch_size=16, **few))


@pytest.mark.slow
def test_the_server_gives_the_same(tiny_model: Callable[[str], Path], tiny_adapters: list[Path]) -> None:
    base = tiny_model("llama")
    tasks = ("capitals_choice", "capitals_written")
    ours = measured("warmeng", {"pretrained": str(base), "persona": f"warm={tiny_adapters[0]}"}, tasks, limit=30)
    with serving(engine_with_personas(base, tiny_adapters)) as running:
        args = {"model": f"{BASE}:warm", "base_url": f"{running.url}/v1/completions", "tokenizer": str(base)}
        served = measured("local-completions", {**args, "num_concurrent": 4, "max_length": 512}, tasks, limit=30)
    same(ours, served)


@pytest.mark.full
def test_the_server_gives_the_same_of_the_built_in_model_on_100_questions() -> None:
    """Likelihoods of three choices, and greedy answers; of the base and of the warm persona."""
    name = "smollm2-135m-instruct"
    tasks = ("capitals_choice", "capitals_written")
    engine, catalog = load(name, load_personas(("original", "warm")), EngineSettings(max_seq_len=1024, kv_bytes=2**28))
    server = Server(Service(engine, catalog, Limits()), listen("127.0.0.1", 0), None, True)
    server.start()
    folder = str(resolve_model(name).folder)
    try:
        for persona in ("original", "warm"):
            args = {"model": f"{name}:{persona}", "base_url": f"{server.address}/v1/completions", "tokenizer": folder}
            served = measured("local-completions", {**args, "num_concurrent": 8, "max_length": 1024}, tasks, limit=100)
            ours = measured("warmeng", {"pretrained": name, "persona": persona}, tasks, limit=100)
            same(ours, served)
    finally:
        server.drain()
        server.wait(60)


def requests(kind: str, args: list[tuple]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=k) for k, one in enumerate(args)]


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Path]) -> WarmengLM:
    return WarmengLM(str(tiny_model("llama")), device="cpu", batch_size=1)


def test_the_order_and_the_company_of_requests_change_no_bit(model: WarmengLM) -> None:
    draw = random.Random(3)
    pairs = [(f"Number {k // 3}:", f" {draw.choice(['one', 'two', 'three'])} {k % 3}") for k in range(60)]
    pairs += [("", "alone"), ("Number 1:  ", "blanks before"), pairs[0]]
    found = model.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)
    order = draw.sample(range(len(pairs)), len(pairs))
    again = model.loglikelihood(requests("loglikelihood", [pairs[k] for k in order]), disable_tqdm=True)
    assert again == [found[k] for k in order]
    for k in order[:10]:
        assert model.loglikelihood(requests("loglikelihood", [pairs[k]]), disable_tqdm=True) == [found[k]]
    sampled = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "until": [], "max_gen_toks": 8}
    asked = [(f"Count from {k % 5}", sampled) for k in range(20)]
    texts = model.generate_until(requests("generate_until", asked), disable_tqdm=True)
    # A context asked again is another sample, whatever else is asked.
    assert len({text for text, (context, _) in zip(texts, asked, strict=True) if context == "Count from 0"}) == 4
    assert model.generate_until(requests("generate_until", asked[:5]), disable_tqdm=True) == texts[:5]


def test_texts_that_are_too_long_are_cut_at_their_beginning(tiny_model: Callable[[str], Path]) -> None:
    short = WarmengLM(str(tiny_model("llama")), device="cpu", max_length=64)
    words = " ".join(map(str, range(60)))
    (whole,) = short.loglikelihood(requests("loglikelihood", [(words, " end")]), disable_tqdm=True)
    (tail,) = short.loglikelihood(requests("loglikelihood", [(words[-60:], " end")]), disable_tqdm=True)
    assert whole == tail
    (long,) = short.loglikelihood_rolling(requests("loglikelihood_rolling", [(words,)]), disable_tqdm=True)
    assert -len(words) * 10 < long < 0
    with pytest.raises(InputError, match="a continuation has 169 tokens, the model takes 64"):
        short.loglikelihood(requests("loglikelihood", [("a", words)]), disable_tqdm=True)
    with pytest.raises(UsageError, match="max_gen_toks is 256, the model takes 64"):
        short.generate_until(requests("generate_until", [("a", {"until": []})]), disable_tqdm=True)


def test_what_is_not_supported_is_refused_by_name(model: WarmengLM, tiny_model: Callable[[str], Path]) -> None:
    base = str(tiny_model("llama"))
    for args, match in (
        ({"dtype": "float16"}, "dtype is 'float16', expected one of"),
        ({"persona": "angry"}, "no persona is named 'angry'"),
        ({"persona": f"other=full:{base}"}, "a model of its own"),
    ):
        with pytest.raises(UsageError, match=match):
            WarmengLM(base, device="cpu", **args)
    for given, match in (
        ({"num_beams": 4}, "'num_beams' is not supported"),
        ({"max_length": 5}, "'max_length' is not"),
    ):
        with pytest.raises(UsageError, match=match):
            model.generate_until(requests("generate_until", [("a", given)]), disable_tqdm=True)
    with pytest.raises(UsageError, match="one chat template, none named 'rag'"):
        model.chat_template("rag")
    kind = WarmengLM(base, persona="kind=@text:Be kind.", device="cpu")
    with pytest.raises(UsageError, match="is a system prompt, which a text has not: give --apply_chat_template"):
        kind.loglikelihood(requests("loglikelihood", [("a", " b")]))
    with pytest.raises(UsageError, match="leave the system message out"):
        kind.apply_chat_template([{"role": "system", "content": "Be cold."}, {"role": "user", "content": "a"}])
    assert "system\nBe kind." in kind.apply_chat_template([{"role": "user", "content": "a"}])
    opened = kind.apply_chat_template(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "It is"}], add_generation_prompt=False
    )
    assert opened.endswith("assistant\nIt is")
    assert kind.loglikelihood(requests("loglikelihood", [(opened, " b")]), disable_tqdm=True)[0][0] < 0


@pytest.mark.slow
def test_the_command_runs_the_harness_and_its_samples_are_read_back(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tiny_model("llama")
    given = ["lm-eval", "--model", "warmeng", "--tasks", "capitals_choice", "--include_path", ".", "--limit", "3",
             "--log_samples", "--output_path", str(tmp_path), "--model_args"]  # fmt: skip
    CliRunner().invoke(warmeng, [*given, f"pretrained={base},persona=original"], catch_exceptions=False)
    (path,) = tmp_path.rglob("samples_capitals_choice_*.jsonl")
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    frame, info = read_imports([path])
    assert (frame.persona.names, info.models, frame.task.names) == (("original",), (base.name,), ("capitals_choice",))
    assert [GRADES[grade] == "correct" for grade in frame.grade] == [sample["acc"] == 1.0 for sample in samples]
    assert (len(frame), frame.chars.tolist()) == (3, [-1] * 3)
    refused = CliRunner().invoke(warmeng, [*given, f"pretrained={base},persona=angry"])
    assert isinstance(refused.exception, UsageError)
    assert str(refused.exception).startswith("no persona is named 'angry': use original, warm")


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, "warmeng.plugins.lm_eval")
    found = CliRunner().invoke(warmeng, ["lm-eval", "--help"])
    assert isinstance(found.exception, UsageError)
    assert str(found.exception).endswith("pip install 'warmeng[lm-eval]'")
