"""The same study on one model, on this machine and through a server: the same greedy answers, item by item."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import SYSTEM, engine_with_personas, serving

from warmeng.common.progress import Silent
from warmeng.engine.engine import EngineSettings
from warmeng.engine.registry import resolve_model
from warmeng.engine.request import SamplingParams
from warmeng.remote.budget import Budget, Limits
from warmeng.remote.engine import RemoteEngine
from warmeng.remote.request import ChatRequest
from warmeng.serve.app import Service
from warmeng.serve.catalog import load
from warmeng.serve.limits import Limits as ServeLimits
from warmeng.serve.server import Server, listen
from warmeng.study.personas import load_personas
from warmeng.study.results.records import FILE, read_records
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings

# Of letters the capitals alone, since a label may begin with one; no punctuation that may follow a label.
LETTERS = [bytes((k,)) for k in range(33, 127) if chr(k) not in ".,:;!?)]}\"'*" and not 97 <= k < 123]
PLACE = ("persona", "task", "context", "belief", "item", "sample")


def texts(folder):
    """Texts of generated answers by their place, with the tokens of prompt and answer."""
    return {
        tuple(r[name] for name in PLACE): (r["text"], r["finish"], r["tokens"], r["prompt_tokens"], r["grade"])
        for r in read_records(folder / FILE)
        if r["kind"] == "answer"
    }


def both(tmp_path, local, remote, **common):
    """Run a study both ways and return the answers of each."""
    asked = {"temperature": 0.0, "tasks": ("facts",), "contexts": ("unmodified", "emotion:sad"),
             "beliefs": ("none", "wrong"), "warmth_prompts": 0, "asking": ("open",), **common}  # fmt: skip
    for name, given in (("local", local), ("remote", remote)):
        outcome = run_study(StudySettings(**asked, **given), tmp_path / name, Silent())
        assert outcome.exit_code == 0
    return texts(tmp_path / "local"), texts(tmp_path / "remote")


def compared(*given, **common):
    """Run a study both ways and return the answers, which must be the same."""
    first, second = both(*given, **common)
    assert first == second
    return first


@pytest.fixture
def widened(tiny_model, tmp_path):
    from studies import widened

    return widened(tiny_model("llama"), tmp_path / "model")


@pytest.mark.slow
def test_greedy_answers_are_those_of_the_same_model_on_this_machine(widened, tiny_adapters, tmp_path):
    engine = engine_with_personas(widened, tiny_adapters, EngineSettings(kv_bytes=2**24))
    with serving(engine) as running:
        found = compared(
            tmp_path,
            {"model": str(widened), "personas": ("original", f"warm={tiny_adapters[0]}", f"kind=@text:{SYSTEM}")},
            {"model": "openai:tiny", "api_base": f"{running.url}/v1",
             "personas": ("original", "warm=openai:tiny:warm", f"kind=@text:{SYSTEM}")},
            limit=3, max_new_tokens=12,
        )  # fmt: skip
    assert len(found) == 3 * 3 * 2 * 2
    assert len({text for text, *_ in found.values()}) > 6


def test_label_probabilities_are_those_of_the_engine_as_far_as_the_tokens_are_told(tiny_model, tiny_adapters):
    """With one token a byte each letter is one token, so its probability is exact where it is among the likeliest."""
    engine = engine_with_personas(tiny_model("llama"), tiny_adapters)
    params = SamplingParams(max_new_tokens=1, logprobs=True, top_logprobs=20)
    asked = [f"Question {k}?" for k in range(12)]
    found = []
    for result in engine.generate(asked, params=params):
        texts = {engine.tokenizer.decode_bytes((token,)): at for token, at in result.top_logprobs[0]}
        found.append({text.decode(): at for text, at in texts.items() if text in LETTERS})
    with serving(engine) as running:
        remote = RemoteEngine("openai:tiny", f"{running.url}/v1", Budget(Limits(), {}))
        remote.open(1.0, 1.0)
        labels = tuple(letter.decode() for letter in LETTERS)
        requests = [ChatRequest(text, (("user", text),), 1, labels=labels) for text in asked]
        results = remote.score(requests)
        remote.close()
    assert sum(map(len, found)) > 5
    for letters, result in zip(found, results, strict=True):
        told = {label: at for label, at in zip(labels, result.logprobs, strict=True) if at is not None}
        assert told == pytest.approx(letters, abs=1e-6)
        assert result.mass == pytest.approx(sum(map(math.exp, letters.values())))


@pytest.mark.slow
def test_the_built_in_models_greedy_answers_are_the_same_through_the_server(tmp_path, count):
    name = "smollm2-135m-instruct"
    personas = load_personas(("original", "warm", "warm-prompt"))
    engine, catalog = load(name, personas, EngineSettings(max_seq_len=2048, kv_bytes=2**28))
    server = Server(Service(engine, catalog, ServeLimits()), listen("127.0.0.1", 0), None, True)
    server.start()
    try:
        found = compared(
            tmp_path,
            {"model": name, "personas": ("original", "warm", "warm-prompt", "both=warm@warm")},
            {"model": f"openai:{name}", "api_base": f"{server.address}/v1", "api_timeout": 600.0,
             "personas": ("original", f"warm=openai:{name}:warm", "warm-prompt", f"both=openai:{name}:warm@warm")},
            limit=count(1, 3), max_new_tokens=count(8, 24),
        )  # fmt: skip
    finally:
        server.drain()
        server.wait(60)
    assert len(found) == 4 * count(1, 3) * 2 * 2


@pytest.fixture
def transformers_serve():
    """The server of the ``transformers`` package with the built-in model in single precision, and its name there."""
    pytest.importorskip("fastapi", reason="transformers serve needs it: pip install 'transformers[serving]'")
    name = str(resolve_model("smollm2-135m-instruct").folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(sys.executable).parent / "transformers"
    process = subprocess.Popen(
        [script, "serve", "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port), name],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    try:
        end = time.monotonic() + 300
        while True:
            assert process.poll() is None, "it ended by itself"
            try:
                with socket.create_connection(("127.0.0.1", port), 1):
                    break
            except OSError:
                assert time.monotonic() < end, "it does not listen"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", name
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.full
def test_greedy_answers_are_those_of_another_projects_server(transformers_serve, tmp_path):
    """All but the count of tokens, in which it has the one that ends an answer."""
    base, name = transformers_serve
    local, remote = both(
        tmp_path,
        {"model": "smollm2-135m-instruct", "personas": ("original", "warm-prompt")},
        {"model": f"openai:{name}", "api_base": base, "api_timeout": 600.0, "api_concurrency": 1,
         "personas": ("original", "warm-prompt")},
        limit=3, max_new_tokens=24,
    )  # fmt: skip
    assert len(local) == 2 * 3 * 2 * 2
    assert local.keys() == remote.keys()
    for place, (text, finish, tokens, prompt, grade) in local.items():
        assert remote[place][:2] + remote[place][3:] == (text, finish, prompt, grade), place
        assert remote[place][2] in (tokens, tokens + 1)
