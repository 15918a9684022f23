"""A torn last line is cut and asked again, at every byte; damage anywhere else stops and changes nothing."""

from __future__ import annotations

import dataclasses
import random

import pytest
from fakes import FakeEngine
from studies import RECORDS, lines, snapshot

from warmeng.common.errors import InputError
from warmeng.common.journal import Journal
from warmeng.common.progress import Silent
from warmeng.study.results.sessions import read_sessions
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings

SMALL = StudySettings(
    personas=("original", "warm-prompt"), tasks=("facts",), contexts=("unmodified",), limit=2, warmth_prompts=0
)


class Said(Silent):
    """Keeps what was said."""

    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def go(folder):
    said = Said()
    outcome = run_study(SMALL, folder, said, "warmeng run")
    assert outcome.exit_code == 0
    return said.lines


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of eight records: its folder, and the bytes of its records."""
    monkeypatch.setattr("warmeng.study.run.run.load_engine", lambda settings: FakeEngine())
    monkeypatch.setattr("warmeng.study.run.finish.conclude", lambda *given: True)
    go(tmp_path / "r")
    return tmp_path / "r", (tmp_path / "r" / RECORDS).read_bytes()


def test_a_line_torn_at_any_byte_is_cut_with_its_size_and_asked_again(run, tally, count):
    folder, data = run
    start = data.rstrip(b"\n").rindex(b"\n") + 1
    for end in range(start + 1, len(data)):
        (folder / RECORDS).write_bytes(data[:end])
        if end % count(17, 1, quick=1000):  # the writer alone
            writer = Journal(folder / RECORDS, "warmeng run")
            writer.close()
            assert (writer.cut, len(writer.done)) == (end - start, data.count(b"\n") - 1)
            assert (folder / RECORDS).read_bytes() == data[:start]
            tally.injected += 1
            continue
        said = go(folder)
        assert f"{folder / RECORDS}: cut an unfinished last line of {end - start} bytes" in said
        assert (folder / RECORDS).read_bytes() == data
        tally.count(folder, data.splitlines(keepends=True))


@pytest.mark.slow
def test_a_file_cut_at_any_byte_is_continued(run, tally, count):
    """As a file system leaves one that lost its end: whole lines stay, whatever is after them is made again."""
    folder, data = run
    whole = data.splitlines(keepends=True)
    for end in range(0, len(data), count(997, 3)):
        (folder / RECORDS).write_bytes(data[:end])
        torn = end - (data[:end].rfind(b"\n") + 1)
        said = go(folder)
        assert any("cut an unfinished last line" in line for line in said) == (torn > 0)
        assert not torn or any(line.endswith(f"of {torn} bytes") for line in said)
        tally.count(folder, whole)


def refused(folder, damaged, number, offset):
    """Put damaged bytes in place: the run stops with file, line and offset, and nothing in the folder changes."""
    path = folder / RECORDS
    path.write_bytes(damaged)
    before = snapshot(folder)
    with pytest.raises(InputError) as error:
        go(folder)
    assert str(error.value).startswith(f"{path}:{number}: the line at byte {offset} is damaged ("), error.value
    assert "nothing was changed" in str(error.value)
    assert "\n" not in str(error.value)
    assert snapshot(folder) == before


def place(data, at):
    """Return the line, counted from 1, that holds a byte, and the offset where the line begins."""
    return data.count(b"\n", 0, at) + 1, data.rfind(b"\n", 0, at) + 1


def test_one_changed_byte_anywhere_stops(run, tally, count):
    folder, data = run
    rng = random.Random(0)
    final = len(data) - 1  # a last line that lost its line end is a torn one
    for at in range(0, final, count(101, 1, quick=401)):
        bit = 1 << rng.randrange(8)
        damaged = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
        refused(folder, damaged, *place(data, at))
        tally.injected += 1


@pytest.mark.parametrize(
    "kind", ["twice", "twice at once", "blank", "zeros", "swapped bytes", "returns", "hole", "text"]
)
def test_other_damage_stops(run, tally, kind):
    folder, data = run
    whole = data.splitlines(keepends=True)
    third = sum(map(len, whole[:2]))
    middle = {
        "twice": (data + whole[1], len(whole) + 1, len(data)),
        "twice at once": (data[:third] + whole[1] + data[third:], 3, third),
        "blank": (data[:third] + b"\n" + data[third:], 3, third),
        "zeros": (data[:third] + bytes(len(whole[2])) + data[third + len(whole[2]) :], 3, third),
        "swapped bytes": (data[:third] + whole[2][:20][::-1] + data[third + 20 :], 3, third),
        "returns": (data.replace(b"\n", b"\r\n"), 1, 0),
        "hole": (data[: third + 9] + data[third + 40 :], 3, third),
        "text": (data + b"the end\n", len(whole) + 1, len(data)),
    }
    refused(folder, *middle[kind])
    tally.injected += 1


@pytest.mark.slow
def test_a_line_that_is_missing_is_asked_again_and_order_is_free(run, tally):
    """Nothing ties lines to each other: what is there is sound, and what the plan lacks is made again."""
    folder, data = run
    whole = data.splitlines(keepends=True)
    for k in range(len(whole)):
        (folder / RECORDS).write_bytes(b"".join(whole[:k] + whole[k + 1 :]))
        assert any(f"continuing, {len(whole) - 1} of {len(whole)}" in line for line in go(folder))
        tally.count(folder, whole)
    (folder / RECORDS).write_bytes(b"".join(reversed(whole)))
    assert "finished" in go(folder)[0]
    tally.count(folder, whole)


@pytest.mark.parametrize("command", ["analyze", "report", "export"])
def test_damage_stops_whatever_reads_the_records(run, launcher, command):
    folder, data = run
    at = len(data) // 2
    (folder / RECORDS).write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    before = snapshot(folder)
    ended = launcher.run([command, folder])
    number, offset = place(data, at)
    assert ended.code == 65
    assert f"{RECORDS}:{number}: the line at byte {offset} is damaged" in ended.err
    assert ended.err.count("\n") == 1
    assert snapshot(folder) == before


def test_a_torn_line_of_times_takes_no_other_with_it(run):
    folder, data = run
    (folder / "sessions.jsonl").write_bytes(b'{"ended":"2026-01-01T00:0')
    (folder / RECORDS).write_bytes(data[:-1])
    go(folder)
    assert [session["records"] for session in read_sessions(folder)] == [data.count(b"\n")]


def test_records_that_cannot_be_read_are_one_line(run):
    folder, _ = run
    (folder / RECORDS).unlink()
    (folder / RECORDS).mkdir()
    with pytest.raises(InputError, match="can't be read"):
        go(folder)


def test_records_of_another_plan_are_refused(run, tally):
    """A sound record whose key the plan does not know is not quietly left out of the tables."""
    folder, data = run
    other = dataclasses.replace(SMALL, seed=1)
    run_study(other, folder.with_name("other"), Said(), "warmeng run")
    stranger = lines(folder.with_name("other"))[0]
    mixed = b"".join(data.splitlines(keepends=True)[:3]) + stranger
    (folder / RECORDS).write_bytes(mixed)
    with pytest.raises(InputError, match="4 records where the plan knows 3"):
        go(folder)
    assert (folder / RECORDS).read_bytes() == mixed
