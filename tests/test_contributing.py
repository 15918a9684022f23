"""What CONTRIBUTING.md asks for beside code: nothing that was added lacks its page, its twin or its test."""

from __future__ import annotations

import ast
import re
import typing
from pathlib import Path

from fuzz_seeds import TASKS

from warmeng.engine.config import ModelConfig
from warmeng.study.stats.tables import SCHEMA
from warmeng.study.tasks.registry import LAYOUTS, detect

ROOT = Path(__file__).parent.parent


def tree(path: str | Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def names(path: str, name: str) -> set[str]:
    """The keys or elements of what a module assigns to a name."""
    for node in tree(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            value = node.value
            return {ast.literal_eval(one) for one in (value.keys if isinstance(value, ast.Dict) else value.elts)}
    raise AssertionError(f"{path} has no {name}")


def test_every_reader_is_a_layout_and_every_layout_has_its_row() -> None:
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in page.splitlines() if line[:3] == "| `")))
    for path in sorted((ROOT / "study" / "tasks").glob("*.py")):
        if any(isinstance(node, ast.FunctionDef) and node.name == "read" for node in tree(path).body):
            assert path.stem in LAYOUTS, f"{path}: register its reader in LAYOUTS of study/tasks/registry.py"
    assert set(LAYOUTS) <= rows, f"docs/tasks.md: give {set(LAYOUTS) - rows} a row"


def test_every_layout_is_told_by_its_columns_and_has_a_sound_file_to_damage(tmp_path: Path) -> None:
    told = set()
    for name, raw in TASKS:
        (tmp_path / name).write_bytes(raw)
        told.add(detect(tmp_path / name))
    lacking = set(LAYOUTS) - told
    assert not lacking, f"{lacking}: give TASKS of tests/helpers/fuzz_seeds.py a sound file, and detect its columns"


def test_the_page_of_tasks_has_each_layouts_grading() -> None:
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    table = page.partition("| layout |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        layouts, _, gradings, _ = (cell.strip() for cell in line.strip("|").split("|"))
        for name, grading in zip(re.findall(r"`(\w+)`", layouts), gradings.split(", "), strict=True):
            assert LAYOUTS[name].grading == grading, f"docs/tasks.md: {name} is graded by {LAYOUTS[name].grading}"


def test_every_family_is_compared_with_transformers() -> None:
    families = set(typing.get_args(typing.get_type_hints(ModelConfig)["family"]))
    made = names("tests/conftest.py", "FAMILIES")
    assert {name.partition("-")[0] for name in made} == families, "tests/conftest.py: FAMILIES"
    for path in ("tests/engine/test_oracle.py", "tests/finetune/test_step.py"):
        assert names(path, "FAMILIES") == made, f"{path}: FAMILIES"


def test_every_kernel_has_a_twin_and_is_compiled() -> None:
    compiled = names("tests/kernels/gpu/test_compiled.py", "KERNELS")
    launched: set[str] = set()
    for path in sorted((ROOT / "kernels" / "gpu").glob("*.py")):
        found = tree(path)
        functions = [node for node in ast.walk(found) if isinstance(node, ast.FunctionDef)]
        jitted = {f.name for f in functions if any("triton.jit" in ast.unparse(d) for d in f.decorator_list)}
        calls = [n.func for n in ast.walk(found) if isinstance(n, ast.Call) and isinstance(n.func, ast.Subscript)]
        here = jitted & {call.value.id for call in calls if isinstance(call.value, ast.Name)}
        launched |= here
        # The twin of these is the CPU backend's own, or that of all products.
        if here and path.name not in ("along.py", "sampling.py", "quantize.py", "int4.py"):
            assert any(f.name.endswith("_plain") for f in functions), f"{path}: no ..._plain twin"
    assert launched == compiled, "tests/kernels/gpu/test_compiled.py: KERNELS"


def test_every_table_is_on_the_page_of_statistics() -> None:
    page = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    missing = [name for name in SCHEMA if f"`{name}`" not in page]
    assert not missing, f"docs/statistics.md doesn't name {missing}"


def test_what_the_guide_names_is_there() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:\.ci|docs|engine|face|finetune|kernels|study|tests)/[\w./-]*)`", guide)
    assert len(named) > 20
    for name in named:
        if "NAME" not in name:
            assert (ROOT / name).exists(), f"CONTRIBUTING.md names {name}"
