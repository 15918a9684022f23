"""A power loss at any moment takes one second or 100 records at most, and the same command continues."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from injecting import Plan, read_log
from power import WAYS, Disk, exposed
from studies import RECORDS, fresh, keys, lines, study, write_quiz

SLACK = 0.5  # seconds for a busy machine to come round to the fsync that is due


@pytest.fixture(scope="module")
def logged(tmp_path_factory, launcher):
    """A function from a study's options to (folder, command line, events) of an uninterrupted run, each made once."""
    made = {}

    def get(*more, delay=0.0):
        if (more, delay) not in made:
            folder = tmp_path_factory.mktemp("logged")
            command = study(write_quiz(folder / "quiz.jsonl"), *more)
            plan = Plan(str(folder / "disk"), log=str(folder / "log"), acks=str(folder / "acks"))
            (folder / "disk").mkdir()
            ended = launcher.run([*command, folder / "disk" / "runs" / "r"], plan, delay=delay)
            assert ended.code == 0, ended.err
            made[more, delay] = folder / "disk", command, read_log(folder / "log")
        return made[more, delay]

    return get


@pytest.mark.slow
def test_a_power_loss_at_any_moment_is_continued_from(logged, launcher, tally, tmp_path, count):
    root, command, events = logged("--limit", "4")
    whole = lines(root / "runs" / "r")
    disk, wanted, most = Disk(str(root)), count(17, 3, quick=61), 0
    acknowledged: set[str] = set()
    for k, (_, kind, path, data, more) in enumerate(events):
        disk.apply(kind, path, data, more)
        if kind == "ack":
            acknowledged.add(data.decode())
        if kind in ("ack", "failed") or not (k % wanted == 0 or kind == "replace"):
            continue
        for way in WAYS if count(False, True) else (WAYS[k % len(WAYS)],):
            place = fresh(tmp_path / "disk")
            place.mkdir()
            disk.leave(place, way)
            folder = place / "runs" / "r"
            lost = acknowledged - keys(folder)
            most = max(most, len(lost))
            assert len(lost) <= 100, (k, way)
            ended = launcher.run([*command, folder])
            assert ended.code == 0, (k, way, ended.err)
            tally.count(folder, whole)
            shutil.rmtree(place)
    tally.others["most records a power loss took"] = most


@pytest.mark.slow
def test_what_a_finished_run_wrote_is_durable(launcher, tmp_path):
    """Its records, tables, report and figures: everything but the times of its sessions."""
    root = tmp_path / "disk"
    root.mkdir()
    command = study(write_quiz(tmp_path / "quiz.jsonl"))
    ended = launcher.run([*command, root / "r"], Plan(str(root), log=str(tmp_path / "log")), conclude=True)
    assert ended.code == 0, ended.err
    disk = Disk(str(root))
    for _, kind, path, data, more in read_log(tmp_path / "log"):
        disk.apply(kind, path, data, more)
    names = {name for name in disk.names if not name.endswith("/sessions.jsonl")}
    assert {str(path) for path in root.rglob("*")} - {f"{root}/r/sessions.jsonl"} == names
    assert len(names) > 20
    for name in names:
        assert name in disk.durable, f"{name} is gone after a power loss"
        file = disk.names[name]
        assert disk.durable[name] is file, f"{name} is an older one after a power loss"
        if file is not None:
            assert file.durable == file.live == Path(name).read_bytes(), name


@pytest.mark.parametrize(("more", "delay"), [(("--limit", "24"), 0.0), ((), 0.03)], ids=["fast", "slow"])
@pytest.mark.slow
def test_at_most_a_second_or_a_hundred_records_are_written_but_not_durable(logged, tally, more, delay):
    _, _, events = logged(*more, delay=delay)
    records = sum(kind == "ack" for _, kind, *_ in events)
    found = exposed(events, RECORDS)
    tally.expected = records
    tally.others |= {"most records at risk": found.records, "longest at risk": f"{found.seconds:.3f} s"}
    assert found.records <= 100
    assert found.seconds <= 1.0 + SLACK
    if delay:
        assert events[-1][0] - events[0][0] > 2.0, "too fast to tell"
    else:
        assert records > 400
        assert found.records >= 90, "too few to tell"
