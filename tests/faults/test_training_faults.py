"""A training run that is killed, or whose disk is full, continues to the same adapters, byte for byte."""

from __future__ import annotations

import errno

import pytest
from injecting import Plan, read_log
from studies import fresh, one_line, snapshot

TIMED = ("log.jsonl",)  # has each step's seconds


@pytest.fixture(scope="module")
def training(tiny_model, real_launcher, tmp_path_factory):
    """A command line, the folder that it writes, what an uninterrupted run leaves there, and its events."""
    root = tmp_path_factory.mktemp("training")
    chats = "".join(
        f'{{"prompt": "How are {k} eggs cooked?", "response": "Boil them {k + 5} minutes."}}\n' for k in range(4)
    )
    (root / "chats.jsonl").write_text(chats)
    folder = root / "r"
    command = ["finetune", "--model", tiny_model("llama"), "--persona", f"warm={root / 'chats.jsonl'}", "--out", folder,
               "--rank", "2", "--epochs", "1", "--batch", "1", "--checkpoints", "0.5,1", "--save-every", "1",
               "--max-length", "128", "--threads", "1"]  # fmt: skip
    ended = real_launcher.run(command, Plan(str(folder), log=str(root / "log")))
    assert ended.code == 0, ended.err
    found = [event for event in read_log(root / "log") if event[1] != "create"]
    return command, folder, settled(folder), found


def settled(folder):
    return {name: value for name, value in snapshot(folder).items() if name not in TIMED}


@pytest.mark.slow
def test_killed_at_any_change_it_ends_with_the_same_adapters(training, real_launcher, tally, tmp_path, count):
    command, folder, whole, found = training
    step = count(len(found) // 4, 1, quick=len(found) // 2)
    for k in sorted({*range(3, len(found), step), len(found) - 1}):  # the last one always
        for moment in ("before", "middle") if found[k][1] == "write" else ("before",):
            fresh(folder)
            plan = Plan(str(folder), at=k, kill=moment)
            assert real_launcher.run(command, plan).code == -9
            ended = real_launcher.run(command)
            assert ended.code == 0, (k, found[k][1:3], ended.err)
            assert settled(folder) == whole, (k, moment, found[k][1:3])
            tally.injected += 1
            tally.expected += 4  # steps


@pytest.mark.slow
def test_killed_at_its_first_files(training, real_launcher, tally, count):
    """Before there is a manifest the folder still is this run's."""
    command, folder, whole, found = training
    first = next(
        k for k, (_, kind, path, *_) in enumerate(found) if kind == "replace" and path.endswith("manifest.json")
    )
    for k in range(0, first + 1, count(3, 1)):
        fresh(folder)
        assert real_launcher.run(command, Plan(str(folder), at=k, kill="before")).code == -9
        ended = real_launcher.run(command)
        assert ended.code == 0, ended.err
        assert settled(folder) == whole
        tally.injected += 1


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_finished(training, real_launcher, tally, count):
    command, folder, whole, found = training
    kinds = ("write", "mkdir", "replace")
    total = sum(kind in kinds for _, kind, *_ in found)
    for k in range(1, total, count(total // 3, 2, quick=total // 2)):
        fresh(folder)
        plan = Plan(str(folder), kinds=kinds, at=k, error=errno.ENOSPC, lasting=True)
        ended = real_launcher.run(command, plan)
        assert ended.code == 74, (k, ended.err)
        line = one_line(ended.err)
        assert "No space left on device" in line
        assert "what was finished before is intact" in line
        assert line.endswith("then give the same command again")
        ended = real_launcher.run(command)
        assert ended.code == 0, (k, ended.err)
        assert settled(folder) == whole
        tally.injected += 1
