"""A finished run is read by whoever may read it, without writing there: another user, a read-only disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from studies import as_root, one_line, snapshot, study, write_quiz
from tiers import slow

NOBODY = 65534


@pytest.fixture(scope="module")
def finished(launcher):
    """A finished run of root's, and a folder of nobody's; both can be reached by all."""
    if not as_root():
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory(prefix="warmeng-readers-") as name:  # pytest's own folders are its user's alone
        os.chmod(name, 0o755)
        yield make(launcher, Path(name))


def make(launcher, root):
    command = study(write_quiz(root / "quiz.jsonl"))
    ended = launcher.run([*command, root / "r"], conclude=True)
    assert ended.code == 0, ended.err
    mine = root / "mine"
    mine.mkdir()
    os.chown(mine, NOBODY, NOBODY)
    for name in READS:
        launcher.warm([str(part).replace("mine/", f"{root}/warm/") for part in command_of(name, root)])
    launcher.warm([*command, root / "r"])
    launcher.warm(["run", "--no-such-option"])
    return root, [*command, root / "r"]


READS = {
    "analyze": ["analyze", "r", "--bootstrap", "40", "--out", "mine/tables"],
    "report": ["report", "r", "--out", "mine/report"],
    "csv": ["export", "r", "--format", "csv", "--out", "mine/answers.csv"],
    "authors": ["export", "r", "--format", "authors", "--out", "mine/authors"],
    "lm-eval": ["export", "r", "--format", "lm-eval", "--out", "mine/lm-eval"],
}


def command_of(name, root):
    parts = READS[name]
    return [str(root / part) if part == "r" or part.startswith("mine/") else part for part in parts]


@pytest.mark.parametrize("name", slow(*READS))
def test_another_user_reads_a_run_into_a_folder_of_their_own(finished, launcher, name):
    root, _ = finished
    before = snapshot(root / "r")
    ended = launcher.run(command_of(name, root), uid=NOBODY)
    assert ended.code == 0, ended.err
    written = snapshot(root / "mine")
    assert written
    assert snapshot(root / "r") == before
    made = [path for path in (root / "mine").rglob("*") if path.is_file()]
    assert all(path.stat().st_uid == NOBODY for path in made)
    as_owner = root / "owner"
    parts = [part.replace("/mine/", "/owner/") for part in command_of(name, root)]
    as_owner.mkdir(exist_ok=True)
    assert launcher.run(parts).code == 0
    twins = [path for path in as_owner.rglob("*") if path.is_file()]
    assert twins
    for path in twins:
        assert path.read_bytes() == (root / "mine" / path.relative_to(as_owner)).read_bytes(), path


@pytest.mark.parametrize("command", ["analyze", "report", "export"])
@pytest.mark.slow
def test_without_a_folder_of_their_own_they_get_one_line(finished, launcher, command):
    root, _ = finished
    before = snapshot(root / "r")
    ended = launcher.run([command, root / "r"], uid=NOBODY)
    assert ended.code == 74
    line = one_line(ended.err)
    assert "Permission denied" in line
    assert str(root / "r") in line
    assert ended.err.count("\n") == 1
    assert snapshot(root / "r") == before


@pytest.mark.slow
def test_a_run_in_somebody_elses_folder_is_one_line(finished, launcher):
    root, command = finished
    ended = launcher.run(command, uid=NOBODY)
    assert ended.code == 74
    assert f"{root / 'r'}: can't write there (Permission denied): choose another --out" in one_line(ended.err)
    ended = launcher.run([*command[:-1], root / "new"], uid=NOBODY)
    assert ended.code == 74
    assert f"{root / 'new'}: can't write there" in one_line(ended.err)


@pytest.mark.slow
def test_a_run_that_may_not_be_read_is_one_line(finished, launcher):
    root, _ = finished
    records = root / "r" / "records.jsonl"
    records.chmod(0o600)
    try:
        ended = launcher.run(command_of("analyze", root), uid=NOBODY)
    finally:
        records.chmod(0o644)
    assert ended.code == 65
    assert f"{records}: can't be read (Permission denied)" in one_line(ended.err)
