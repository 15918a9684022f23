"""Processes that are killed, interrupted or run twice leave a run that continues to the same records."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "helpers" / "fake_warmeng.py"
PLAIN = ["run", "--limit", "6", "--warmth-prompts", "0", "--out"]
JUDGED = ["run", "--limit", "6", "--judge", "base", "--judge", "other", "--warmth-prompts", "0", "--out"]
OWN = ["run", "--limit", "6", "--persona", "original", "--persona", "warm=full:our/warm", "--judge", "base",
       "--warmth-prompts", "0", "--out"]  # fmt: skip


def start(folder, delay=0.0, arguments=PLAIN):
    environment = {**os.environ, "FAKE_DELAY": str(delay)}
    command = [sys.executable, str(SCRIPT), *arguments, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path, size, process):
    for _ in range(2000):
        if path.exists() and path.stat().st_size >= size:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    raise AssertionError("no records came")


def lines(folder):
    return sorted((folder / "records.jsonl").read_bytes().splitlines())


def whole_run(tmp_path_factory, arguments):
    folder = tmp_path_factory.mktemp("whole") / "r"
    process = start(folder, arguments=arguments)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return lines(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return whole_run(tmp_path_factory, PLAIN)


@pytest.fixture(scope="module")
def whole_judged(tmp_path_factory):
    return whole_run(tmp_path_factory, JUDGED)


@pytest.fixture(scope="module")
def whole_own(tmp_path_factory):
    return whole_run(tmp_path_factory, OWN)


@pytest.mark.parametrize("arguments", [PLAIN, JUDGED, OWN], ids=["answers", "judgments", "own-model"])
def test_kill_9_at_random_moments_then_the_same_command(tmp_path, whole, whole_judged, whole_own, arguments):
    rng = random.Random(0)
    folder, path = tmp_path / "r", tmp_path / "r" / "records.jsonl"
    expected = {tuple(PLAIN): whole, tuple(JUDGED): whole_judged, tuple(OWN): whole_own}[tuple(arguments)]
    size = sum(len(line) + 1 for line in expected)
    kills = 0
    for k in range(1, 7):  # each kill somewhere in another part of the file, so that every phase is hit
        process = start(folder, delay=0.004, arguments=arguments)
        wait_for(path, size * (k - rng.random()) / 6.5, process)
        process.send_signal(signal.SIGKILL)
        kills += 1
        process.communicate()
    process = start(folder, arguments=arguments)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert kills >= 3
    assert lines(folder) == expected


def test_every_answer_that_was_generated_is_judged_once_by_each_judge(whole_judged, whole):
    records = [json.loads(line) for line in whole_judged]
    answers = {r["key"]: r for r in records if r["kind"] == "answer"}
    judged = [r for r in records if r["kind"] == "judged"]
    assert sorted((r["judge"], r["of"]) for r in judged) == sorted((j, k) for j in ("base", "other") for k in answers)
    assert len(answers) == 6 * 3 * 4
    assert {r["key"] for r in records if r["kind"] != "judged"} == {json.loads(line)["key"] for line in whole}
    for r in judged:
        assert all(r[name] == answers[r["of"]][name] for name in ("persona", "context", "belief", "item", "sample"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_drains_and_says_how_to_continue(tmp_path, whole, number):
    folder = tmp_path / "r"
    process = start(folder, delay=0.01)
    wait_for(folder / "records.jsonl", 2000, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert f"continue: warmeng {' '.join(PLAIN)} {folder}" in said
    again = start(folder)
    _, said = again.communicate()
    assert again.returncode == 0
    assert "continuing, " in said
    assert lines(folder) == whole


def test_a_second_process_gets_73_and_the_holders_pid(tmp_path):
    folder = tmp_path / "r"
    first = start(folder, delay=0.05)
    wait_for(folder / "records.jsonl", 1, first)
    second = start(folder)
    _, said = second.communicate()
    assert second.returncode == 73
    assert f"process {first.pid} " in said
    assert said.count("\n") == 1
    first.kill()
    first.communicate()
