"""What a run shows while it goes on."""

import io

import pytest
from rich.console import Console

from warmeng.common.messages import duration
from warmeng.common.progress import Live, Meter, Plain


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (3600, "1 h 00 min"), (9000, "2 h 30 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_time_left_follows_the_work_that_is_done(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("warmeng.common.progress.time.monotonic", lambda: now[0])
    meter = Meter({"a": 4, "b": 4}, {"a": 2}, 60.0)
    assert "left" not in meter.line()
    now[0] = 110.0
    meter.advance("b", 20.0, 500, 900)
    assert meter.line() == "3 of 8 answers, 50 output and 90 prompt tokens/s, 20 s left"


def test_without_a_terminal_there_are_plain_lines_now_and_then(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("warmeng.common.progress.time.monotonic", lambda: now[0])
    out = io.StringIO()
    plain = Plain(Console(file=out, force_terminal=False))
    plain.message("a [b] c")
    plain.start({"a": 100}, {}, 100.0)
    for _ in range(100):
        now[0] += 0.2
        plain.advance("a", 1.0, 0, 0)
    plain.stop()
    text = out.getvalue()
    assert "\x1b" not in text
    assert "a [b] c" in text
    assert 4 <= text.count(" answers, ") <= 6


def test_on_a_terminal_every_persona_has_a_bar():
    out = io.StringIO()
    live = Live(Console(file=out, force_terminal=True, width=120))
    live.start({"original": 2, "warm[x]": 2}, {"original": 1}, 3.0)
    for persona in ("original", "warm[x]", "warm[x]"):
        live.advance(persona, 1.0, 10, 10)
    live.message("said [between]")
    live.stop()
    text = out.getvalue()
    assert "warm[x]" in text
    assert "2/2" in text
    assert "4/4" in text
    assert "said [between]" in text
