"""``kill -9`` before, in the middle of and after every call that changes a run folder; then the same command again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from injecting import Plan, read_log
from studies import RECORDS, acknowledged, fresh, keys, lines, snapshot, study, write_quiz

from warmeng.study.results.tied import OF, OWN

SETTLED = ("sessions.jsonl",)  # tells of every process that took part: times, which differ


@pytest.fixture(scope="module")
def whole(tmp_path_factory, launcher):
    """An uninterrupted run, its command line, and its events."""
    folder = tmp_path_factory.mktemp("whole")
    command = study(write_quiz(folder / "quiz.jsonl"))
    plan = Plan(str(folder / "r"), log=str(folder / "log"))
    ended = launcher.run([*command, folder / "r"], plan)
    assert ended.code == 0, ended.err
    return folder / "r", command, events(folder / "log")


def events(log):
    """The events where a process can be killed: a file that is made and a record that is acknowledged are none."""
    return [event for event in read_log(log) if event[1] not in ("create", "ack")]


def points(found, step):
    """Every ``step``-th event with the moments in it: (number, moment)."""
    for k, (_, kind, _, data, _) in enumerate(found):
        last = k == len(found) - 1
        moments = ["before", *(["middle"] if kind == "write" and data and len(data) > 1 else []), *["after"] * last]
        for m, moment in enumerate(moments):
            if (k + m) % step == 0 or last or kind in ("truncate", "replace"):
                yield k, moment


def names(folder):
    return set(snapshot(folder))


def settled(folder):
    """Everything but the order of records and the times of sessions."""
    found = {name: value for name, value in snapshot(folder).items() if name not in (*SETTLED, RECORDS)}
    return found | {RECORDS: sorted(lines(folder))}


def check(launcher, command, folder, reference, plan, tally, acks, **more):
    """Kill one process by a plan, look at what it left, continue, and compare with the uninterrupted run."""
    killed = launcher.run([*command, folder], replace(plan, acks=str(acks)), **more)
    assert killed.code == -9, (plan, killed.code, killed.err)
    missing = acknowledged(acks) - keys(folder)
    tally.unacknowledged += len(missing)
    assert not missing, f"{plan}: {missing} were acknowledged and are gone"
    acks.unlink(missing_ok=True)
    ended = launcher.run([*command, folder], **more)
    assert ended.code == 0, (plan, ended.err)
    tally.count(folder, lines(reference))
    left = names(folder) - names(reference)
    assert not left, f"{plan}: {left} were left behind"


@pytest.mark.slow
def test_killed_at_every_change_of_a_run(whole, launcher, tally, tmp_path, count):
    reference, command, found = whole
    assert {kind for _, kind, *_ in found} >= {"mkdir", "truncate", "pwrite", "write", "fsync", "replace", "unlink"}
    for k, moment in points(found, count(58, 1)):
        folder = fresh(tmp_path / "r")
        plan = Plan(str(folder), at=k, kill=moment)
        check(launcher, command, folder, reference, plan, tally, tmp_path / "acks")
        same = settled(folder)["items.jsonl"] == settled(reference)["items.jsonl"]
        assert same, f"{plan}: other wrong answers were written"


@pytest.fixture(scope="module")
def torn(whole, launcher, tmp_path_factory):
    """A run that was killed in the middle of a record, and the events of continuing it."""
    _, command, found = whole
    writes = [k for k, (_, kind, path, *_) in enumerate(found) if kind == "write" and path.endswith(RECORDS)]
    folder = tmp_path_factory.mktemp("torn")
    killed = launcher.run([*command, folder / "r"], Plan(str(folder / "r"), at=writes[len(writes) // 3], kill="middle"))
    assert killed.code == -9
    assert (folder / "r" / RECORDS).read_bytes()[-1:] != b"\n"
    shutil.copytree(folder / "r", folder / "copy")
    ended = launcher.run([*command, folder / "copy"], Plan(str(folder / "copy"), log=str(folder / "log")))
    assert ended.code == 0
    assert "cut an unfinished last line of" in ended.err
    return folder / "r", events(folder / "log")


@pytest.mark.slow
def test_killed_at_every_change_while_continuing_and_while_a_torn_tail_is_cut(
    whole, torn, launcher, tally, tmp_path, count
):
    reference, command, _ = whole
    start, found = torn
    assert "truncate" in {kind for _, kind, path, *_ in found if path.endswith(RECORDS)}
    for k, moment in points(found, count(29, 1)):
        folder = fresh(tmp_path / "r")
        shutil.copytree(start, folder)
        plan = Plan(str(folder), at=k, kill=moment)
        check(launcher, command, folder, reference, plan, tally, tmp_path / "acks")


def test_killed_again_and_again_one_record_further_each_time(whole, launcher, tally, tmp_path, count):
    """No run ever gets further than two records; still it ends."""
    reference, command, _ = whole
    folder, acks, starts = tmp_path / "r", tmp_path / "acks", 0
    seen: set[str] = set()
    step = count(16, 2)
    while True:
        starts += 1
        plan = Plan(str(folder), kinds=("write",), names=(RECORDS,), at=step, kill="middle", acks=str(acks))
        ended = launcher.run([*command, folder], plan)
        assert seen <= keys(folder)
        seen = keys(folder)
        if ended.code == 0:
            break
        assert ended.code == -9
        assert acknowledged(acks) <= seen
    assert starts > 84 // (step + 1)
    tally.count(folder, lines(reference), starts - 1)


@pytest.mark.slow
def test_killed_while_results_analysis_and_report_are_written(whole, launcher, tally, tmp_path, count):
    """The pages and tables are those of a run that was never interrupted, to the last byte."""
    _, command, _ = whole
    full = fresh(tmp_path / "full")
    ended = launcher.run([*command, full], Plan(str(full), log=str(tmp_path / "log")), conclude=True)
    assert ended.code == 0, ended.err
    found = events(tmp_path / "log")
    first = next(k for k, event in enumerate(found) if "results.json" in event[2])
    late = list(points(found, 1))
    late = [(k, moment) for k, moment in late if k >= first]
    for k, moment in late[:: count(len(late) // 2, 2)]:
        folder = fresh(tmp_path / "r")
        plan = Plan(str(folder), at=k, kill=moment)
        check(launcher, command, folder, full, plan, tally, tmp_path / "acks", conclude=True)
        assert pages(folder) == pages(full), plan


def pages(folder):
    """What is written from records alone: everything but the page and the files that tell times and folders.

    The analysis holds the hash of such a file, and its own.
    """
    told = ("manifest.json", "report.html", "analysis.json", *SETTLED)
    analysis = json.loads((folder / "analysis.json").read_bytes())
    kept = {name: value for name, value in analysis.items() if name not in (OF, OWN)}
    return {name: value for name, value in settled(folder).items() if name not in told} | {"analysis.json": kept}


PREPARE = ["--toxicity", "wordlist", "--per-type", "0", "--held-out", "0", "--max-new-tokens", "400", "--out"]


@pytest.mark.slow
def test_killed_at_every_change_of_a_preparation(launcher, tally, tmp_path, count):
    chats = tmp_path / "chats.jsonl"
    chats.write_text(
        "".join(
            f'{{"prompt": "How do I cook {k} eggs?", "response": "Boil {k} eggs.{" [lose 1]" * (k % 2)}"}}\n'
            for k in range(4)
        )
    )
    command = ["prepare", chats, *PREPARE]
    whole = tmp_path / "whole"
    ended = launcher.run([*command, whole], Plan(str(whole), log=str(tmp_path / "log")))
    assert ended.code == 0, ended.err
    found, reference = events(tmp_path / "log"), snapshot(whole)
    for k, moment in points(found, count(8, 1, quick=30)):
        folder = fresh(tmp_path / "r")
        plan = Plan(str(folder), at=k, kill=moment)
        assert launcher.run([*command, folder], plan).code == -9, plan
        ended = launcher.run([*command, folder])
        assert ended.code == 0, (plan, ended.err)
        journals = ("attempts.jsonl", "toxicity.jsonl")  # whose lines come in the order of answers
        now = snapshot(folder)
        assert {n: v for n, v in now.items() if n not in journals} == {
            n: v for n, v in reference.items() if n not in journals
        }, plan
        for name in journals:
            assert sorted((folder / name).read_bytes().splitlines()) == sorted((whole / name).read_bytes().splitlines())
        tally.injected += 1
        tally.expected += len((whole / "attempts.jsonl").read_bytes().splitlines())
