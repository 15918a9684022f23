"""Imports go one way. The syntax trees are walked, so imports inside functions count too.

The folder ``face`` is the package ``warmeng`` itself. It may name what it exports; the others know its version alone.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "common": set(),
    "kernels": set(),
    "engine": {"kernels", "common"},
    "fleet": {"engine", "common"},
    "remote": {"common"},
    "finetune": {"remote", "fleet", "engine", "kernels", "common"},
    "study": {"remote", "fleet", "engine", "common"},
    "serve": {"study", "engine", "common"},
    "plugins": {"serve", "study", "engine", "common"},
    "bench": {"finetune", "fleet", "engine", "kernels", "common"},
    "cli": {"plugins", "serve", "study", "finetune", "bench", "fleet", "engine", "common"},
    "face": {"study", "fleet", "engine", "common"},
}
FOLDERS = set(ALLOWED) - {"face"}
BY_NAME = re.compile(rf"warmeng\.({'|'.join(FOLDERS)})\b")  # modules that are imported by name later
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
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and BY_NAME.match(node.value):
            names.add(node.value)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_rules(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "warmeng" and parts[1:] not in ([], ["__version__"]):
            assert parts[1] in FOLDERS, f"{folder} imports {name}: import it from where it is defined"
            assert parts[1] in ALLOWED[folder] | {folder}, f"{folder} may not import {name}"
        assert parts[0] not in ALLOWED, f"{name}: import it as warmeng.{name}"


def test_every_folder_with_code_is_in_the_rules_and_is_linked_and_installed() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(ALLOWED)
    links = next(line for line in (ROOT / ".ci" / "link").read_text().splitlines() if line.startswith("for folder in "))
    assert set(links.removeprefix("for folder in ").removesuffix("; do").split()) == FOLDERS
    assigned = {
        node.targets[0].id: node.value
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert set(ast.literal_eval(assigned["FOLDERS"])) == FOLDERS


def module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(("warmeng", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def rooms_of(place: Path, root: Path) -> dict[str, set[str]]:
    """Return which rooms (files and folders) of a folder each of its rooms imports."""
    prefix = module_of(place / "__init__.py", root) + "."
    arrows: dict[str, set[str]] = {}
    for path in sorted(place.rglob("*.py")):
        module = module_of(path, root)
        if not module.startswith(prefix):
            continue
        room = module.removeprefix(prefix).split(".")[0]
        others = {name.removeprefix(prefix).split(".")[0] for name in imported(path) if name.startswith(prefix)}
        arrows.setdefault(room, set()).update(others - {room})
    return {room: others & arrows.keys() for room, others in arrows.items()}


PLACES = sorted({path.parent for path in FILES if (path.parent / "__init__.py").exists()})


@pytest.mark.parametrize("place", PLACES, ids=lambda place: str(place.relative_to(ROOT)))
def test_no_rooms_of_a_folder_import_each_other_in_a_circle(place: Path) -> None:
    arrows = rooms_of(place, ROOT)
    assert arrows.keys() or place.name == "face"
    list(TopologicalSorter(arrows).static_order())  # raises CycleError, which names the circle


def test_a_circle_is_seen(tmp_path: Path) -> None:
    files = {"study/run/run.py": "warmeng.study.report.page", "study/report/page.py": "warmeng.study.run.run"}
    for name, imports in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"def f():\n    from {imports} import x\n")
    assert rooms_of(tmp_path / "study", tmp_path) == {"run": {"report"}, "report": {"run"}}
    with pytest.raises(CycleError, match="run"):
        list(TopologicalSorter(rooms_of(tmp_path / "study", tmp_path)).static_order())


def test_the_rules_see_a_violation(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from warmeng.study.plan import Planner\n    import kernels.norm\n")
    assert {"warmeng.study.plan.Planner", "kernels.norm"} <= imported(bad)


def test_the_face_exports_what_it_says_and_loads_nothing_before_it_is_used() -> None:
    tree = ast.parse((ROOT / "face" / "__init__.py").read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for name in names_of(node)}
    code = """
import sys, warmeng
heavy = {"torch", "numpy", "transformers", "click", "orjson"} & set(sys.modules)
assert not heavy and not hasattr(warmeng, "Nothing"), heavy
assert set(warmeng.__all__) <= set(dir(warmeng))
for name in warmeng.__all__:
    if name != "__version__":
        value = getattr(warmeng, name)
        print(name, warmeng._MODULE_OF[name], getattr(sys.modules[warmeng._MODULE_OF[name]], name) is value)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {name: module for name, module, same in map(str.split, done.stdout.splitlines()) if same == "True"}
    assert found == typed  # for type checkers, and when it runs


def names_of(node: ast.ImportFrom) -> list[str]:
    return [alias.name for alias in node.names]


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
