"""A run's answers in the terminal: which are shown, what stands there, and that nothing in them steers it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from click.testing import CliRunner
from records_folder import answer, run_folder

from warmeng.cli.main import warmeng
from warmeng.study.report.browse import Wanted, comparisons


@pytest.fixture
def folder(tmp_path):
    records = [
        answer(1, "original", "q1", "correct"),
        answer(2, "warm", "q1", "incorrect", which="user", text="Lyon,\x1b[2J dear\u202e! é"),
        answer(3, "original", "q2", "unclear", text="Who knows", finish="length"),
        answer(4, "warm", "q2", "unclear", belief="none"),
        answer(5, "original", "q1", "correct", belief="wrong"),
    ]
    return run_folder(tmp_path / "r", records)


def texts(folder, **wanted):
    return list(comparisons(folder, Wanted(**wanted)))


def test_each_comparison_has_every_persona_and_its_grade(folder):
    first, *others = texts(folder)
    assert first.startswith("--- 1 of 3: facts/q1, context unmodified, belief none\noriginal: correct: Paris.\n")
    assert "warm: incorrect (user): Lyon," in first
    assert len(others) == 2
    assert "original: unclear: Who knows [cut]" in "".join(others)


def test_conditions(folder):
    assert len(texts(folder, flips=True)) == 1
    assert len(texts(folder, item="q1")) == 2
    assert [text.split(",")[0] for text in texts(folder, grade="unclear")] == ["--- 1 of 1: facts/q2"]
    assert len(texts(folder, belief="wrong")) == 1


def test_nothing_steers_the_terminal(folder):
    shown = CliRunner().invoke(warmeng, ["browse", str(folder), "--flips"])
    assert shown.exit_code == 0, shown.output
    assert "\\x1b[2J dear\\u202e! é" in shown.output
    assert "\x1b" not in shown.output


def test_nothing_as_wanted_is_one_line(folder):
    refused = CliRunner().invoke(warmeng, ["browse", str(folder), "--task", "none"])
    assert "no answer is as wanted: leave a condition out" in str(refused.exception or refused.output)


@pytest.mark.slow
def test_a_terminal_of_ascii_has_a_pager(folder):
    """Through a real pseudo-terminal, with an encoding that lacks what an answer holds."""
    main, end = pty.openpty()
    environment = {**os.environ, "PAGER": "cat", "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "TERM": "xterm"}
    command = [sys.executable, "-c", "from warmeng.cli.main import main; main()", "browse", str(folder), "--flips"]
    process = subprocess.Popen(command, stdout=end, stderr=end, stdin=end, env=environment)
    os.close(end)
    shown = b""
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    assert process.wait(60) == 0, shown
    assert b"facts/q1" in shown
    assert b"\\x1b[2J dear" in shown
    assert b"\x1b[2J" not in shown
