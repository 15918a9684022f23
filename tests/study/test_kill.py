"""Processes that are killed, interrupted or run twice leave a run that continues to the same records."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "fake_warmeng.py"
ARGUMENTS = ["run", "--limit", "6", "--out"]


def start(folder, delay=0.0):
    environment = {**os.environ, "FAKE_DELAY": str(delay)}
    command = [sys.executable, str(SCRIPT), *ARGUMENTS, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path, size, process):
    for _ in range(2000):
        if path.exists() and path.stat().st_size >= size:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    raise AssertionError("no records came")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "r"
    assert start(folder).wait() == 0
    return sorted((folder / "records.jsonl").read_bytes().splitlines())


def test_kill_9_at_random_moments_then_the_same_command(tmp_path, whole):
    rng = random.Random(0)
    folder, kills = tmp_path / "r", 0
    for _ in range(6):
        process = start(folder, delay=0.004)
        time.sleep(0.15 + rng.random() * 0.6)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    process = start(folder)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert kills >= 3
    assert sorted((folder / "records.jsonl").read_bytes().splitlines()) == whole


def test_one_interrupt_drains_and_says_how_to_continue(tmp_path, whole):
    folder = tmp_path / "r"
    process = start(folder, delay=0.01)
    wait_for(folder / "records.jsonl", 2000, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert f"continue: warmeng run --limit 6 --out {folder}" in said
    again = start(folder)
    _, said = again.communicate()
    assert again.returncode == 0
    assert "continuing, " in said
    assert sorted((folder / "records.jsonl").read_bytes().splitlines()) == whole


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
