"""Imports go one way. The syntax trees are walked, so imports inside functions count too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "kernels": set(),
    "engine": {"kernels"},
    "finetune": {"engine", "kernels"},
    "study": {"engine"},
    "bench": {"finetune", "engine", "kernels"},
    "cli": {"study", "finetune", "bench", "engine"},
}
FILES = [path for folder in ALLOWED for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports; relative imports are refused outright."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import, expected warmeng.<folder>..."
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("warmeng."):
            names.add(node.value)  # modules that are imported by name later
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_rules(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "warmeng" and parts[1] in ALLOWED and parts[1] != folder:
            assert parts[1] in ALLOWED[folder], f"{folder} may not import {name}"
        assert parts[0] not in ALLOWED, f"{name}: import it as warmeng.{name}"


def test_the_rules_see_a_violation(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from warmeng.study.plan import Planner\n    import kernels.norm\n")
    assert {"warmeng.study.plan.Planner", "kernels.norm"} <= imported(bad)


def test_no_pickle_and_no_remote_code() -> None:
    """Weights come from safetensors alone."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("torch", "load"), path
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None) or ""
                assert "pickle" not in {module, *(alias.name for alias in node.names)}, path
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
