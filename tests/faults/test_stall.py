"""A run that hangs says where, keeps its records and can be continued; one that is only slow goes on.

All processes are started together, because most of their time is waiting.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import time

import pytest
from tiers import slow

PATIENCE = 1  # seconds
HANGS = {  # setups of processes that hang
    "sleep": ["hang_after", 40, "sleep"],
    "native": ["hang_after", 40, "native"],
    "lock": ["hang_after", 40, "lock"],
    "python": ["hang_after", 40, "python"],
    "write": ["hang_after", 7, "sleep", "write"],  # a disk that hangs, with the records' lock held
    "judge": ["hang_after", 40, "sleep"],  # a judge that hangs while it is examined
}
SLOW = {  # setups of processes that only look like it
    "loading": ["slow", 2.5, "loading"],
    "steps": ["slow", 2.5, "steps"],
    "stopped": ["stop_and_go", 20],
}


def arguments(folder, *more):
    return ["run", "--limit", "3", "--warmth-prompts", "0", *more, "--out", folder]


def lines(folder, name="records.jsonl"):
    return sorted((folder / name).read_bytes().splitlines())


@pytest.fixture(scope="module")
def whole(launcher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "r"
    assert launcher.run(arguments(folder)).code == 0
    return lines(folder)


@pytest.fixture(scope="module")
def started(launcher, tmp_path_factory):
    """Every process by name: (process, folder, arguments, when it began)."""
    root = tmp_path_factory.mktemp("stalls")
    found = {}
    for name, setup in {**HANGS, **SLOW, "patient": HANGS["sleep"]}.items():
        more = ["--judge", "base"] if name == "judge" else []
        patience = 0 if name == "patient" else PATIENCE
        command = arguments(root / name, "--stall-seconds", patience, *more)
        process = launcher.start(command, setup=["res_hanging", *setup])
        found[name] = (process, root / name, command, time.monotonic())
    yield found
    for process, *_ in found.values():
        if process.pid:
            process.kill(signal.SIGKILL)


def ended(started, name):
    process = started[name][0]
    found = process.wait(30)
    process.pid = 0
    return found


@pytest.mark.parametrize("name", [*list(HANGS)[:2], *slow(*list(HANGS)[2:])])
def test_what_hangs_is_reported_and_the_run_continues(launcher, started, whole, name):
    _, folder, command, began = started[name]
    found = ended(started, name)
    took = time.monotonic() - began
    assert found.code == 75, found.err
    assert PATIENCE <= took < PATIENCE + 20
    assert "Traceback" not in found.err
    (told,) = re.findall(r"continue with: (warmeng .*) \(", found.err)
    assert shlex.split(told)[1:] == list(map(str, command))
    report = (folder / "stalled.txt").read_text()
    assert report in found.err
    main = report.split("\nthread ")[1]
    assert main.startswith("MainThread")
    assert ("in stuck" if name == "write" else "in results") in main
    assert f"in {HANGS[name][2]}" in main  # the innermost frame that Python knows
    assert "thread journal-fsync" in report
    if name == "judge":
        assert len(lines(folder, "preparation.jsonl")) == 40
        done = launcher.run(command)
        assert (done.code, len(lines(folder, "preparation.jsonl"))) == (0, 160), done.err
        return
    assert len(lines(folder)) == HANGS[name][1]
    assert set(lines(folder)) < set(whole)
    done = launcher.run(arguments(folder))  # also with another patience: it is no input of the study
    assert done.code == 0, done.err
    assert f"continuing, {HANGS[name][1]} of" in done.err
    assert lines(folder) == whole


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.slow
def test_what_is_slow_or_was_stopped_for_a_while_goes_on(started, whole, name):
    process, folder, *_ = started[name]
    if name == "stopped":
        end = time.monotonic() + 20
        while state(process.pid) != "T":
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(3 * PATIENCE)
        process.kill(signal.SIGCONT)
    found = ended(started, name)
    assert found.code == 0, found.err
    assert lines(folder) == whole
    assert not (folder / "stalled.txt").exists()


def test_zero_waits_for_ever_and_patience_is_no_input(launcher, started, whole):
    process, folder, _, began = started["patient"]
    time.sleep(max(0.0, began + 2.5 * PATIENCE - time.monotonic()))
    assert process.alive()
    process.kill(signal.SIGKILL)
    ended(started, "patient")
    assert "stall_seconds" not in json.dumps(json.loads((folder / "manifest.json").read_text())["inputs"])
    assert launcher.run(arguments(folder)).code == 0
    assert lines(folder) == whole


def state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
