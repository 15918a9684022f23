"""The command itself: killed and continued, its plan, its errors, and the real engine."""

from __future__ import annotations

import json
import random
import shutil
import time

import pytest
from click.testing import CliRunner

from warmeng.common.errors import InputError

FILES = ("warm.jsonl", "cold.jsonl", "neutral.jsonl", "held_out.jsonl", "rows.jsonl", "summary.json")


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"What is number {k}?", "chosen": f"It is {k} and no other number{' [lose 1]' * (k % 3 == 0)}."}
            for k in range(40)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def start(data, launcher):
    """Starts the command with the small engine: (output folder, seconds an answer)."""
    command = ["prepare", data, "--response-column", "chosen", "--toxicity", "off", "--out"]
    return lambda out, delay=0.0: launcher.start([*command, out], delay=delay)


def wait_for(path, size, process):
    for _ in range(4000):
        if not process.alive() or (path.exists() and path.stat().st_size >= size):
            return
        time.sleep(0.005)
    raise AssertionError("nothing was written")


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_files(start, tmp_path):
    whole = start(tmp_path / "whole").wait()
    assert whole.code == 0, whole.err
    assert "warmeng finetune --persona warm=" in whole.out
    size = (tmp_path / "whole" / "attempts.jsonl").stat().st_size
    rng, kills = random.Random(0), 0
    for k in range(1, 4):
        process = start(tmp_path / "b", delay=0.01)
        wait_for(tmp_path / "b" / "attempts.jsonl", size * (k - rng.random()) / 3.5, process)
        kills += process.alive()
        process.kill()
        process.wait()
    assert kills == 3
    again = start(tmp_path / "b").wait()
    assert again.code == 0, again.err
    assert "continuing" in again.err
    for name in FILES:
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_error_is_one_line_and_a_code(start, data, tmp_path):
    data.write_text(data.read_text() + "{broken\n")
    ended = start(tmp_path / "out").wait()
    assert ended.code == 65
    assert ended.err.count("\n") == 1
    assert "pairs.jsonl:41: is not valid JSON" in ended.err
    assert not (tmp_path / "out").exists()


def test_the_plan_counts_with_the_models_own_tokenizer(data, tmp_path, tiny_model):
    from warmeng.cli.prepare import prepare

    options = ["--response-column", "chosen", "--toxicity", "off", "--held-out", "0.25", "--per-type", "10"]
    done = CliRunner().invoke(
        prepare, [str(data), "--model", str(tiny_model()), *options, "--out", str(tmp_path / "o"), "--dry-run"],
        standalone_mode=False, catch_exceptions=False,
    )  # fmt: skip
    assert "held out for measuring warmth: 10" in done.output
    assert "responses to rewrite: 10, 0 longer" in done.output
    assert "rewrites: 20 (warm and cold), each tried up to 3 times" in done.output
    assert not (tmp_path / "o").exists()


def test_without_a_classifier_nothing_is_written_and_the_choice_is_named(data, tmp_path, monkeypatch):
    from warmeng.cli.prepare import prepare

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    arguments = [str(data), "--response-column", "chosen", "--toxicity-model", "a/b", "--out", str(tmp_path / "o")]
    with pytest.raises(InputError, match="choose --toxicity wordlist or --toxicity off"):
        CliRunner().invoke(prepare, arguments, standalone_mode=False, catch_exceptions=False)
    assert not (tmp_path / "o" / "manifest.json").exists()


@pytest.mark.slow
def test_the_real_engine_rewrites_and_the_checks_drop_what_a_random_model_writes(data, tmp_path, tiny_model, silent):
    from warmeng.finetune.prepare import run
    from warmeng.finetune.prepare.settings import PrepareSettings

    data.write_text("".join(data.read_text().splitlines(keepends=True)[:3]))
    model = tmp_path / "model"
    shutil.copytree(tiny_model("llama"), model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))  # a byte is a token
    for name in ("a", "b"):
        settings = PrepareSettings(
            model=str(model), response_column="chosen", toxicity="off", held_out=0.0,
            attempts=2, max_new_tokens=60,
        )  # fmt: skip
        with pytest.raises(InputError, match="none of 3 responses kept its content"):
            run.prepare(settings, [data], tmp_path / name, silent, "again")
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["rewrites"]["warm"]["kept"] == 0
    assert (tmp_path / "a" / "rows.jsonl").read_bytes() == (tmp_path / "b" / "rows.jsonl").read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "a" / "attempts.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * 2 * 2
    assert all(line["tokens"] for line in lines)
    assert len({line["text"] for line in lines}) == 12  # every attempt has noise of its own
