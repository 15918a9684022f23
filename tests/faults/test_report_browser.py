"""What models, data sets and strangers' run folders hold is shown in the report and the exports, and never runs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest
from chrome import Page, find_chrome
from sample import Plan, make_run

from warmeng.common.cells import as_cell
from warmeng.common.journal import encode
from warmeng.study.export.export import export_run
from warmeng.study.report.page import write_report
from warmeng.study.report.results import markdown
from warmeng.study.stats import tables
from warmeng.study.stats.analyze import analyze_run

EVIL = (
    "<script>window.planted=1</script><img src=x onerror='window.planted=2'><svg onload=window.planted=3>"
    "</script><script>window.planted=4</script></style><style>*{background:url(http://127.0.0.1:9/a)}</style>"
    "<a href=\"javascript:window.planted=5\">x</a><iframe srcdoc='<script>parent.planted=6</script>'></iframe>"
    "<base href=http://127.0.0.1:9/><meta http-equiv=refresh content='0;url=http://127.0.0.1:9/b'>"
    "<form action=http://127.0.0.1:9/c><button>x</button></form><!-- ]]> --> <!--[if]>\u2028\u2029\"'"
    ";window.planted=7;//"
    "`${window.planted=8}`{{7*7}}{% raw %}\\3c script\\3e &lt;b&gt; &#60;i&#62; $\\frac{1}$ \x1b[2J"
)  # fmt: skip
PLANTED = re.compile(r"window\.planted|127\.0\.0\.1")
LINES = {  # file of a run folder -> the keys whose texts are a stranger's to choose
    "items.jsonl": {"question", "answer", "wrong", "original", "marks", "aliases", "others", "statements"},
    "records.jsonl": {"text", "reason", "judge"},
}


def tainted(value: Any, keys: set[str] | None) -> Any:
    """Return JSON with ``EVIL`` after every text, or after those below certain keys."""
    if isinstance(value, str):
        return value + EVIL if keys is None else value
    if isinstance(value, list):
        return [tainted(part, keys) for part in value]
    if isinstance(value, dict):
        return {key: tainted(part, None if keys is None or key in keys else keys) for key, part in value.items()}
    return value


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose every free text is hostile: answers, questions, names, settings, facts, notes, tables."""
    folder = make_run(
        tmp_path_factory.mktemp("hostile"), replace(Plan(), tasks=("triviaqa", "health"), items=2, planted=EVIL)
    )
    for name, keys in LINES.items():
        rows = [json.loads(line) for line in (folder / name).read_bytes().split(b"\n") if line]
        rows = [{key: value for key, value in row.items() if key != "crc32"} for row in rows]
        found = [tainted(row, keys) for row in rows]
        write = encode if name == "records.jsonl" else lambda row: orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        (folder / name).write_bytes(b"".join(write(row) for row in found))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["facts"] = tainted(manifest["facts"], {"engine", "why", "scorer", "warmeng", "python", "started"})
    manifest["facts"] |= {"default_system": EVIL, "adds_default_system": ["original" + EVIL]}
    manifest["inputs"]["setting"] = tainted(manifest["inputs"]["setting"], {"model", "tasks", "composition", "judges"})
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
    analyze_run(folder, bootstrap=20)
    analysis = json.loads((folder / "analysis.json").read_bytes())
    analysis["notes"] = [*analysis["notes"], EVIL]
    for table in analysis["tables"].values():
        table["title"], table["note"] = table["title"] + EVIL, table["note"] + EVIL
        for column in table["columns"]:
            column["label"] += EVIL
    (folder / "analysis.json").write_bytes(orjson.dumps(analysis))
    write_report(folder)
    return folder


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A browser window."""
    with Page(tmp_path / "profile") as found:
        yield found


@pytest.mark.slow
@pytest.mark.skipif(find_chrome() is None, reason="needs chromium")
def test_nothing_planted_anywhere_runs_and_everything_is_shown(hostile: Path, page: Page) -> None:
    page.open(hostile / "report.html")
    page.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    text = json.dumps("<script>window.planted")
    search = f"(async () => {{ const f = document.getElementById('f-text'); f.value = {text};"
    page.run(
        search
        + "f.dispatchEvent(new Event('input', {bubbles: true})); await new Promise((r) => setTimeout(r, 400)) })()"
    )
    assert page.run("document.querySelectorAll('mark').length") > 0
    page.run("[...document.querySelectorAll('button')].forEach((b) => { if (b.id !== 'f-clear') b.click() })")
    page.run("new Promise((r) => setTimeout(r, 400))")
    assert page.run("window.planted === undefined")
    for made in (
        "img",
        "iframe",
        "base",
        "object",
        "embed",
        "svg[onload]",
        "[onerror]",
        "form[action]",
        "a[href^=javascript]",
    ):
        assert page.run(f"document.querySelectorAll({made!r}).length") == 0, made
    assert page.run("document.querySelectorAll('meta[http-equiv=refresh], style').length") == 1  # its own style
    assert page.run("document.scripts.length") == 1
    assert page.complaints() == []
    assert page.requests() == [(hostile / "report.html").resolve().as_uri()]
    whole = page.run("document.body.textContent")
    shown = {  # each as it is, in the place that shows it
        "an answer": "[...document.querySelectorAll('.side .text')].some((e) => e.textContent.includes(EVIL))",
        "a question": "[...document.querySelectorAll('.place h3')].every((e) => e.textContent.includes(EVIL))",
        "a persona": "[...document.querySelectorAll('.side .name')].some((e) => e.textContent.includes(EVIL))",
        "a filter": "[...document.querySelectorAll('#f-persona option')].some((e) => e.textContent.includes(EVIL))",
        "a statement": "[...document.querySelectorAll('.told')].some((e) => e.textContent.includes(EVIL))",
        "a reason": "[...document.querySelectorAll('.why')].some((e) => e.textContent.includes(EVIL))",
        "the title": "document.querySelector('h1').textContent.includes('window.planted')",
        "a table": "[...document.querySelectorAll('#tables th')].some((e) => e.textContent.includes(EVIL))",
        "a note": "[...document.querySelectorAll('.notes li')].some((e) => e.textContent.includes(EVIL))",
        "a fact": "[...document.querySelectorAll('#asked dd')].some((e) => e.textContent.includes('window.planted'))",
    }
    page.run(f"globalThis.EVIL = {json.dumps(EVIL)}; 0")
    assert [place for place, test in shown.items() if not page.run(test)] == []
    assert "{{7*7}}" in whole
    assert "49{% raw" not in whole


@pytest.mark.slow
def test_the_pages_source_has_no_planted_markup(hostile: Path) -> None:
    """Before any script runs: between the tags, what was planted is escaped."""
    source = (hostile / "report.html").read_text(encoding="utf-8")
    assert "window.planted" in source
    for opening in (
        "<script>window",
        "<img src=x",
        "<svg onload",
        "<iframe srcdoc",
        "<base href",
        "<!-- ]]>",
        'javascript:window.planted=5">',
    ):
        assert opening not in source, opening
    data = source.partition('id="data">')[2].partition("<")[0]
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", data)


@pytest.mark.slow
def test_figures_hold_it_as_text(hostile: Path) -> None:
    drawn = sorted((hostile / "figures").glob("*.svg"))
    assert drawn
    for path in drawn:
        for element in ElementTree.parse(path).iter():
            assert element.tag.rpartition("}")[2] not in ("script", "foreignObject", "a", "image")
            assert not any(name.lower().startswith("on") for name in element.attrib)


@pytest.mark.slow
def test_markdown_has_no_element_link_picture_or_broken_row(hostile: Path) -> None:
    results = {
        "tables": {"error_rates": tables.table("error_rates", [])}, "grades": {}, "baseline": "original",
        "reasons": {EVIL + "\n| a | b |\n![x](http://127.0.0.1:9/d) [x](javascript:1) `code`": 3},
        "run": {"planned": 3, "missing": 0, "model": EVIL, "seed": 0, "deterministic": True,
                "default_system": EVIL + "|",
                "adds_default_system": [EVIL], "gates": {EVIL: {"probe": 1.0}}},
    }  # fmt: skip
    for text in (markdown(results), (hostile / "tables.md").read_text(encoding="utf-8").partition("## ")[0]):
        assert not re.search(r"(?<!\\)<(?!/?\s)[a-z/!]", text), text[:500]
    rows = [line for line in markdown(results).split("\n") if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
    assert not re.search(r"(?<!\\)\[|(?<!\\)`", markdown(results))


@pytest.mark.parametrize("form", ["csv", "authors"])
def test_no_cell_of_an_export_begins_like_a_formula(form: str, tmp_path: Path) -> None:
    formulas = [
        '=HYPERLINK("http://127.0.0.1:9")',
        "+1+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(1)",
        "\t=1",
        "\r=1",
        "'=1",
        "=1\n=2",
    ]
    folder = make_run(tmp_path / "run", replace(Plan(), tasks=("triviaqa",), items=2, contexts=("unmodified",)))
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_bytes().splitlines()]
    texts = []
    for number, row in enumerate(rows):
        row.pop("crc32")
        if row["kind"] == "answer":
            row["text"] = formulas[number % len(formulas)]
            texts.append(row["text"])
    (folder / "records.jsonl").write_bytes(b"".join(encode(row) for row in rows))
    items = [json.loads(line) for line in (folder / "items.jsonl").read_bytes().splitlines()]
    for item in items:
        item |= {"question": "=1+1?", "answer": "-5", "wrong": "@x"}
    (folder / "items.jsonl").write_bytes(b"".join(orjson.dumps(item) + b"\n" for item in items))
    cells, answers = [], []
    for written in export_run(folder, form):
        with Path(written).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                cells += [value for value in row.values() if value]
                answers.append(row["text" if form == "csv" else "output"])
    assert cells
    assert [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\r"))] == []
    assert {cell for cell in cells if cell.startswith("-")} <= {"-5", "-1"}  # numbers are no formulas
    back = [answer[1:] if re.match(r"''*[=+\-@\t\r]", answer) else answer for answer in answers]
    assert sorted(back) == sorted(texts)


def test_a_cell_can_be_told_from_its_text() -> None:
    told: Callable[[Any], Any] = as_cell
    assert [told(v) for v in ("-5", "+3.2", "-1,000", "-4%", "5", "a=b", "", None, True, -3, 0.5)] == [
        "-5", "+3.2", "-1,000", "-4%", "5", "a=b", "", None, 1, -3, 0.5,
    ]  # fmt: skip
    assert [told(v) for v in ("=1", "'=1", "''-x", "- item", "'quoted'")] == [
        "'=1",
        "''=1",
        "'''-x",
        "'- item",
        "'quoted'",
    ]


@pytest.mark.slow
@pytest.mark.skipif(find_chrome() is None, reason="needs chromium")
def test_names_that_every_object_of_the_browser_has_are_names(tmp_path: Path, page: Page) -> None:
    plan = replace(Plan(), tasks=("toString", "valueOf"), items=2, contexts=("unmodified",), length=3)
    folder = make_run(tmp_path / "run", plan)
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_bytes().splitlines()]
    for row in rows:
        del row["crc32"]
        row["persona"] = row["persona"].replace("warm", "constructor").replace("cold", "__proto__")
    (folder / "records.jsonl").write_bytes(b"".join(encode(row) for row in rows))
    analyze_run(folder, bootstrap=0)
    write_report(folder)
    page.open(folder / "report.html")
    shown = page.run("[...document.querySelectorAll('#f-persona option, #f-task option')].map((o) => o.textContent)")
    assert {"constructor", "__proto__", "toString", "valueOf"} <= set(shown)
    assert "native code" not in page.run("document.body.textContent")
    assert page.complaints() == []
