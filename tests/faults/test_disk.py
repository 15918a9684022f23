"""Disks that fill up, fail or can't be written: exit 74, one line that says what is kept and what continues."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from injecting import Plan, read_log
from studies import RECORDS, as_root, fresh, lines, one_line, snapshot, study, write_quiz
from tiers import slow

STORAGE = 74


@pytest.fixture(scope="module")
def whole(tmp_path_factory, launcher):
    """An uninterrupted run, its command line, and its events."""
    folder = tmp_path_factory.mktemp("whole")
    command = study(write_quiz(folder / "quiz.jsonl"))
    ended = launcher.run([*command, folder / "r"], Plan(str(folder / "r"), log=str(folder / "log")))
    assert ended.code == 0, ended.err
    return folder / "r", command, [e for e in read_log(folder / "log") if e[1] not in ("create", "ack")]


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of so many KiB and returns where; it is gone after the test."""
    if not as_root():
        pytest.skip("only root may mount")
    mounted = []

    def mount(kibibytes, where="disk"):
        place = tmp_path / where
        place.mkdir()
        size = f"size={kibibytes}k,mode=755"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "warmeng-test", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.decode().strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def with_quota(tmp_path):
    """A folder of a disk of its own, and a function that sets how many KiB may be used there: btrfs has quotas."""
    if not as_root() or shutil.which("mkfs.btrfs") is None:
        pytest.skip("only root may mount, and btrfs-progs are needed")
    image, disk = tmp_path / "image", tmp_path / "btrfs"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(300 << 20)
    subprocess.run(["mkfs.btrfs", "--quiet", image], check=True, capture_output=True)
    done = subprocess.run(["mount", "-o", "loop", image, disk], capture_output=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.decode().strip()}")
    folder = disk / "limited"

    def limit(kibibytes):
        found = subprocess.run(["btrfs", "inspect-internal", "rootid", folder], check=True, capture_output=True)
        subprocess.run(["btrfs", "qgroup", "limit", f"{kibibytes}K", f"0/{int(found.stdout)}", disk], check=True)

    try:
        subprocess.run(["btrfs", "subvolume", "create", folder], check=True, capture_output=True)
        subprocess.run(["btrfs", "quota", "enable", disk], check=True)
        yield folder, limit
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def remount(place, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def told(ended, command, folder):
    """Check a disk's error: exit 74, and one line with what to do, which ends in the command that continues."""
    assert ended.code == STORAGE, (ended.code, ended.err)
    line = one_line(ended.err)
    again = f"warmeng {' '.join(map(str, command))} {folder}"
    assert line.endswith(f": {again}") or "choose another --out" in line or "warmeng report" in line, line
    return line


def test_a_full_disk_keeps_whole_records_and_the_same_command_continues_with_more_room(launcher, small_disk, tally):
    disk = small_disk(256)
    command = study(
        write_quiz(disk.parent / "quiz.jsonl"), "--limit", "12", contexts="unmodified,emotion:sad,stake:high"
    )
    assert launcher.run([*command, disk.parent / "whole"]).code == 0
    whole = lines(disk.parent / "whole")
    assert sum(map(len, whole)) > 256 * 1024
    folder = disk / "r"
    line = told(launcher.run([*command, folder]), command, folder)
    kept = lines(folder)
    assert 0 < len(kept) < len(whole)
    assert f"No space left on device; {len(kept)} records are kept: make room" in line
    assert set(kept) <= set(whole)
    remount(disk, "size=4m")
    ended = launcher.run([*command, folder])
    assert ended.code == 0, ended.err
    assert f"continuing, {len(kept)} of {len(whole)}" in ended.err
    tally.count(folder, whole)


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_moment_of_a_run(whole, launcher, small_disk, tally, count):
    """What fits decides which file is the first that does not: lock, preparation, manifest, records, results."""
    reference, command, _ = whole
    disk = small_disk(512)
    failed = set()
    for free in range(0, 280, count(28, 7, quick=50)):
        folder = fresh(disk / "r")
        (disk / "ballast").write_bytes(b"")
        room = shutil.disk_usage(disk).free
        (disk / "ballast").write_bytes(bytes(max(0, room - free * 1024)))
        ended = launcher.run([*command, folder])
        if ended.code == 0:
            break
        line = told(ended, command, folder)
        failed.add(line.partition("; ")[0].rpartition("/")[2])
        (disk / "ballast").unlink()
        again = launcher.run([*command, folder])
        assert again.code == 0, again.err
        tally.count(folder, lines(reference))
    assert tally.injected >= 5
    assert len(failed) >= 2, failed


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_a_full_disk(whole, launcher, tally, tmp_path, count):
    reference, command, _ = whole
    size = (reference / RECORDS).stat().st_size
    for limit in range(2500, size, count(8000, 1500, quick=24_000)):  # the log is smaller
        folder = fresh(tmp_path / "r")
        line = told(launcher.run([*command, folder], file_size=limit), command, folder)
        assert "File too large" in line
        ended = launcher.run([*command, folder])
        assert ended.code == 0, ended.err
        tally.count(folder, lines(reference))


@pytest.mark.slow
def test_a_write_that_fails_at_any_moment_ends_in_order(whole, launcher, tally, tmp_path, count):
    """No room from the event on, in turns a used quota and a network's disk that is gone: then all is as before.

    Half of the first write's bytes are taken.
    """
    reference, command, found = whole
    kinds = ("write", "mkdir", "replace")
    at = [k for k, event in enumerate(e for e in found if e[1] in kinds) if event[1] in kinds]
    for n, k in enumerate(at[:: count(9, 1)]):
        folder = fresh(tmp_path / "r")
        error = (errno.ENOSPC, errno.EDQUOT, errno.ENOTCONN)[n % 3]
        plan = Plan(str(folder), kinds=kinds, at=k, error=error, lasting=True)
        line = told(launcher.run([*command, folder], plan), command, folder)
        assert os.strerror(error) in line
        assert all(line.endswith(b"}\n") for line in lines(folder))
        ended = launcher.run([*command, folder])
        assert ended.code == 0, (k, ended.err)
        tally.count(folder, lines(reference))
        assert set(snapshot(folder)) == set(snapshot(reference))


@pytest.mark.parametrize(
    ("file", "what"), [("results.json", "run"), ("analysis.json", "analyze"), ("report.html", "report")]
)
@pytest.mark.slow
def test_a_disk_that_is_full_when_all_is_answered_keeps_every_record(whole, launcher, tally, tmp_path, file, what):
    """The line names the command that makes what is missing from the records."""
    reference, command, _ = whole
    folder = tmp_path / "r"
    plan = Plan(str(folder), kinds=("write",), names=(f".{file}",), at=0, error=errno.ENOSPC, lasting=True)
    ended = launcher.run([*command, folder], plan, conclude=True)
    assert ended.code == STORAGE, ended.err
    line = one_line(ended.err)
    assert "No space left on device" in line
    assert "every record is kept" in line
    again = [*command, folder] if what == "run" else [what, folder]
    assert f"warmeng {' '.join(map(str, again))}" in line
    tally.count(folder, lines(reference))
    assert launcher.run(again, conclude=True).code == 0
    assert (folder / file).exists()


@pytest.mark.slow
def test_an_fsync_that_fails_is_fatal_and_never_tried_again(whole, launcher, tally, tmp_path):
    reference, command, found = whole
    fsyncs = [path for _, kind, path, *_ in found if kind == "fsync"]
    for k in range(len(fsyncs)):
        folder = fresh(tmp_path / "r")
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        plan = Plan(str(folder), kinds=("fsync",), at=k, error=errno.EIO, log=str(log))
        ended = launcher.run([*command, folder], plan)
        told(ended, command, folder)
        kinds = [kind for _, kind, *_ in read_log(log)]
        assert "fsync" not in kinds[kinds.index("error") :]
        again = launcher.run([*command, folder])
        assert again.code == 0, again.err
        tally.count(folder, lines(reference))


def test_an_fsync_that_fails_says_what_is_known_to_be_kept(launcher, tmp_path):
    command = study(write_quiz(tmp_path / "quiz.jsonl"), "--limit", "12")
    folder = tmp_path / "r"
    log = tmp_path / "log"
    plan = Plan(str(folder), kinds=("fsync",), names=(RECORDS,), at=3, error=errno.EIO, log=str(log))
    line = told(launcher.run([*command, folder], plan), command, folder)  # one at opening, two hundreds, this one
    kinds = [kind for _, kind, *_ in read_log(log)]
    assert "fsync" not in kinds[kinds.index("error") :]
    assert "Input/output error; 200 records are kept, 100 more perhaps: see to the disk" in line


def test_a_folder_that_cannot_be_written_is_one_line(whole, launcher, small_disk):
    reference, command, _ = whole
    disk = small_disk(1024)
    folder = disk / "r"
    shutil.copytree(reference, folder)
    (folder / RECORDS).write_bytes(b"".join(lines(reference)[:9]))
    remount(disk, "ro")
    before = snapshot(folder)
    for place in (folder, disk / "new"):
        line = told(launcher.run([*command, place]), command, place)
        assert "Read-only file system" in line
        assert line.count(str(place)) >= 1
    assert snapshot(folder) == before


@pytest.mark.slow
def test_a_quota_that_is_used_up_keeps_whole_records_and_the_same_command_continues(whole, launcher, with_quota, tally):
    reference, command, _ = whole
    place, limit = with_quota
    failed = set()
    for most in (16, 32, 64, 96, 128, 192, 256, 384, 512):
        folder = fresh(place / "r")
        os.sync()
        limit(most)
        ended = launcher.run([*command, folder])
        if ended.code == 0:
            break
        line = told(ended, command, folder)
        assert "Disk quota exceeded" in line
        failed.add(line.partition("; ")[0].rpartition("/")[2])
        limit(8192)
        again = launcher.run([*command, folder])
        assert again.code == 0, again.err
        tally.count(folder, lines(reference))
    assert len(failed) >= 3


@pytest.mark.slow
def test_a_log_that_is_full_or_has_no_reader_ends_no_run(whole, tally, tmp_path):
    reference, command, _ = whole
    script = [sys.executable, str(Path(__file__).parents[1] / "helpers" / "fake_warmeng.py")]
    reader, pipe = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full:
        for name, log in (("full", full), ("pipe", pipe)):
            ended = subprocess.run([*script, *command, tmp_path / name], stdout=subprocess.PIPE, stderr=log)
            assert ended.returncode == 0
            assert b"Error rates" in ended.stdout
            tally.count(tmp_path / name, lines(reference))
    os.close(pipe)


READERS = {
    "analyze": ["analyze"],
    "report": ["report"],
    "csv": ["export", "--format", "csv"],
    "authors": ["export", "--format", "authors"],
    "lm-eval": ["export", "--format", "lm-eval"],
}


@pytest.mark.parametrize("reader", ["csv", *slow(*(name for name in READERS if name != "csv"))])
def test_a_full_disk_leaves_what_a_reader_wrote_before(whole, launcher, tally, tmp_path, count, reader):
    """Each table, page, figure and export is the old one or the new one, whole; the exit code is 74."""
    reference, _, _ = whole
    folder = tmp_path / "r"
    shutil.copytree(reference, folder)
    command = [*READERS[reader], folder]
    if reader == "analyze":
        command += ["--bootstrap", "40"]
    assert launcher.run(command).code == 0
    assert launcher.run(command, Plan(str(folder), log=str(tmp_path / "log"))).code == 0
    before = snapshot(folder)
    writes = sum(kind == "write" for _, kind, *_ in read_log(tmp_path / "log"))
    for k in range(0, writes, count(max(1, writes // 2), max(1, writes // 10))):
        ended = launcher.run(command, Plan(str(folder), kinds=("write",), at=k, error=errno.ENOSPC, lasting=True))
        assert ended.code == STORAGE, ended.err
        line = one_line(ended.err)
        assert "No space left on device: make room, then give the same command again" in line
        assert str(folder) in line
        assert snapshot(folder) == before, k
        tally.injected += 1
    assert launcher.run(command).code == 0


def test_a_preparation_on_a_full_disk_continues(launcher, tally, tmp_path, count):
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(f'{{"prompt": "Cook {k} eggs?", "response": "Boil {k}."}}\n' for k in range(3)))
    command = ["prepare", chats, "--toxicity", "off", "--per-type", "0", "--held-out", "0", "--out"]
    continued = shlex.join(["warmeng", *map(str, command), str(tmp_path / "r")])
    whole = tmp_path / "whole"
    assert launcher.run([*command, whole], Plan(str(whole), log=str(tmp_path / "log"))).code == 0
    for kinds, error in ((("write", "mkdir", "replace"), errno.ENOSPC), (("fsync",), errno.EIO)):
        events = sum(kind in kinds for _, kind, *_ in read_log(tmp_path / "log"))
        for k in range(0, events, count(4, 1, quick=12)):
            folder = fresh(tmp_path / "r")
            plan = Plan(str(folder), kinds=kinds, at=k, error=error, lasting=True)
            ended = launcher.run([*command, folder], plan)
            assert ended.code == STORAGE, (k, ended.err)
            line = one_line(ended.err)
            assert "what was finished before is intact" in line or " are kept" in line
            assert line.endswith(("then give the same command again", f"then continue with: {continued}"))
            ended = launcher.run([*command, folder])
            assert ended.code == 0, (k, ended.err)
            names = set(snapshot(whole)) - {"attempts.jsonl"}
            assert {n: snapshot(folder)[n] for n in names} == {n: snapshot(whole)[n] for n in names}
            tally.injected += 1


def test_the_folder_above_is_made_durable_too(launcher, tmp_path):
    """A run folder that was made new is still there after a power loss."""
    (tmp_path / "disk").mkdir()
    command = study(write_quiz(tmp_path / "quiz.jsonl"))
    folder = tmp_path / "disk" / "runs" / "r"
    assert launcher.run([*command, folder], Plan(str(tmp_path / "disk"), log=str(tmp_path / "log"))).code == 0
    events = [(kind, Path(path)) for _, kind, path, *_ in read_log(tmp_path / "log")]
    first = next(k for k, (kind, path) in enumerate(events) if kind == "write" and path.name == RECORDS)
    for place in (tmp_path / "disk", tmp_path / "disk" / "runs", folder):
        assert ("fsync", place) in events[:first]
