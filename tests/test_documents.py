"""What the documents show from Python runs as it stands, on the built-in model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WITH_BLOCKS = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]
PATHS = {"path/to/peft-adapter": ROOT / "study" / "data" / "adapters" / "warm"}


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


def test_the_readme_shows_python() -> None:
    assert ROOT / "README.md" in WITH_BLOCKS
