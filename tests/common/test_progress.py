"""What a run shows while it goes on."""

import io
import time
from types import SimpleNamespace

import pytest
from fakes import FakeEngine
from rich.console import Console
from rich.table import Table

from warmeng.common.messages import duration
from warmeng.common.progress import Live, Pace, Plain, Silent, counted
from warmeng.common.terminal import console
from warmeng.study.run.asking import Display


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (3600, "1 h 00 min"), (9000, "2 h 30 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_no_time_left_is_told_of_a_first_part_that_waited(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace()
    now = 30.0
    assert pace.left(1, 450) == ""
    assert pace.left(45, 450) == ", 4 min 30 s left"
    now = 60.0
    assert pace.left(1, 450) == ", 7 h 29 min left"
    assert pace.left(450, 450) == ""


def test_time_left_follows_the_work_that_is_done(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("warmeng.common.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    engine = FakeEngine()
    engine.stats.output_tokens = 7
    display = Display(Silent(), engine, {"a": 4, "b": 4}, {"a": 2}, 60.0)
    assert "left" not in display.status()
    now[0] = 110.0
    engine.stats.output_tokens, engine.stats.prompt_tokens = 507, 900
    display.advance("b", 20.0)
    assert display.status() == "answers and scores, 50 output and 90 prompt tokens/s, 20 s left"


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["a"], "answers and scores"),
        (["judge x"], "judgments"),
        (["a", "judge base"], "answers, scores and judgments"),
    ],
)
def test_what_is_counted_is_named(names, what):
    assert Display(Silent(), FakeEngine(), dict.fromkeys(names, 1), {}, 1.0).status().startswith(f"{what}, 0 output")


def test_without_a_terminal_there_are_plain_lines_now_and_then(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("warmeng.common.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    out = io.StringIO()
    plain = Plain(Console(file=out, force_terminal=False))
    plain.message("a [b] c")
    plain.start({"a": 103, "b": 1}, {"a": 2, "c": 5}, lambda: "answers, [fast]")
    for _ in range(101):
        now[0] += 0.25
        plain.advance("a")
    plain.stop()
    plain.stop()
    text = out.getvalue()
    assert "\x1b" not in text
    assert text.splitlines() == ["a [b] c", *(f"{n} of 104 answers, [fast]" for n in (22, 42, 62, 82, 102, 103))]


def test_a_part_that_did_nothing_says_nothing(monkeypatch):
    out = io.StringIO()
    plain = Plain(Console(file=out, force_terminal=False))
    plain.start({"a": 3}, {"a": 3}, lambda: "answers")
    plain.stop()
    assert out.getvalue() == ""


def test_a_log_that_takes_nothing_falls_silent():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    plain = Plain(Console(file=Full(), force_terminal=False))
    for _ in range(2):
        plain.message("a")
    assert plain.console.quiet


def test_on_a_terminal_every_name_has_a_bar_above_the_status():
    out = io.StringIO()
    live = Live(Console(file=out, force_terminal=True, width=120))
    count = []
    live.start({"original": 2, "warm[x]": 2}, {"original": 1}, lambda: f"answers, {len(count)} [so far]")
    for persona in ("original", "warm[x]", "warm[x]"):
        live.advance(persona)
        count.append(persona)
    live.message("said [between]")
    live.stop()
    text = out.getvalue()
    for part in ("warm[x]", "2/2", "4/4", "said [between]", "answers, 3 [so far]"):
        assert part in text


def test_one_name_has_no_second_bar_of_all():
    out = io.StringIO()
    live = Live(Console(file=out, force_terminal=True, width=120))
    live.start({"steps": 2}, {}, lambda: "steps")
    live.advance("steps")
    live.stop()
    assert "1/2" in out.getvalue()
    assert "all" not in out.getvalue()


@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_what_takes_a_while_shows_how_far_it_is(monkeypatch, seconds):
    now = [0.0]
    monkeypatch.setattr("warmeng.common.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    out = io.StringIO()
    for _ in counted(range(8), 8, "requests planned", Plain(Console(file=out, force_terminal=False))):
        now[0] += seconds
    told = ["7 of 8 requests planned, 1 s left", "8 of 8 requests planned"]
    assert out.getvalue().splitlines() == (told if seconds == 1.0 else [])


def test_nothing_is_said_of_the_time_left_before_it_can_be_told(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("warmeng.common.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    pace = Pace()
    now[0] = 9.0
    assert pace.left(1, 128) == ""
    assert pace.left(8, 128) == ", 2 min 15 s left"
    now[0] = 61.0
    assert pace.left(1, 100) == ", 1 h 40 min left"


def test_a_models_name_is_shown_as_it_is(capsys):
    """``:us:`` is a flag to rich, and a part of a fine-tuned model's name."""
    name = "openai:ft:tiny:us:warm:m:"
    shown = console(100)
    Plain(shown).message(name)
    table = Table(name)
    table.add_row(name)
    shown.print(table)
    live = Live(shown)
    live.start({name: 1}, {}, lambda: name)
    live.stop()
    assert capsys.readouterr().out.count(name) == 5
