"""One process writes a folder: a second one gets its number and exit 73; the dead hold nothing."""

from __future__ import annotations

import fcntl
import os
import time

import pytest
from studies import RECORDS, lines, one_line, snapshot, study, write_quiz

from warmeng.common import locks
from warmeng.common.errors import FolderLocked
from warmeng.common.files import sweep
from warmeng.common.locks import FolderLock

LOCKED = 73


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    return study(write_quiz(tmp_path_factory.mktemp("study") / "quiz.jsonl"))


@pytest.fixture(scope="module")
def whole(command, launcher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "r"
    assert launcher.run([*command, folder]).code == 0
    return lines(folder)


def until(condition, process):
    end = time.monotonic() + 30
    while not condition():
        assert process.alive(), process.err.read_text()
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.slow
def test_a_second_process_gets_73_and_the_number_of_the_first(command, whole, launcher, tally, tmp_path):
    folder = tmp_path / "r"
    first = launcher.start([*command, folder], delay=0.02)
    until(lambda: len(lines(folder)) > 3, first)
    for _ in range(3):
        second = launcher.run([*command, folder])
        assert second.code == LOCKED
        assert f"process {first.pid} is writing this run: wait for it, or choose another --out" in one_line(second.err)
    assert first.wait().code == 0
    tally.count(folder, whole)
    assert not (folder / "run.lock").exists()


@pytest.mark.slow
def test_many_at_once_leave_one_run(command, whole, launcher, tally, tmp_path, count):
    """Of processes that begin within the same milliseconds one writes; whoever is refused changes nothing."""
    for k in range(count(4, 40, quick=2)):
        folder = tmp_path / f"r{k}"
        processes = [launcher.start([*command, folder], delay=0.002) for _ in range(4)]
        codes = sorted(process.wait().code for process in processes)
        assert set(codes) <= {0, LOCKED}, [p.err.read_text() for p in processes]
        assert codes[0] == 0
        tally.count(folder, whole)


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_no_obstacle(command, whole, launcher, tally, tmp_path):
    folder = tmp_path / "r"
    first = launcher.start([*command, folder], delay=0.02)
    until(lambda: len(lines(folder)) > 3, first)
    first.kill()
    first.wait()
    assert (folder / "run.lock").read_text() == str(first.pid)
    ended = launcher.run([*command, folder])
    assert ended.code == 0, ended.err
    tally.count(folder, whole)
    (folder / RECORDS).write_bytes(b"".join(whole[:9]))
    (folder / "run.lock").write_text("1")  # the number of a process that lives
    ended = launcher.run([*command, folder])
    assert ended.code == 0, ended.err
    tally.count(folder, whole)


REFUSED = {
    "no such judge": (["--judge", "/nowhere/model"], 65),
    "a poor judge": (["--judge", "poor"], 65),
    "no such adapter": (["--persona", "original", "--persona", "x={root}/empty"], 65),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refused_run_leaves_nothing_behind(command, real_or_fake, tmp_path, what):
    options, code = REFUSED[what]
    (tmp_path / "empty").mkdir()
    options = [option.format(root=tmp_path) for option in options]
    ended = real_or_fake(what, [*command[:-1], *options, "--out", tmp_path / "runs" / "r"])
    assert ended.code == code, ended.err
    one_line(ended.err)
    assert not (tmp_path / "runs").exists(), snapshot(tmp_path)


@pytest.fixture
def real_or_fake(launcher):
    """Run with the small engine; names that no model has, and judges that know too little, are refused there too."""

    def run(what, arguments):
        changes = {"refuses": "/nowhere/model"} if what == "no such judge" else {}
        if what == "a poor judge":
            changes = {"ignorant": "poor"}
        return launcher.run(arguments, changes=changes)

    return run


def test_a_preparation_is_locked_too(launcher, tmp_path):
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(f'{{"prompt": "Cook {k} eggs?", "response": "Boil {k}."}}\n' for k in range(9)))
    command = ["prepare", chats, "--toxicity", "off", "--per-type", "0", "--held-out", "0", "--out", tmp_path / "p"]
    first = launcher.start(command, delay=0.05)
    until(lambda: (tmp_path / "p" / "attempts.jsonl").exists(), first)
    second = launcher.run(command)
    assert second.code == LOCKED
    assert f"process {first.pid}" in one_line(second.err)
    assert first.wait().code == 0
    assert not [name for name in os.listdir(tmp_path / "p") if name.startswith(".")]


def test_a_lock_that_is_let_go_between_opening_and_locking_it_is_made_again(tmp_path, monkeypatch):
    """What is locked then is a file that nobody finds any more: it would hold nobody off."""
    first = FolderLock(tmp_path / "r", "run.lock")
    real, calls = fcntl.flock, []

    def flock(handle, how):
        if not calls:
            calls.append(handle)
            first.release()
        real(handle, how)

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    again = FolderLock(tmp_path / "r", "run.lock")
    with again, pytest.raises(FolderLocked, match=f"process {os.getpid()} is writing"):
        FolderLock(tmp_path / "r", "run.lock")
    assert not (tmp_path / "r" / "run.lock").exists()


def test_only_what_the_dead_left_is_swept_away(tmp_path):
    (tmp_path / "tables").mkdir()
    dead, alive, others = f".a.csv.{2**22 + 7}.tmp", f".a.csv.{os.getpid()}.tmp", ".a.csv.tmp"
    for folder in (tmp_path, tmp_path / "tables"):
        for name in (dead, alive, others, "a.csv"):
            (folder / name).write_text("")
    (tmp_path / f".epoch-1.{2**22 + 7}.old").mkdir()
    sweep(tmp_path)
    for folder in (tmp_path, tmp_path / "tables"):
        assert {path.name for path in folder.iterdir()} - {"tables"} == {alive, others, "a.csv"}
