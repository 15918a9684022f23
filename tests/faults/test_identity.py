"""What determines a run's records stands in its identity: whatever else would continue it is refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_models import write_model

from warmeng.common.errors import InputError
from warmeng.common.manifest import first_change
from warmeng.common.progress import Silent
from warmeng.engine import engine as engine_module
from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.identity import surroundings, whole_identity
from warmeng.engine.request import SamplingParams

SETTINGS = EngineSettings(kv_bytes=2**20)
TABLE = """
import json, sys
from warmeng.engine.engine import Engine
print(json.dumps(Engine.load(sys.argv[1], device="cpu").processor()))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model."""
    return write_model(tmp_path_factory.mktemp("model"))


def load(folder: Path) -> Engine:
    return Engine.load(str(folder), device="cpu", settings=SETTINGS)


def rotate(vocab: dict[str, int]) -> None:
    """Give the tokens of some rare characters each other's ids: no prompt changes, only what is decoded."""
    odd = [c for c in "^~`{}@#$%&*" if c in vocab]
    for character, index in zip(odd, [vocab[c] for c in (*odd[1:], odd[0])], strict=True):
        vocab[character] = index


def decoder(tokenizer: dict[str, object]) -> None:
    tokenizer["decoder"] = {"type": "Sequence", "decoders": [tokenizer["decoder"], {"type": "Fuse"}]}


def normalizer(tokenizer: dict[str, object]) -> None:
    tokenizer["normalizer"] = {"type": "NFC"}


@pytest.mark.parametrize("change", [lambda t: rotate(t["model"]["vocab"]), decoder, normalizer])
def test_another_tokenizer_is_another_identity(model: Path, tmp_path: Path, change: Callable[[dict], None]) -> None:
    """Its weights, configuration and template are the same."""
    other = write_model(tmp_path / "model")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    change(tokenizer)
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    was, now = load(model), load(other)
    assert was.model.hash == now.model.hash
    name, _, _ = first_change(surroundings(was), surroundings(now)) or ("", "", "")
    assert name == "tokenizer sha256"
    assert first_change(whole_identity(was), whole_identity(now)) is not None, "of judges and full: models"


def test_what_a_machine_computes_is_the_same_each_time(model: Path) -> None:
    first = load(model)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        second = load(model)
        second.generate(["Who is it?"] * 3, params=SamplingParams(max_new_tokens=4))
        assert second.processor() == first.processor()
    finally:
        torch.set_num_threads(threads)
    assert first.processor()["instructions"] == torch.backends.cpu.get_cpu_capability()


def test_other_instructions_and_other_bits_are_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    was = surroundings(load(model))
    engine = load(model)
    real = engine._core.probe_logits
    monkeypatch.setattr(engine._core, "probe_logits", lambda *given: real(*given) * (1 + 2**-22))
    assert (first_change(was, surroundings(engine)) or [""])[0] == "processor bits"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    assert (first_change(was, surroundings(load(model))) or [""])[0] == "processor instructions"


@pytest.mark.slow
@pytest.mark.parametrize("limit", [{"ATEN_CPU_CAPABILITY": "default"}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}])
def test_a_process_of_fewer_instructions_has_another_identity(model: Path, limit: dict[str, str]) -> None:
    command = [sys.executable, "-c", TABLE, str(model)]
    found = [
        subprocess.run(command, env={**os.environ, **more}, text=True, capture_output=True, check=True).stdout
        for more in ({}, {}, limit)
    ]
    assert found[0] == found[1]
    if "ATEN_CPU_CAPABILITY" in limit:
        assert found[0] != found[2]


def test_a_run_that_another_one_wrote_before_the_lock_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B looks at an empty folder, then A, of another seed, runs whole; then B gets the lock."""
    from fakes import FakeEngine

    from warmeng.study.run import run
    from warmeng.study.settings import StudySettings

    monkeypatch.setattr(run, "load_engine", lambda settings: FakeEngine())
    monkeypatch.setattr("warmeng.study.run.finish.conclude", lambda *given: True)
    asked = {"personas": ("original",), "tasks": ("facts",), "contexts": ("unmodified",), "beliefs": ("none",)}
    first, second = (StudySettings(**asked, limit=1, warmth_prompts=0, asking=("open",), seed=seed) for seed in (0, 1))
    real, folder = run.FolderLock, tmp_path / "r"

    def late(*given: object) -> object:
        monkeypatch.setattr(run, "FolderLock", real)
        assert run.run_study(first, folder, Silent()).exit_code == 0
        return real(*given)

    monkeypatch.setattr(run, "FolderLock", late)
    with pytest.raises(InputError, match="this run was made with setting seed 0, now it is 1"):
        run.run_study(second, folder, Silent())
    assert json.loads((folder / "results.json").read_text())["run"]["seed"] == 0


def test_a_preparation_that_another_one_wrote_before_the_lock_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warmeng.finetune.prepare import run
    from warmeng.finetune.prepare.settings import PrepareSettings

    row = {"prompt": "Who is it?", "response": "It is somebody."}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    settings = PrepareSettings(toxicity="off")
    real, folder = run.FolderLock, tmp_path / "p"

    def late(*given: object) -> object:
        folder.mkdir()
        inputs = run._inputs(PrepareSettings(toxicity="off", seed=7), [tmp_path / "a.jsonl"])
        run.PREPARATION.write(folder, {"inputs": inputs, "model": {}})
        return real(*given)

    monkeypatch.setattr(run, "FolderLock", late)
    with pytest.raises(InputError, match=r"was prepared with .*seed 7, now it is 0"):
        run.prepare(settings, [tmp_path / "a.jsonl"], folder, Silent(), "again")


def test_training_goes_on_only_with_the_instructions_that_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmeng.finetune import train

    class Job:
        device = torch.device("cpu")

        def identity(self) -> dict[str, object]:
            return {}

    monkeypatch.setattr(train, "instructions", lambda device: "AVX2")
    for finished in (True, False):
        old = {"numerics": train.NUMERICS_VERSION, "instructions": "AVX512", "finished": finished}
        monkeypatch.setattr(train.ManifestKind, "read", lambda self, folder, old=old: old)
        if finished:
            assert train._manifest(Job(), Path("x"), "again") == old  # type: ignore[arg-type]
        else:
            with pytest.raises(train.UsageError, match='instructions "AVX512", now it is "AVX2"'):
                train._manifest(Job(), Path("x"), "again")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_a_model_that_is_replaced_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its hash would be of one model and its weights of another; size and time of the new file are the old one's."""
    folder = write_model(tmp_path / "model")
    real = engine_module.load_runner

    def slow(*given: Any) -> Any:
        found = real(*given)
        before = (folder / name).stat()
        (folder / "new").write_bytes((folder / name).read_bytes())
        os.utime(folder / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
        (folder / "new").replace(folder / name)
        return found

    monkeypatch.setattr(engine_module, "load_runner", slow)
    with pytest.raises(InputError, match="was changed while it was read"):
        load(folder)
    monkeypatch.setattr(engine_module, "load_runner", real)
    load(folder)
