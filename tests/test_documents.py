"""What the documents show from Python runs as it stands, on the built-in model; generated pages are current."""

from __future__ import annotations

import csv
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import click
import orjson
import pytest

import warmeng
from warmeng.cli.main import COMMANDS
from warmeng.cli.main import warmeng as group

ROOT = Path(__file__).parent.parent
GENERATED = ("api.md", "cli.md")
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name not in GENERATED)]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WITH_BLOCKS = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]
PATHS = {"path/to/peft-adapter": ROOT / "study" / "data" / "adapters" / "warm"}


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """All blocks of a page, from top to bottom, in a folder of their own; placeholders of paths are filled in."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for placeholder, path in PATHS.items():
            block = block.replace(placeholder, str(path))
        exec(compile(block, str(page), "exec"), names)
    assert capsys.readouterr().out.strip()


def test_the_pages_that_show_python_are_found() -> None:
    assert {"README.md", "tutorial.md"} <= {page.name for page in WITH_BLOCKS}


def commands_of(text: str) -> list[tuple[str, bool]]:
    """The commands that a page shows, each with whether it is a line of code, so that it is whole."""
    found = []
    fenced = False
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        fenced ^= line.startswith("```")
        if fenced or line.startswith("    "):
            for part in re.split(r"&& ", re.split(r" #| >+ ", line)[0]):
                if part.strip().startswith("warmeng ") and "[" not in part:
                    # What stands after a wide gap explains the command; a shell sends what it prints into a file.
                    found.append((re.split(r" {3,}| >", part.strip())[0], True))
        else:
            found += [(inline, False) for inline in re.findall(r"`(warmeng [^`]*)`", line)]
    return found


def parsed(line: str, whole: bool) -> None:
    """Parse a command as the command line does; of a part of one, look for the options that it names."""
    words = shlex.split(line)[1:]
    command: click.Command = group
    while isinstance(command, click.Group) and words and not words[0].startswith("-") and words[0].islower():
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"{line}: there is no command {words[0]}"
        command, words = found, words[1:]
    if command.context_settings.get("ignore_unknown_options"):
        return  # another program's
    if whole and not isinstance(command, click.Group):
        command.make_context(command.name, list(words)).close()
    names = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    for word in words:
        assert not word.startswith("--") or word.partition("=")[0] in names, f"{line}: there is no option {word}"


ALL_PAGES = [*PAGES, ROOT / "docs" / "cli.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_commands_that_are_shown_are_commands(page: Path) -> None:
    for line, whole in commands_of(page.read_text(encoding="utf-8")):
        try:
            parsed(line, whole)
        except click.ClickException as error:
            raise AssertionError(f"{page.name}: {line}: {error.format_message()}") from error


def test_a_command_that_is_none_is_seen() -> None:
    text = (
        "```bash\nwarmeng run --limits 3   few\n```\nUse `warmeng analyse RUN`.\n"
        "    warmeng report runs/a && warmeng export \\\n      runs/a"
    )
    assert [line for line, _ in commands_of(text)] == [
        "warmeng run --limits 3", "warmeng analyse RUN", "warmeng report runs/a", "warmeng export runs/a"
    ]  # fmt: skip
    with pytest.raises(click.NoSuchOption):
        parsed("warmeng run --limits 3", True)
    with pytest.raises(AssertionError, match="no command analyse"):
        parsed("warmeng analyse RUN", False)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_current(reference: ModuleType) -> None:
    pages = reference.pages()
    assert set(pages) == set(GENERATED)
    for name, text in pages.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, "write it again: python docs/reference.py"


def test_the_reference_has_every_command_and_every_public_name(reference: ModuleType) -> None:
    pages = reference.pages()
    for name in COMMANDS:
        assert f"\n### warmeng {name}\n" in pages["cli.md"]
    for name in set(warmeng.__all__) - {"__version__"}:
        assert f"\n## {name}\n" in pages["api.md"]
    assert "- `--persona NAME=[ADAPTER|full:MODEL|openai:MODEL][@PROMPT]`: What is compared" in pages["cli.md"]


def test_every_page_is_in_the_site() -> None:
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.slow
def test_the_data_dictionary_has_every_field_of_a_run(launcher, tmp_path: Path) -> None:
    """A run with every kind of record: what its lines hold stands in the page, and what stands there is known."""
    arguments = ["run", "--tasks", "facts,misconceptions", "--limit", "1", "--asking", "open,choice", "--judge", "base"]
    arguments += ["--warmth-prompts", "1"]
    assert launcher.run([*arguments, "--out", tmp_path / "r"]).code == 0
    assert launcher.run(["export", tmp_path / "r", "--out", tmp_path / "a.csv"]).code == 0
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    told = {part.partition("\n")[0]: part for part in page.split("\n## ")[1:]}

    def fields(heading: str) -> set[str]:
        rows = re.findall(r"^\| (`[^|]*) \|", told[heading], re.MULTILINE)
        return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}

    def lines(name: str) -> list[dict[str, object]]:
        return [orjson.loads(line) for line in (tmp_path / "r" / name).read_bytes().splitlines()]

    records = lines("records.jsonl")
    assert {record["kind"] for record in records} >= {"answer", "margin", "judged"}
    # Of runs with steering vectors, of an API, of tasks that are scored.
    elsewhere = {"projections", "answered_by", "fingerprint", "labels"}
    assert {key for record in records for key in record} | elsewhere == fields("Records")
    assert {key for item in lines("items.jsonl") for key in item} == fields("Items")
    assert {key for row in lines("responses.jsonl") for key in row} <= set(re.findall(r"`(\w+)`", page))
    header = next(csv.reader((tmp_path / "a.csv").read_text().splitlines()))
    ranges = {"key": "status", "question": "grading"}
    named = fields("Exported answers")
    for first, last in ranges.items():
        named |= set(header[header.index(first) : header.index(last) + 1])
    assert named == set(header)
    files = {path.name for path in (tmp_path / "r").iterdir() if path.suffix in (".jsonl", ".json")}
    assert files - {"records.jsonl", "items.jsonl"} <= fields("Other files of a run")
