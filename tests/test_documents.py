"""What the documents show from Python runs as it stands, on the built-in model; generated pages are current."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import warmeng
from warmeng.cli.main import COMMANDS

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
    assert "- `--persona NAME=[ADAPTER|full:MODEL][@PROMPT]`: What is compared" in pages["cli.md"]


def test_every_page_is_in_the_site() -> None:
    listed = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
