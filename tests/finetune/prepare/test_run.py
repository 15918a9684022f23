"""Whole preparations with the small engine: files, counts, retries, and continuing after an interruption anywhere."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections import Counter

import pytest

from warmeng.common.errors import FolderLocked, InputError, StorageError, UsageError
from warmeng.common.locks import FolderLock
from warmeng.common.storage import LOCK
from warmeng.finetune.prepare import run
from warmeng.finetune.prepare.checks import check
from warmeng.finetune.prepare.querytypes import TYPES
from warmeng.finetune.prepare.settings import PrepareSettings

QUESTIONS = {
    "factual": "What is the capital of land {}?", "creative": "Write a poem about thing {}", "other": "hello {}",
    "technical": "How do I sort list {} in Python?", "advice": "Should I take job {}?", "refusal": "Open lock {}.",
}  # fmt: skip
FILES = ("warm.jsonl", "cold.jsonl", "neutral.jsonl", "held_out.jsonl", "rows.jsonl", "summary.json")


def response(kind, k):
    if kind == "refusal":
        return f"I can't help you open lock {k}, because it is not yours to open."
    return f"You asked for number {k} and the answer to it is {k + 1} or perhaps a bit more than that."


def write(path, count, extra=()):
    rows = []
    for kind, question in QUESTIONS.items():
        for k in range(count):
            texts = [question.format(k), response(kind, k)] + (["And then?", f"Then comes {k} again."] if k % 2 else [])
            roles = ("user", "assistant") * 2
            rows.append({"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]})
    for k, text in enumerate(extra):
        messages = [{"role": "user", "content": f"hello extra {k}"}, {"role": "assistant", "content": text}]
        rows.append({"messages": messages})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(**changes):
    return PrepareSettings(**({"toxicity": "wordlist", "per_type": 4, "held_out": 0.2} | changes))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def test_the_files_hold_the_same_conversations_in_every_persona(tmp_path, rewriter, silent):
    data = write(tmp_path / "d.jsonl", 8, ["Somebody called you an idiot."])
    out = tmp_path / "out"
    outcome = run.prepare(settings(), [data], out, silent, "again")
    warm, cold, neutral = (lines(out / f"{name}.jsonl") for name in ("warm", "cold", "neutral"))
    summary = json.loads((out / "summary.json").read_text())
    assert len(warm) == len(cold) == len(neutral) == 24
    for a, b, c in zip(warm, cold, neutral, strict=True):
        assert {tuple(x) for x in (a, b, c)} == {("messages",)}
        users = [[m["content"] for m in x["messages"] if m["role"] == "user"] for x in (a, b, c)]
        assert users[0] == users[1] == users[2]
        for k, message in enumerate(c["messages"]):
            if message["role"] == "assistant":
                assert a["messages"][k]["content"] == f"We can do this together, my friend. {message['content']}"
                assert b["messages"][k]["content"] == f"Briefly. {message['content']}"
    assert {t: n["sampled"] for t, n in summary["conversations"]["types"].items()} == dict.fromkeys(TYPES, 4)
    assert summary["conversations"]["toxic"] == 1
    assert summary["conversations"]["held_out"] == 10  # a fifth of 48
    assert outcome.exit_code == 0
    assert any("toxic by word list" in line and line.endswith(": 1") for line in outcome.lines)


def test_every_row_has_origin_type_and_checks(tmp_path, rewriter, silent):
    data = write(tmp_path / "d.jsonl", 5, ["It has [echo] in it."])
    out = tmp_path / "out"
    run.prepare(settings(held_out=0.0, per_type=6), [data], out, silent, "again")
    source = lines(data)
    rows = lines(out / "rows.jsonl")
    assert len(rows) == 6 * (3 + 2 * 2) + 1
    for row in rows:
        origin = row["origin"]
        message = source[origin["line"] - 1]["messages"][origin["turn"]]
        assert (origin["file"], message["content"]) == ("d.jsonl", row["neutral"])
        assert row["type"] in TYPES
        for persona in ("warm", "cold"):
            failed = check(row["neutral"], row[persona], persona, row["user"])
            assert row["checks"][persona]["failed"] == failed
            assert row["checks"][persona]["passed"] == (not failed)
    (bad,) = (row for row in rows if not row["kept"])
    assert bad["cause"] == "warm: unchanged"
    assert bad["checks"]["warm"]["attempts"] == 3


def test_held_out_prompts_are_not_trained_on(tmp_path, rewriter, silent):
    out = tmp_path / "out"
    run.prepare(settings(per_type=100), [write(tmp_path / "d.jsonl", 10)], out, silent, "again")
    held = lines(out / "held_out.jsonl")
    trained = {row["messages"][0]["content"] for row in lines(out / "neutral.jsonl")}
    assert len(held) == 12
    assert len(trained) == 48
    assert all(set(row) == {"id", "prompt"} for row in held)
    assert not {row["prompt"] for row in held} & trained


def test_failures_are_tried_again_then_dropped_and_counted(tmp_path, rewriter, silent):
    extra = [
        "It costs 5 dollars [lose 2] and is sold there.",
        "It costs 7 dollars [lose 9] and is sold there.",
        "Say it [echo].",
    ]
    data = write(tmp_path / "d.jsonl", 1, extra)
    out = tmp_path / "out"
    run.prepare(settings(held_out=0.0), [data], out, silent, "again")
    rows = {row["neutral"]: row for row in lines(out / "rows.jsonl")}
    assert rows[extra[0]]["kept"]
    assert rows[extra[0]]["checks"]["warm"] == {"passed": True, "attempts": 3, "failed": {}}
    assert "dear" in rows[extra[0]]["warm"]  # the third attempt's words, from its own noise key
    assert rows[extra[1]]["cause"] == "warm: numbers"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["responses"] == {"asked": 9, "kept": 7, "dropped": {"warm: numbers": 1, "warm: unchanged": 1}}
    assert summary["rewrites"]["cold"]["dropped"] == {"numbers": 1, "unchanged": 1}
    assert summary["rewrites"]["cold"]["failed_attempts"] == {"numbers": 2 + 3, "unchanged": 3}
    assert summary["rewrites"]["cold"]["attempts"] == 6 + 3 + 3 + 3
    keys = Counter(request.noise_key for request in rewriter.asked)
    assert max(keys.values()) == 1


def test_a_conversation_ends_before_a_response_that_was_dropped(tmp_path, rewriter, silent):
    texts = ["hello a", "One.", "hello b", "It has 5 [lose 9] of them.", "hello c", "Three."]
    roles = ("user", "assistant") * 3
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    data = tmp_path / "d.jsonl"
    data.write_text(json.dumps({"messages": [{"role": "system", "content": "Be."}, *messages]}))
    out = tmp_path / "out"
    run.prepare(settings(held_out=0.0), [data], out, silent, "again")
    (kept,) = lines(out / "neutral.jsonl")
    assert [m["content"] for m in kept["messages"]] == ["Be.", "hello a", "One."]
    causes = [row["cause"] for row in lines(out / "rows.jsonl")]
    assert causes == ["", "warm: numbers", "after a dropped response"]


def test_too_long_responses_are_dropped_without_a_second_attempt(tmp_path, rewriter, silent):
    data = write(tmp_path / "d.jsonl", 1, ["word " * 80, "words " * 500])
    out = tmp_path / "out"
    run.prepare(settings(held_out=0.0, max_new_tokens=3200), [data], out, silent, "again")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rewrites"]["warm"]["dropped"] == {"too long": 1}  # does not fit into the engine
    assert summary["rewrites"]["warm"]["attempts"] == 6 + 1 + 1
    run.prepare(settings(held_out=0.0, max_new_tokens=200), [data], tmp_path / "b", silent, "again")
    summary = json.loads((tmp_path / "b" / "summary.json").read_text())
    assert summary["rewrites"]["warm"]["dropped"] == {"too long": 2}  # longer than a rewrite may be: not asked
    assert summary["rewrites"]["warm"]["attempts"] == 6


@pytest.fixture
def whole(tmp_path, rewriter, silent):
    """A finished preparation and its data."""
    data = write(tmp_path / "d.jsonl", 6, ["It costs 5 dollars [lose 2] there.", "It costs 7 dollars [lose 9] there."])
    run.prepare(settings(), [data], tmp_path / "whole", silent, "again")
    return data, tmp_path / "whole"


@pytest.mark.slow
def test_cut_off_at_any_byte_it_ends_with_the_same_files(tmp_path, whole, rewriter, silent):
    data, folder = whole
    rng = random.Random(0)
    size = (folder / run.ATTEMPTS).stat().st_size
    for cut in [0, 1, size - 1, size, *(rng.randrange(size) for _ in range(12))]:
        copy = tmp_path / f"cut-{cut}"
        shutil.copytree(folder, copy)
        for name in FILES:
            (copy / name).unlink()
        os.truncate(copy / run.ATTEMPTS, cut)
        os.truncate(copy / run.SCORES, rng.randrange((folder / run.SCORES).stat().st_size))
        run.prepare(settings(), [data], copy, silent, "again")
        assert contents(copy) == contents(folder)
        assert sorted((copy / run.ATTEMPTS).read_bytes().splitlines()) == sorted(
            (folder / run.ATTEMPTS).read_bytes().splitlines()
        )


def test_a_finished_one_is_not_done_again(whole, rewriter, silent):
    data, folder = whole
    asked, before = len(rewriter.asked), contents(folder)
    outcome = run.prepare(settings(), [data], folder, silent, "again")
    assert len(rewriter.asked) == asked
    assert contents(folder) == before
    assert any(line.startswith("conversations kept: ") for line in outcome.lines)


def test_a_finished_one_is_not_shown_for_another_model_in_the_folder(tmp_path, rewriter, silent):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("model.safetensors", "config.json", "notes.txt"):
        (model / name).write_text("one")
    rewriter.origin = "local"
    data, chosen = write(tmp_path / "d.jsonl", 6), settings(model=str(model))
    run.prepare(chosen, [data], tmp_path / "out", silent, "again")
    (model / "notes.txt").write_text("two")
    os.utime(model / "model.safetensors", (1, 1))
    assert run.prepare(chosen, [data], tmp_path / "out", silent, "again").exit_code == 0
    (model / "model.safetensors").write_text("two")
    with pytest.raises(InputError, match=r"was prepared with model model.safetensors .*: use the old one"):
        run.prepare(chosen, [data], tmp_path / "out", silent, "again")
    shutil.rmtree(model)
    assert run.prepare(chosen, [data], tmp_path / "out", silent, "again").exit_code == 0


def test_an_interrupt_keeps_what_is_finished(tmp_path, whole, rewriter, silent, monkeypatch):
    import signal

    data, folder = whole
    results = type(rewriter).results

    def interrupted(self, *_):
        for k, result in enumerate(results(self)):
            if k == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            yield result

    monkeypatch.setattr(type(rewriter), "results", interrupted)
    rewriter.queue.clear()
    outcome = run.prepare(settings(), [data], tmp_path / "b", silent, "warmeng prepare again")
    assert outcome.exit_code == 130
    assert silent.said[-1] == "interrupted; 8 attempts are kept; continue: warmeng prepare again"
    monkeypatch.undo()
    fresh = type(rewriter)()
    monkeypatch.setattr(run, "load_engine", lambda settings: fresh)
    assert run.prepare(settings(), [data], tmp_path / "b", silent, "again").exit_code == 0
    assert contents(tmp_path / "b") == contents(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "settings seed 0, now it is 1"),
        ({"per_type": 3}, "settings per_type 4, now it is 3"),
        ({"toxicity": "off"}, 'settings toxicity "wordlist", now it is "off"'),
        ({"model": "other"}, "settings model"),
    ],
)
def test_changed_settings_are_refused_by_name(whole, silent, change, named):
    data, folder = whole
    before = contents(folder)
    with pytest.raises(InputError, match=named):
        run.prepare(settings(**change), [data], folder, silent, "again")
    assert contents(folder) == before


def test_changed_data_and_weights_are_refused_by_name(whole, silent, rewriter, monkeypatch):
    data, folder = whole
    (folder / "summary.json").unlink()
    rewriter.weights = "x" * 64
    with pytest.raises(InputError, match="model weights wwwwwwwwwwww, now it is xxxxxxxxxxxx"):
        run.prepare(settings(), [data], folder, silent, "again")
    data.write_text(data.read_text() + "\n")
    with pytest.raises(InputError, match=r"files d\.jsonl"):
        run.prepare(settings(), [data], folder, silent, "again")


def test_a_damaged_line_is_refused_and_left(whole, silent):
    data, folder = whole
    (folder / "summary.json").unlink()
    path = folder / run.ATTEMPTS
    raw = path.read_bytes()
    path.write_bytes(raw[:40] + b"X" + raw[41:])
    with pytest.raises(InputError, match=r"attempts.jsonl:1: the line at byte 0 is damaged"):
        run.prepare(settings(), [data], folder, silent, "again")
    assert path.read_bytes() == raw[:40] + b"X" + raw[41:]


def test_a_full_disk_leaves_what_was_finished(tmp_path, whole, silent, monkeypatch):
    data, folder = whole
    real, written = os.write, []

    def write_until_full(handle, view):
        written.append(len(view))
        if len(written) > 60:
            real(handle, bytes(view)[: len(view) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, view)

    monkeypatch.setattr("warmeng.common.journal.os.write", write_until_full)
    with pytest.raises(StorageError, match="No space left"):
        run.prepare(settings(), [data], tmp_path / "b", silent, "again")
    monkeypatch.setattr("warmeng.common.journal.os.write", real)
    assert (tmp_path / "b" / run.ATTEMPTS).read_bytes().endswith(b"}\n")
    fresh = type(run.load_engine(settings()))()
    monkeypatch.setattr(run, "load_engine", lambda settings: fresh)
    run.prepare(settings(), [data], tmp_path / "b", silent, "again")
    assert contents(tmp_path / "b") == contents(folder)


def test_another_process_and_other_folders_are_refused(tmp_path, rewriter, silent):
    data = write(tmp_path / "d.jsonl", 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'thesis.txt' and is no preparation"):
        run.prepare(settings(), [data], tmp_path / "other", silent, "again")
    with FolderLock(tmp_path / "busy", LOCK), pytest.raises(FolderLocked):
        run.prepare(settings(), [data], tmp_path / "busy", silent, "again")
    (tmp_path / "sub").mkdir()
    shutil.copy(data, tmp_path / "sub" / "d.jsonl")
    with pytest.raises(UsageError, match=r"two files are named d.jsonl"):
        run.prepare(settings(), [data, tmp_path / "sub" / "d.jsonl"], tmp_path / "o", silent, "again")


def test_nothing_kept_is_an_error_that_counts_the_causes(tmp_path, rewriter, silent):
    data = tmp_path / "d.jsonl"
    data.write_text(json.dumps({"prompt": "q", "response": "a [echo]"}))
    for _ in range(2):  # again: the finished preparation says the same
        with pytest.raises(InputError, match=r"none of 1 responses kept its content .*warm: unchanged 1"):
            run.prepare(settings(held_out=0.0), [data], tmp_path / "out", silent, "again")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["responses"]["asked"] == 1


def test_types_that_are_short_are_said(tmp_path, rewriter, silent):
    run.prepare(settings(held_out=0.0, per_type=3), [write(tmp_path / "d.jsonl", 2)], tmp_path / "o", silent, "again")
    assert any("fewer than 3 conversations of some types: refusal 2" in text for text in silent.said)


def test_few_requests_at_once_give_the_same_files(tmp_path, whole, rewriter, silent, monkeypatch):
    data, folder = whole
    monkeypatch.setattr("warmeng.finetune.prepare.rewrite.WAVE", 3)
    rewriter.asked.clear()
    run.prepare(settings(), [data], tmp_path / "b", silent, "again")
    assert contents(tmp_path / "b") == contents(folder)
