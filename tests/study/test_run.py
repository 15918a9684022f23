"""A whole run with the small engine: it ends in tables, continues, and refuses what changed."""

import dataclasses
import json
import os
import signal

import orjson
import pytest
from fakes import user_text

from warmeng.engine.errors import InputError
from warmeng.study.progress import Silent
from warmeng.study.records import FILE, RunLock, RunLocked, encode, read_records
from warmeng.study.run import run_study
from warmeng.study.settings import StudySettings
from warmeng.study.table import markdown

SMALL = StudySettings(limit=3)


class Heard(Silent):
    """Keeps what was said, and interrupts after some answers."""

    def __init__(self, stop_after=None):
        self.lines, self.count, self.stop_after = [], 0, stop_after

    def message(self, text):
        self.lines.append(text)

    def advance(self, persona, work, output_tokens, prompt_tokens):
        self.count += 1
        if self.count == self.stop_after:
            os.kill(os.getpid(), signal.SIGINT)


def go(folder, settings=SMALL, progress=None):
    return run_study(settings, folder, progress or Heard(), "warmeng run")


def content(folder):
    return sorted((folder / FILE).read_bytes().splitlines())


def test_a_run_ends_in_tables_that_count_every_answer(fake, tmp_path):
    outcome = go(tmp_path / "r")
    assert outcome.exit_code == 0
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    assert results["run"]["planned"] == sum(results["grades"].values()) == 144
    assert results["run"]["missing"] == 0
    assert results["run"]["default_system"] == "You are a fake."
    assert results["run"]["adds_default_system"] == ["original"]
    for name in ("accuracy", "sycophancy", "difference"):
        for row in results[name]:
            assert row["n"] == 0 or row["low"] <= row["value"] <= row["high"]
    text = (tmp_path / "r" / "results.md").read_text()
    assert "| original | emotion:sad | wrong |" in text
    assert "Planned 144 = " in text
    assert "You are a fake." in text


def test_sycophancy_is_found_where_it_was_planted(fake, tmp_path):
    def answer(prompt, request):
        warm = "caring" in prompt
        user = user_text(prompt)
        if warm and "I think the answer is" in user:
            return user.rpartition("I think the answer is")[2]
        return "Paris." if "France" in user else "I am not sure."

    fake.answer = answer
    fake.prefers = lambda prompt, label: (
        -1.0
        if label[1:-1] in user_text(prompt).rpartition("I think the")[2] and "caring" in prompt
        else -9.0 * len(label)
    )
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "1", "question": "Capital of France?", "answer": "Paris", "wrong": "Lyon"}\n')
    settings = dataclasses.replace(SMALL, tasks=(str(path),), contexts=("unmodified",))
    results = go(tmp_path / "r", settings).results
    rows = {r["persona"]: r for r in results["sycophancy"] if r["task"] == "all"}
    assert (rows["original"]["value"], rows["warm-prompt"]["value"], rows["cold-prompt"]["value"]) == (0.0, 1.0, 0.0)
    assert rows["warm-prompt"]["drop_value"] == 100.0


def test_a_finished_run_prints_again_without_a_model(fake, tmp_path):
    go(tmp_path / "r")
    before = content(tmp_path / "r")
    heard = Heard()
    assert go(tmp_path / "r", progress=heard).exit_code == 0
    assert len(fake.loads) == 1
    assert "finished" in heard.lines[0]
    assert content(tmp_path / "r") == before


@pytest.mark.parametrize("after", [1, 50, 143])
def test_an_interrupt_keeps_what_is_done_and_the_same_command_continues(fake, tmp_path, after):
    go(tmp_path / "whole")
    first = Heard(stop_after=after)
    outcome = go(tmp_path / "r", progress=first)
    assert (outcome.exit_code, outcome.results) == (130, None)
    assert f"{after} of 144" in first.lines[-1]
    assert len(content(tmp_path / "r")) == after
    fake.queue.clear()
    second = Heard()
    assert go(tmp_path / "r", progress=second).exit_code == 0
    assert any(f"continuing, {after} of 144" in line for line in second.lines)
    assert second.count == 144 - after
    assert content(tmp_path / "r") == content(tmp_path / "whole")


def test_a_torn_line_is_cut_with_a_message_and_asked_again(fake, tmp_path):
    go(tmp_path / "r")
    path = tmp_path / "r" / FILE
    data = path.read_bytes()
    path.write_bytes(data[:-7])
    heard = Heard()
    go(tmp_path / "r", progress=heard)
    assert any("cut an unfinished last line of" in line for line in heard.lines)
    assert sorted(path.read_bytes().splitlines()) == sorted(data.splitlines())


def test_a_changed_input_is_refused_by_name(fake, tmp_path):
    folder = tmp_path / "r"
    items = tmp_path / "t.jsonl"
    row = {"id": "1", "question": "Q?", "answer": "yes", "wrong": "no"}
    items.write_text(json.dumps(row))
    prompt = tmp_path / "p.txt"
    prompt.write_text("Be nice.")
    adapter = tmp_path / "a"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"one")
    settings = dataclasses.replace(SMALL, tasks=(str(items),), personas=("original", f"x={adapter}@{prompt}"))
    go(folder, settings, Heard(stop_after=2))
    fake.queue.clear()

    def refused(match, **changes):
        with pytest.raises(InputError, match=match) as error:
            go(folder, dataclasses.replace(settings, **changes))
        assert "\n" not in str(error.value)
        fake.queue.clear()

    refused("setting seed 0, now it is 1", seed=1)
    refused("setting temperature", temperature=0.5)
    items.write_text(json.dumps({**row, "answer": "surely"}))
    refused("items t ")
    items.write_text(json.dumps(row))
    prompt.write_text("Be kind.")
    refused("system prompt x")
    prompt.write_text("Be nice.")
    (adapter / "adapter_model.safetensors").write_bytes(b"two")
    refused("adapter x")
    (adapter / "adapter_model.safetensors").write_bytes(b"one")
    fake.weights = "x" * 64
    refused("model weights")
    fake.weights = "w" * 64
    fake.tokenizer.template_hash = "v" * 64
    refused("template")
    fake.tokenizer.template_hash = "t" * 64
    assert go(folder, settings).exit_code == 0


def test_folders_of_something_else_are_refused(fake, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.doc").write_text("")
    with pytest.raises(InputError, match=r"thesis.doc"):
        go(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="not a manifest"):
        go(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / FILE).write_text("")
    with pytest.raises(InputError, match="no manifest"):
        go(tmp_path / "c")
    with pytest.raises(InputError, match="not a folder"):
        go(tmp_path / "a" / "thesis.doc")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["thesis.doc"]
    assert not fake.loads


def test_a_run_that_is_being_written_is_locked(fake, tmp_path):
    with RunLock(tmp_path / "r"), pytest.raises(RunLocked):
        go(tmp_path / "r")


@pytest.mark.parametrize(("content_", "moves"), [(b"zero", 1.0), (b"one", 0.0), (b"one", float("nan"))])
def test_an_adapter_that_is_not_applied_stops_the_run(fake, tmp_path, content_, moves):
    (tmp_path / "adapter_model.safetensors").write_bytes(content_)
    fake.moves = moves
    settings = dataclasses.replace(SMALL, personas=("original", f"warm={tmp_path}"))
    with pytest.raises(InputError, match=r"persona warm: .* is not applied"):
        go(tmp_path / "r", settings)
    assert not (tmp_path / "r" / "manifest.json").exists()


def test_an_applied_adapter_is_in_the_report(fake, tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"one")
    outcome = go(tmp_path / "r", dataclasses.replace(SMALL, personas=("original", f"warm={tmp_path}")))
    assert outcome.results["run"]["gates"]["warm"]["probe"] == 1.0
    assert {r.adapter for r in fake.asked} == {None, "warm"}
    assert "Adapter of warm is applied" in markdown(outcome.results)


def test_a_prompt_that_is_too_long_is_a_record_with_that_status(fake, tmp_path):
    fake.config = dataclasses.replace(fake.config, max_seq_len=400)
    results = go(tmp_path / "r").results
    assert results["grades"]["unscored"] == 96
    long = next(r for r in read_records(tmp_path / "r" / FILE) if r["grade"] == "unscored")
    assert (long["status"], long["reason"]) == ("too_long", "too_long")
    assert results["run"]["missing"] == 0


@pytest.mark.parametrize("strangers", [1, 2])
def test_records_that_are_not_of_the_plan_are_refused(fake, tmp_path, strangers):
    go(tmp_path / "r")
    path = tmp_path / "r" / FILE
    stranger = next(read_records(path))
    del stranger["crc32"]
    lines = path.read_bytes().splitlines(keepends=True)[:-2]
    lines += [encode({**stranger, "key": f"{k:032x}"}) for k in range(strangers)]
    path.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=f"has {142 + strangers} records where the plan knows"):
        go(tmp_path / "r")
    assert path.read_bytes() == b"".join(lines)


def test_records_hold_nothing_of_time_or_batch(fake, tmp_path):
    go(tmp_path / "r")
    record = next(read_records(tmp_path / "r" / FILE))
    assert not {"cached_tokens", "seconds", "time"} & set(record)
    session = orjson.loads((tmp_path / "r" / "sessions.jsonl").read_bytes())
    assert session["records"] == 144
