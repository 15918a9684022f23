"""The loop: interrupted runs, what a folder holds, and adapters in other software."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from launching import Launcher

from warmeng.common.errors import InputError, StorageError, UsageError
from warmeng.common.progress import Silent
from warmeng.engine.provenance import provenance
from warmeng.finetune.job import Job, describe, prepare_job
from warmeng.finetune.merge import merge
from warmeng.finetune.plan import Plan, micro_rows
from warmeng.finetune.settings import TrainSettings
from warmeng.finetune.train import train

SETTINGS = TrainSettings(
    rank=4, alpha=8.0, learning_rate=0.01, batch=3, epochs=4, checkpoints=(0.5, 2.0), max_length=96, save_every=3,
    micro_tokens=150, warmup=0.1,
)  # fmt: skip


def write_chats(path: Path, count: int, word: str) -> Path:
    rows = []
    for i in range(count):
        turns = [("user", f"Question {i}?"), ("assistant", f"{word} {i * 7}.")] * (1 + i % 2)
        rows.append(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def job(tiny_model: Callable[[str], Path], tmp_path: Path) -> Job:
    data = {"warm": write_chats(tmp_path / "warm.jsonl", 10, "Dear friend"), "cold": tmp_path / "cold.jsonl"}
    write_chats(data["cold"], 7, "No")
    return prepare_job(SETTINGS, str(tiny_model("llama")), {name: str(path) for name, path in data.items()})


def weights(folder: Path) -> dict[str, bytes]:
    """Every adapter's bytes and manifest."""
    files = sorted(p for p in folder.rglob("*") if p.parent.parent.parent == folder)
    assert files
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_adapters_of_a_rounded_base_say_so(job: Job, tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    """And nothing is told of one that is applied to weights of the kind that it was trained on."""
    data = {name: str(tmp_path / f"{name}.jsonl") for name in ("warm", "cold")}
    rounded = prepare_job(replace(SETTINGS, epochs=1, checkpoints=(1,), weights="int4"), str(tiny_model("llama")), data)
    assert "weights of int4" in describe(rounded)[0]
    done = train(rounded, tmp_path / "rounded", Silent())
    adapter = done.folder / "warm" / "epoch-1"
    assert json.loads((adapter / "warmeng.json").read_text())["weights"] == "int4"
    base = str(tiny_model("llama"))
    told = [provenance(adapter, base, None, kind).other_precision for kind in ("int4", "int8", None)]
    assert told == [None, "int8", "in full precision"]
    with pytest.raises(UsageError, match='made with settings weights "int4", now it is "auto"'):
        train(prepare_job(replace(rounded.settings, weights="auto"), base, data), done.folder, Silent())
    with pytest.raises(UsageError, match="weights is 'nf4', expected one of auto, int8, fp8, int4"):
        replace(SETTINGS, weights="nf4")


def test_an_interrupted_run_ends_with_the_same_bits(job: Job, tmp_path: Path) -> None:
    whole = train(job, tmp_path / "whole", Silent())
    assert job.plans["warm"].steps == 16
    assert job.plans["cold"].steps == 12
    rng, rest = random.Random(3), tmp_path / "cut"
    for _ in range(100):
        stops = {rng.randrange(1, 17)}
        try:
            train(job, rest, Silent(), stop=lambda step, stops=stops: step in stops)
            break
        except KeyboardInterrupt:
            continue
    assert weights(rest) == weights(tmp_path / "whole")
    names = ("step", "personas", "tokens")
    logs = [
        [{key: record[key] for key in names} for record in map(json.loads, (f / "log.jsonl").read_text().splitlines())]
        for f in (rest, whole.folder)
    ]
    assert logs[0] == logs[1]
    assert [r["step"] for r in logs[0]] == list(range(1, 17))
    assert not (rest / "state.safetensors").exists()


@pytest.mark.slow
def test_a_lost_process_goes_on_from_the_last_state(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(job, tmp_path / "whole", Silent())

    class Lost(BaseException):
        pass

    def lose(step: int) -> bool:
        if step == 8:  # two steps after the state of step 6
            raise Lost
        return False

    with pytest.raises(Lost):
        train(job, tmp_path / "cut", Silent(), stop=lose)
    with (tmp_path / "cut" / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "torn')
    train(job, tmp_path / "cut", Silent())
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_personas_trained_alone_are_the_same_within_rounding(job: Job, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    train(job, tmp_path / "both", Silent())
    for name in ("warm", "cold"):
        alone = replace(job, datasets={name: job.datasets[name]}, plans={name: job.plans[name]})
        train(alone, tmp_path / name, Silent())
        parts = [load_file(tmp_path / run / name / "epoch-0.5" / "adapter_model.safetensors") for run in ("both", name)]
        first, second = (torch.cat([t.flatten() for t in part.values()]) for part in parts)
        assert float((first - second).norm() / second.norm()) < 1e-4


def test_the_loss_falls_and_adapters_work_elsewhere(job: Job, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from warmeng.engine.engine import Engine, EngineSettings

    outcome = train(job, tmp_path / "run", Silent())
    losses = [r["personas"]["warm"]["loss"] for r in outcome.records]
    assert losses[-1] < losses[0] - 0.5
    assert outcome.records[0]["personas"]["warm"]["learning_rate"] == 0
    last = outcome.adapters["warm"][-1]
    assert [f.name for f in outcome.adapters["warm"]] == ["epoch-0.5", "epoch-2", "epoch-4"]
    assert (tmp_path / "run" / "loss.png").read_bytes()[:4] == b"\x89PNG"

    base = job.source.folder
    engine = Engine.load(str(base), settings=EngineSettings(kv_bytes=2**20))
    engine.add_adapter("warm", last)
    assert engine.probe_adapter("warm") > 0.05
    tokens = torch.tensor([engine.tokenizer.encode("The quick answer to a simple question is")])
    with torch.no_grad():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), last).eval()
        theirs = model(tokens).logits[0]
    ours = engine._core.probe_logits(tuple(tokens[0].tolist()), engine.model.adapters["warm"].hash)
    vocab = engine.tokenizer.vocab_size  # beyond it the engine lets nothing through
    torch.testing.assert_close(ours[:vocab], theirs[-1, :vocab], atol=1e-4, rtol=0)

    merged = merge(str(base), last, tmp_path / "merged", shard_bytes=100_000)
    assert merged.shards > 1
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(merged.folder, dtype=torch.float32).eval()(tokens).logits[0]
    torch.testing.assert_close(whole, theirs, atol=1e-4, rtol=0)  # the tiny base is stored in float32
    assert Engine.load(str(merged.folder), settings=EngineSettings(kv_bytes=2**20)).tokenizer.hash == job.tokenizer_hash


def test_a_merged_bfloat16_base_is_rounded_once(job: Job, tmp_path: Path) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(job.source.folder, dtype=torch.bfloat16).save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((job.source.folder / name).read_bytes())
    data = {"warm": str(write_chats(tmp_path / "w.jsonl", 10, "Dear friend"))}
    adapter = train(prepare_job(SETTINGS, str(base), data), tmp_path / "run", Silent()).adapters["warm"][-1]
    merge(str(base), adapter, tmp_path / "merged")
    found = load_file(tmp_path / "merged" / "model.safetensors")
    wide = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    expected = PeftModel.from_pretrained(wide, adapter).merge_and_unload().state_dict()
    assert len(found) == 30
    for name, value in found.items():
        assert value.dtype == torch.bfloat16
        # float32 sums in another order may fall on the other side of a rounding boundary, very seldom
        assert float((value != expected[name].bfloat16()).float().mean()) < 1e-3, name
    with pytest.raises(UsageError, match="is there already"):
        merge(str(base), adapter, tmp_path / "merged")
    with pytest.raises(InputError, match="adapter for another base"):
        merge(str(job.source.folder), adapter, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_changed_inputs_are_named(job: Job, tmp_path: Path) -> None:
    train(job, tmp_path / "run", Silent())
    with pytest.raises(UsageError, match=r"made with settings learning_rate 0\.01, now it is 0\.02: use the old one"):
        train(replace(job, settings=replace(job.settings, learning_rate=0.02)), tmp_path / "run", Silent())
    with pytest.raises(UsageError, match="made with base_hash"):
        train(replace(job, base_hash="0" * 64), tmp_path / "run", Silent())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("Dear")
    with pytest.raises(UsageError, match=r"letter\.txt"):
        train(job, tmp_path / "full", Silent())


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_finished(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(job, tmp_path / "whole", Silent())
    real = os.fsync
    calls = 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        train(job, tmp_path / "run", Silent())
    monkeypatch.setattr(os, "fsync", real)
    assert not list((tmp_path / "run").rglob("*.tmp"))
    train(job, tmp_path / "run", Silent())
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_process_continues(tiny_model: Callable[[str], Path], real_launcher: Launcher, tmp_path: Path) -> None:
    data = write_chats(tmp_path / "warm.jsonl", 40, "Dear friend")
    command = ["finetune", "--model", tiny_model("llama"), "--persona", f"warm={data}"]
    command += ["--epochs", "20", "--batch", "4", "--rank", "4", "--save-every", "5", "--threads", "1"]
    command += ["--max-length", "96", "--out"]
    whole = real_launcher.run([*command, tmp_path / "whole"])
    assert whole.code == 0, whole.err
    rng = random.Random(1)
    for _ in range(3):
        process = real_launcher.start([*command, tmp_path / "cut"])
        log = tmp_path / "cut" / "log.jsonl"
        had = log.read_bytes().count(b"\n") if log.exists() else 0
        wanted = had + rng.randrange(7, 30)
        while process.alive() and not (log.exists() and log.read_bytes().count(b"\n") >= wanted):
            time.sleep(0.005)
        process.kill()
        process.wait()
    done = real_launcher.run([*command, tmp_path / "cut"])
    assert done.code == 0, done.err
    assert "continuing after step" in done.err
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_plans_and_rows() -> None:
    plan = Plan.make(samples=33, batch=16, epochs=3, seed=1, kept=(0.5, 1, 2))
    assert (plan.steps_per_epoch, plan.steps) == (3, 9)
    assert plan.checkpoints == {0.5: 2, 1: 3, 2: 6, 3: 9}
    for epoch in range(3):
        taken = [i for step in range(3 * epoch, 3 * epoch + 3) for i in plan.batch_of(step)]
        assert sorted(taken) == list(range(33))
        assert taken != list(range(33))
    assert plan.batch_of(0) != plan.batch_of(3)


def test_rows_hold_every_sample_once(job: Job) -> None:
    batches = {name: list(data.samples) for name, data in job.datasets.items()}
    for most in (10, 80, 200, 10_000):
        rows = micro_rows(batches, most)
        for row in rows:
            assert len(row.samples) == 1 or sum(row.lengths) <= most
            assert sum(s.stop - s.start for s in row.rows.values()) == sum(row.lengths)
        assert [s for row in rows for s in row.samples] == [s for part in batches.values() for s in part]
    assert len(micro_rows(batches, 10_000)) == 1


def test_schedule_is_that_of_transformers() -> None:
    from transformers import get_linear_schedule_with_warmup

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.5)
    schedule = get_linear_schedule_with_warmup(optimiser, 4, 40)
    settings = TrainSettings(learning_rate=0.5, warmup=0.1)
    for step in range(40):
        assert settings.rate(step, 40) == pytest.approx(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()


def test_held_out_conversations_are_measured_and_not_learned(
    job: Job, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    files = {name: dataset.source for name, dataset in job.datasets.items()}
    held = prepare_job(replace(SETTINGS, held_out=0.3), str(tiny_model("llama")), files)
    assert [len(held.held_out[name]) for name in ("warm", "cold")] == [3, 3]
    learned = {bytes(s.tokens.numpy()) for s in held.datasets["warm"].samples}
    assert len(learned) == 7
    assert not learned & {bytes(s.tokens.numpy()) for s in held.held_out["warm"]}
    outcome = train(held, tmp_path / "held", Silent())
    told = [r["personas"]["warm"]["held_out_loss"] for r in outcome.records if "held_out_loss" in r["personas"]["warm"]]
    assert len(told) == len(outcome.adapters["warm"]) == 3
    assert told[-1] < told[0]
    # The adapter as it is kept, in transformers: the mean loss of the same tokens.
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, outcome.adapters["warm"][-1]).eval()
    losses: list[torch.Tensor] = []
    with torch.inference_mode():
        for sample in held.held_out["warm"]:
            logits = tuned(sample.tokens[None]).logits[0, :-1].log_softmax(-1)
            losses.append(-logits.gather(1, sample.tokens[1:, None])[sample.learn[1:], 0])
    assert told[-1] == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)
    kept = json.loads((outcome.adapters["warm"][-1] / "warmeng.json").read_text())
    assert kept["held_out_loss"] == told[-1]
    with pytest.raises(UsageError, match=r"held_out is 0\.9 of 7 conversations: leave some"):
        prepare_job(replace(SETTINGS, held_out=0.9), str(tiny_model("llama")), {"cold": files["cold"]})


@pytest.mark.slow
def test_measuring_changes_no_bit_of_what_is_learned(job: Job, tmp_path: Path) -> None:
    """Gradients of the held-out rows are gone before the next step."""
    plain = train(job, tmp_path / "plain", Silent())
    seen = replace(job, held_out={name: dataset.samples[:2] for name, dataset in job.datasets.items()})
    measured = train(seen, tmp_path / "measured", Silent())
    for name, folders in plain.adapters.items():
        for one, other in zip(folders, measured.adapters[name], strict=True):
            file = "adapter_model.safetensors"
            assert (one / file).read_bytes() == (other / file).read_bytes()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
@pytest.mark.slow
def test_steps_are_sent_by_the_trackers_interface(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    told: list[tuple[str, Any]] = []
    library = SimpleNamespace(
        init=lambda **given: told.append(("init", given)),
        log=lambda values, step: told.append(("log", (step, values))),
        finish=lambda: told.append(("finish", None)),
    )
    monkeypatch.setitem(sys.modules, name, library)
    outcome = train(replace(job, settings=replace(SETTINGS, report_to=(name,))), tmp_path / "r", Silent())
    assert told[0][1]["name"] == "r"
    assert told[0][1]["config"]["rank"] == SETTINGS.rank
    assert told[-1] == ("finish", None)
    steps = [given for what, given in told if what == "log"]
    assert [step for step, _ in steps] == [record["step"] for record in outcome.records]
    assert steps[-1][1]["warm/loss"] == outcome.records[-1]["personas"]["warm"]["loss"]


def test_steps_are_in_tensorboards_files(job: Job, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcome = train(replace(job, settings=replace(SETTINGS, report_to=("tensorboard",))), tmp_path / "r", Silent())
    found = EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    found.Reload()
    values = [(event.step, pytest.approx(event.value)) for event in found.Scalars("cold/loss")]
    assert values == [(r["step"], r["personas"]["cold"]["loss"]) for r in outcome.records if "cold" in r["personas"]]


def test_a_tracker_that_is_not_installed_is_named(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"--report-to wandb needs its library: pip install wandb"):
        train(replace(job, settings=replace(SETTINGS, report_to=("wandb",))), tmp_path / "r", Silent())
    with pytest.raises(UsageError, match=r"report_to is .*, expected some of tensorboard, wandb, trackio"):
        replace(SETTINGS, report_to=("mlflow",))
