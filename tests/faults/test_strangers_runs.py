"""A run from somebody else, or edited, or unfinished: what is read of it is one run's, and is only shown."""

from __future__ import annotations

import ast
import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import orjson
import pytest
from sample import Plan, make_run
from tiers import slow

from warmeng.cli.main import main, warmeng
from warmeng.common.errors import InputError
from warmeng.common.journal import encode
from warmeng.common.terminal import console, printable
from warmeng.study.export.export import FORMATS, export_run
from warmeng.study.report.page import load_run, render
from warmeng.study.results.manifest import read_manifest, write_manifest
from warmeng.study.results.records import FILE, read_records
from warmeng.study.results.tied import PLAN, digest, hashes, mismatches, refuse_edited, tie
from warmeng.study.stats.analyze import analyze_sources
from warmeng.study.warmth.rating import make_pairs, read_ratings, write_sheet

SMALL = Plan(tasks=("health",), items=2, contexts=("unmodified",), beliefs=("none", "wrong"), length=3)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 answers as the study leaves it: its manifest knows its keys, its session its files.

    With its analysis; not to be changed.
    """
    folder = make_run(tmp_path_factory.mktemp("made") / "run", SMALL)
    manifest = read_manifest(folder)
    assert manifest is not None
    keys = [r["key"] for r in read_records(folder / FILE)]
    inputs = {**manifest.inputs, PLAN: digest(keys)}
    judgments = len(keys) - manifest.planned
    write_manifest(folder, type(manifest)(inputs, manifest.facts, manifest.planned, judgments))
    session = {"seconds": 1.0, "files": hashes(folder, ("manifest.json", "items.jsonl"))}
    (folder / "sessions.jsonl").write_bytes(orjson.dumps(session) + b"\n")
    analyze_sources((folder,), bootstrap=0)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def rewrite(run: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change the records of a run, with right checksums."""
    rows = [{k: v for k, v in row.items() if k != "crc32"} for row in map(json.loads, (run / FILE).open())]
    change(rows)
    (run / FILE).write_bytes(b"".join(encode(row) for row in rows))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file, or the first line of one of JSON lines."""
    first, *rest = path.read_bytes().split(b"\n") if path.suffix == ".jsonl" else [path.read_bytes()]
    content = orjson.loads(first)
    change(content)
    path.write_bytes(b"\n".join([orjson.dumps(content), *rest]))


def page_of(run: Path) -> str:
    """Return the report without its figures, which take most of the time."""
    return render(load_run(run))


def readers(run: Path) -> list[Callable[[], object]]:
    return [
        lambda: analyze_sources((run,), bootstrap=0),
        lambda: page_of(run),
        # The run's questions have no wrong answers, so there are no margins to export.
        *(lambda form=form: export_run(run, form) for form in FORMATS if form != "margins"),
    ]


def temperature(manifest: dict[str, Any]) -> None:
    manifest["inputs"]["setting"]["temperature"] = 0.1


def facts(manifest: dict[str, Any]) -> None:
    manifest["facts"]["judges"] = {}


def question(item: dict[str, Any]) -> None:
    item["question"] = "Who else?"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("manifest.json", temperature),
        ("manifest.json", facts),
        ("items.jsonl", question),
        ("items.jsonl", lambda item: item.update(answer="Wrong 0")),
    ],
)
def test_an_edited_manifest_or_item_is_refused(run: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    refuse_edited(run)
    edit(run / name, change)
    for read in readers(run):
        with pytest.raises(InputError, match=f"{name}: is not what it was when the run was made"):
            read()


def test_records_of_another_run_of_the_same_places_are_refused(run: Path) -> None:
    rewrite(run, lambda rows: [row.update(key=f"{k:032x}", of=f"{k - 1:032x}") for k, row in enumerate(rows)])
    for read in readers(run):
        with pytest.raises(InputError, match=r"records\.jsonl: holds records of another run than manifest\.json"):
            read()


def swap(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["persona"] = {"warm": "original", "original": "warm"}.get(row["persona"], row["persona"])


def better(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["persona"] == "warm" and row["kind"] == "answer":
            row["grade"], row["which"] = "correct", None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: rewrite(run, swap), "made of another records.jsonl"),
        (lambda run: rewrite(run, better), "made of another records.jsonl"),
        (lambda run: rewrite(run, lambda rows: rows.pop()), "made of another records.jsonl"),
        (lambda run: edit(run / "analysis.json", lambda a: a.update(rule="paper")), "changed after it was made"),
        (lambda run: edit(run / "analysis.json", lambda a: a.pop("of")), "does not tell which files"),
        (lambda run: edit(run / "analysis.json", lambda a: a["of"].append({})), "of 2 runs together"),
    ],
)
def test_an_analysis_of_other_files_is_marked_in_the_report(
    run: Path, change: Callable[[Path], Any], said: str
) -> None:
    """Where it is of these files, it is not."""
    assert "made of another" not in page_of(run)
    change(run)
    page = page_of(run)
    assert said in page
    assert "gates failed" in page
    analyze_sources((run,), bootstrap=0)
    assert "Make it again with warmeng analyze" not in page_of(run)


def test_another_runs_analysis_is_marked(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", Plan(**{**vars(SMALL), "seed": 1}))
    analyze_sources((other,), bootstrap=0)
    shutil.copy(other / "analysis.json", run)
    assert "made of another manifest.json and another" in page_of(run)


def test_the_checksum_of_an_analysis_is_of_its_content(run: Path) -> None:
    analysis = orjson.loads((run / "analysis.json").read_bytes())
    assert mismatches(analysis, run) == []
    assert tie(analysis, [run]) == analysis
    assert mismatches({**analysis, "notes": ["Better."]}, run) == ["The analysis was changed after it was made."]


EVIL = "x\x1b]0;PWNED\x07\x1b[2J\u202egnp.exe\x9b31m"
FORMULAS = ["=cmd|' /C calc'!A0", "@SUM(1+1)", "+1+cmd|'x'", "-2+3+cmd", '=HYPERLINK("http://x/","y")', "\t=1", "'=1"]


def name_personas(run: Path, name: str) -> None:
    rewrite(run, lambda rows: [r.update(persona=name) for r in rows if r["persona"] == "warm"])
    edit(run / "manifest.json", lambda m: m["inputs"]["setting"].update(personas=["original", name, "cold"]))
    (run / "sessions.jsonl").unlink()


def test_no_table_holds_a_formula(run: Path) -> None:
    name_personas(run, FORMULAS[0])
    analyze_sources((run,), bootstrap=0)
    cells = [
        cell
        for path in (run / "tables").iterdir()
        for row in csv.reader(io.StringIO(path.read_text(), newline=""))
        for cell in row
    ]
    assert f"'{FORMULAS[0]}" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "@", "+", "\t"))]
    assert "-0.0" not in [cell for cell in cells if cell.startswith("'-")], "numbers stay numbers"


def test_a_rating_sheet_holds_no_formula_and_is_read_again(tmp_path: Path) -> None:
    pairs = make_pairs(
        [(f"{k}", f"{text}?") for k, text in enumerate(FORMULAS)], FORMULAS, [f"{t} v" for t in FORMULAS],
        [0.1] * len(FORMULAS), 0,
    )  # fmt: skip
    sheet = write_sheet(tmp_path, pairs)[0]
    rows = list(csv.reader(io.StringIO(sheet.read_text(), newline="")))
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "@", "+", "-", "\t"))]
    filled = [rows[0], *([*row[:4], "A"] for row in rows[1:])]
    with sheet.open("w", newline="") as file:
        csv.writer(file).writerows(filled)
    assert len(read_ratings(sheet, {pair.id: {"variant": "A"} for pair in pairs})) == len(FORMULAS)


def test_a_strangers_names_steer_no_terminal(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name_personas(run, EVIL)
    out = run.parent / f"o{EVIL.replace('/', '')}"
    for command in (
        ["analyze", str(run), "--bootstrap", "0", "--out", str(out)],
        ["export", str(run), "--format", "csv", "--out", str(out / "a.csv")],
        ["report", str(run), "--out", str(out)],
    ):
        assert warmeng.main(command, standalone_mode=False) == 0
    said = capsys.readouterr()
    assert "\\x1b]0;PWNED\\x07" in said.out
    assert printable(said.out + said.err) == said.out + said.err


def test_rich_keeps_its_own_styles_and_shows_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table

    out = io.StringIO()
    shown = console()
    shown.file, shown._force_terminal = out, True
    table = Table("[bold]name of a persona[/bold]")
    table.add_row("a\x1b[2Jb")
    shown.print(table)
    assert "a\\x1b[2Jb" in out.getvalue()
    shown.print("[bold]c[/bold]\x07")
    assert "\x07" not in out.getvalue()


def test_everything_is_printed_in_one_place() -> None:
    """So that nothing of others reaches a terminal as it is."""
    for folder in ("cli", "common", "engine", "remote", "finetune", "study", "kernels"):
        for path in (ROOT / folder).rglob("*.py"):
            if path == ROOT / "common" / "terminal.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    assert called not in ("print", "click.echo", "click.secho", "Console", "rich.print"), path


TYPES: list[tuple[str, Any]] = [
    ("grade", ["a"]), ("grade", "splendid"), ("grade", None), ("kind", 5), ("kind", "strange"), ("text", ["a"]),
    ("status", None), ("sample", "abc"), ("persona", 5), ("task", None), ("item", {}), ("which", "nobody"),
    ("labels", {"right": "NaN"}), ("labels", [1]), ("framing", 3), ("tokens", "many"), ("margin", {"right": 1}),
    ("sample", 2**62),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), TYPES)
def test_a_record_of_other_types_is_one_line(run: Path, field: str, value: Any) -> None:
    rewrite(run, lambda rows: rows[0].update({field: value}))
    for read in readers(run):
        with pytest.raises(InputError, match=r"records\.jsonl: record [0-9a-f]{32} "):
            read()


@pytest.mark.parametrize("field", ["grade", "persona", "task", "context", "belief", "item", "sample", "status"])
def test_a_record_without_a_field_is_one_line(run: Path, field: str) -> None:
    rewrite(run, lambda rows: rows[0].pop(field))
    for read in readers(run):
        with pytest.raises(InputError, match="lacks or does not know"):
            read()


PLACES: list[tuple[tuple[str, ...], Any]] = [
    (("facts", "judges"), 5), (("facts", "gates"), [1]), (("facts", "gates"), {"warm": 3}), (("planned",), "many"),
    (("planned",), -1), (("judgments",), None), (("inputs", "setting"), [1, 2]), (("facts", "systems"), "x"),
    (("inputs", "setting", "temperature"), "hot"), (("inputs", "setting", "personas"), 7),
    (("inputs", "setting", "cells"), "x"), (("facts", "doses"), [3]), (("facts", "primary"), {}),
    (("inputs", "items"), 5), (("inputs", "setting", "contexts"), [1, None]),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), PLACES)
def test_a_manifest_of_other_types_is_one_line(run: Path, place: tuple[str, ...], value: Any) -> None:
    def change(manifest: dict[str, Any]) -> None:
        for name in place[:-1]:
            manifest = manifest[name]
        manifest[place[-1]] = value

    edit(run / "manifest.json", change)
    (run / "sessions.jsonl").unlink()
    for read in readers(run):
        with pytest.raises(InputError, match=r"manifest\.json"):
            read()


@pytest.mark.parametrize("field", ["context", "belief"])
def test_a_place_that_no_item_knows_is_one_line(run: Path, field: str) -> None:
    rewrite(run, lambda rows: rows[0].update({field: "zz"}))
    for form in ("authors", "lm-eval"):
        with (
            pytest.raises(InputError, match="was asked with 'zz'")
            if "lm-eval" in form or field == "context"
            else nullcontext()
        ):
            export_run(run, form)


@pytest.mark.parametrize(
    "name", ["temperature", "model", *slow("top_p", "personas", "tasks", "seed", "composition", "cells")]
)
def test_a_manifest_that_lacks_a_setting_is_read(run: Path, name: str) -> None:
    edit(run / "manifest.json", lambda manifest: manifest["inputs"]["setting"].pop(name))
    (run / "sessions.jsonl").unlink()
    for read in readers(run):
        read()


@pytest.mark.parametrize("command", ["analyze", "report", "export"])
def test_a_run_that_lacks_answers_ends_with_70(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    rewrite(run, lambda rows: rows.__delitem__(slice(6, None)))
    kept = sum(r["kind"] == "answer" for r in read_records(run / FILE))
    out = tmp_path / "out.csv" if command == "export" else tmp_path / "out"
    assert warmeng.main([command, str(run), "--out", str(out)], standalone_mode=False) == 70
    assert f"{12 - kept} of 12 answers are missing" in capsys.readouterr().err
    assert out.exists()


def called(arguments: list[str], monkeypatch: pytest.MonkeyPatch, encoding: str, stdout: io.BufferedIOBase) -> int:
    """Run the command line with an stdout of its own and return the exit code."""
    monkeypatch.setattr(sys, "argv", ["warmeng", *arguments])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stdout, encoding=encoding, write_through=True))
    monkeypatch.setattr("warmeng.cli.main.install_signal_handlers", lambda line: None)
    monkeypatch.setattr("warmeng.cli.main.ignore_interrupts", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_few_characters_ends_no_command(
    run: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    out = io.BytesIO()
    assert called(["analyze", str(run), "--bootstrap", "0"], monkeypatch, encoding, out) == 0
    assert ("–" if encoding == "utf-8" else "\\u2013") in out.getvalue().decode(encoding)


class Closed(io.BytesIO):
    """A pipe whose reader has gone after some bytes."""

    def write(self, data: Any) -> int:
        """Take a few bytes in all."""
        if self.tell() > 100:
            raise BrokenPipeError
        return super().write(data)


def test_a_reader_that_goes_ends_a_command_with_141(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert called(["analyze", str(run), "--bootstrap", "0"], monkeypatch, "utf-8", Closed()) == 141


def test_a_name_that_no_file_can_have_is_the_disks(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["export", str(run), "--out", str(run.parent / ("x" * 300))]
    assert called(arguments, monkeypatch, "utf-8", io.BytesIO()) == 74


def test_a_panic_of_a_library_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class PanicException(BaseException):
        """As those of libraries written in Rust."""

    def panic(*given: object) -> None:
        raise PanicException("called unwrap on None")

    monkeypatch.setattr("warmeng.study.export.export.export_run", panic)
    assert called(["export", str(run)], monkeypatch, "utf-8", io.BytesIO()) == 70
    assert capsys.readouterr().err.count("\n") == 1
