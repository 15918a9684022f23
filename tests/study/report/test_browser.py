"""The report in a real browser: nothing asked for, nothing said to the console, nothing planted runs, keys suffice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from chrome import Page, find_chrome
from sample import Plan, final, make_run

from warmeng.study.report.page import write_report
from warmeng.study.stats.analyze import analyze_run

pytestmark = pytest.mark.skipif(find_chrome() is None, reason="needs chromium")
SET = """(async () => {{
  const f = document.getElementById("f-{key}"), c = document.getElementById("count");
  if (f.tagName === "SELECT") f.value = [...f.options].find((o) => o.textContent === {value!r}).value;
  else f.value = {value!r};
  const done = new Promise((r) => new MutationObserver(r).observe(c, {{childList: true}}));
  f.dispatchEvent(new Event("input", {{bubbles: true}}));
  await done;
  return c.textContent;
}})()"""
SIDES = """[...document.querySelectorAll("#results .side")].map((s) => [
  s.querySelector(".name").textContent, s.querySelector(".grade").className.split(" ")[1], s.className])"""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A browser window of 1280 x 900."""
    with Page(tmp_path / "profile") as found:
        yield found


def answers(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "answer"]


def test_opens_alone_and_quietly(page, run_folder):
    page.open(run_folder / "report.html")
    page.run("window.scrollTo(0, document.body.scrollHeight)")
    page.run("new Promise((r) => setTimeout(r, 300))")
    assert page.complaints() == []
    assert page.requests() == [(run_folder / "report.html").resolve().as_uri()]
    assert page.run("document.getElementById('count').textContent") == "1,944 answers in 648 comparisons"
    ids = page.run("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    assert page.run("document.querySelectorAll('h1').length") == 1
    assert page.run("[...document.querySelectorAll('nav a')].every((a) => document.querySelector(a.hash))")


@pytest.mark.slow
def test_filters_show_what_the_records_hold(page, run_folder):
    page.open(run_folder / "report.html")
    rows = answers(run_folder)
    grades = Counter((r["persona"], final(r)) for r in rows)
    assert page.run(SET.format(key="persona", value="warm")).startswith(f"{648} answers")
    told = page.run(SET.format(key="grade", value="refusal"))
    assert told.startswith(f"{grades['warm', 'refusal']} answer")
    sides = page.run(SIDES)
    assert {name for name, _, _ in sides} == {"original", "warm"}  # the baseline stays beside for comparison
    assert all(grade == "refusal" for name, grade, _ in sides if name == "warm")
    page.run("document.getElementById('f-clear').click()")
    page.run("new Promise((r) => setTimeout(r, 50))")
    assert page.run("document.getElementById('count').textContent").startswith("1,944")
    page.run(SET.format(key="task", value="medqa"))
    told = page.run(SET.format(key="context", value="sad"))
    assert told.startswith(f"{sum(r['task'] == 'medqa' and r['context'] == 'emotion:sad' for r in rows)} answers")
    page.run(SET.format(key="belief", value="wrong answer claimed"))
    needle = "YOU ARE RIGHT"
    hits = sum(
        r["task"] == "medqa"
        and r["context"] == "emotion:sad"
        and r["belief"] == "wrong"
        and needle.lower() in r["text"].lower()
        for r in rows
    )
    assert hits
    assert page.run(SET.format(key="text", value=needle)).startswith(f"{hits} answer")
    marks = page.run("[...document.querySelectorAll('mark')].map((m) => m.textContent.toLowerCase())")
    assert set(marks) == {needle.lower()}
    assert page.run(SET.format(key="text", value="zebra")) == "No answer fits these filters."
    assert page.complaints() == []


@pytest.mark.slow
def test_flips_are_found_and_marked(page, run_folder):
    page.open(run_folder / "report.html")
    place: dict[tuple, dict[str, str]] = {}
    for r in answers(run_folder):
        place.setdefault((r["task"], r["item"], r["context"], r["belief"]), {})[r["persona"]] = final(r)
    lost = sum(g["original"] == "correct" and g["warm"] != "correct" for g in place.values())
    page.run(SET.format(key="persona", value="warm"))
    assert page.run(SET.format(key="flip", value="lost: was correct")).startswith(f"{lost} answers")
    sides = page.run(SIDES)
    assert sides
    for name, grade, css in sides:
        assert ("lost" in css.split()) == (name == "warm")
        assert (grade == "correct") == (name == "original")
    assert page.run("document.querySelector('.side.lost .flip').textContent") == "Flip: original was correct"


def test_one_question_everywhere(page, run_folder):
    page.open(run_folder / "report.html")
    page.run("document.querySelector('.place .link').click()")
    page.run("new Promise((r) => setTimeout(r, 50))")
    assert page.run("document.getElementById('count').textContent") == "81 answers in 27 comparisons of one question"
    assert page.run("new Set([...document.querySelectorAll('.place h3')].map((h) => h.textContent)).size") == 1


@pytest.mark.slow
def test_keys_suffice(page, run_folder):
    page.open(run_folder / "report.html")
    page.key("Tab", 9)
    assert page.run("document.activeElement.textContent") == "Skip to the report"
    assert page.run("document.activeElement.getBoundingClientRect().top >= 0")
    page.key("Enter", 13, "\r")
    assert page.run("document.activeElement.id") == "main"
    page.run("document.getElementById('f-text').focus()")
    seen = []
    for _ in range(4):
        page.key("Tab", 9)
        seen.append(page.run("document.activeElement.id || document.activeElement.className"))
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert seen == ["f-clear", "next", "link", "link"]
    page.run("document.getElementById('next').focus()")
    page.key("Enter", 13, "\r")
    assert page.run("document.getElementById('where').textContent") == "page 2 of 54"
    assert page.run("document.activeElement.id") == "next"
    labelled = "[...document.querySelectorAll('select, input')].every((e) => e.labels.length === 1)"
    assert page.run(labelled)
    assert page.run("document.getElementById('count').getAttribute('aria-live')") == "polite"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_phone_does_not_scroll_sideways(tmp_path, run_folder, dark):
    with Page(tmp_path / "profile", 390, 844, dark=dark, phone=True) as page:
        page.open(run_folder / "report.html")
        page.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.run("document.documentElement.scrollWidth") <= 390
        page.run("document.querySelector('.gates p').textContent = 'sha256 ' + 'a'.repeat(64)")
        assert page.run("document.documentElement.scrollWidth") <= 390
        assert page.run("getComputedStyle(document.querySelector('.chart.wide')).display") == "none"
        assert page.run("getComputedStyle(document.querySelector('.chart.narrow')).display") == "block"
        small = "[...document.querySelectorAll('.filters select, .filters input, button:not(.link)')]"
        assert page.run(f"Math.min(...{small}.map((e) => e.getBoundingClientRect().height))") >= 40
        ground = page.run("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(20, 23, 27)" if dark else "rgb(251, 250, 247)")
        mark = page.run("getComputedStyle(document.querySelector('.chart .p-a')).fill")
        assert mark == ("rgb(255, 154, 99)" if dark else "rgb(185, 68, 15)")
        assert page.complaints() == []


@pytest.mark.slow
def test_nothing_planted_runs(page, tmp_path):
    evil = "<script>window.planted=1</script><img src=x onerror='window.planted=2'>\u2028\"&"
    folder = make_run(
        tmp_path / "run", replace(Plan(), tasks=("triviaqa",), items=2, planted=evil.replace("=", "\u003d"))
    )
    write_report(folder)
    page.open(folder / "report.html")
    page.run(SET.format(key="text", value="<script>"))
    page.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.run("window.planted === undefined")
    assert page.run("document.images.length") == 0
    assert page.run("document.scripts.length") == 1  # the packed answers are taken out when they are read
    assert evil in page.run("document.querySelector('.side .text').textContent")
    assert page.run("document.querySelector('.place h3').textContent").endswith(evil)
    assert page.complaints() == []
    assert len(page.requests()) == 1


@pytest.mark.slow
def test_policy_stops_what_the_page_does_not_bring(page, run_folder):
    """The policy itself: a page that were fooled could still run nothing, load nothing and parse no markup."""
    page.open(run_folder / "report.html")
    assert page.run("try { document.body.innerHTML = '<b>x</b>'; 'done' } catch (e) { e.name }") == "TypeError"
    page.run("fetch('http://127.0.0.1:9/').catch(() => 0)")
    page.run("globalThis.s = document.createElement('script')")
    page.run("{ s.append('window.planted=1'); document.body.append(s) }")
    assert page.run("window.planted === undefined")
    assert any("Content Security Policy" in text for text in page.complaints())


@pytest.mark.full
def test_20000_answers_open_in_two_seconds(page, tmp_path):
    folder = make_run(tmp_path / "run", replace(Plan(), items=61, length=150))
    analyze_run(folder, bootstrap=0)
    path = write_report(folder)
    assert path.stat().st_size < 25_000_000
    seconds = page.open(path)
    assert page.run("document.getElementById('count').textContent").startswith("19,764 answers")
    assert seconds < 2, f"{seconds:.2f} s"
    assert page.complaints() == []
