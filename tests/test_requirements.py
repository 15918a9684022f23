"""What setup.py asks for is what the code imports, and constraints.txt pins it within those bounds."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FOLDERS = (
    "face", "common", "kernels", "engine", "fleet", "remote", "finetune", "study", "serve", "plugins", "bench", "cli",
)  # fmt: skip
OPTIONAL = ("gpu", "parquet", "serve", "api", "ray", "lm-eval", "inspect")  # extras that product code imports
MODULES = {"pyyaml": "yaml"}  # what a distribution is imported as, where it is not its name
BESIDE = {"peft", "trl", "datasets"}  # benches compare with these where they are installed
RIVALS = {"openvino", "openvino_genai", "nncf", "ctranslate2", "vllm", "llama_cpp"}  # and with these, which need much
IF_THERE = {"pynvml"}  # reads a GPU's energy where the driver's package is installed


def keywords() -> dict[str, Any]:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup"]
    wanted = {"install_requires", "extras_require"}
    return {k.arg: ast.literal_eval(k.value) for k in calls[0].keywords if k.arg in wanted}


REQUIRED = [Requirement(text) for text in keywords()["install_requires"]]
EXTRAS = {name: [Requirement(text) for text in texts] for name, texts in keywords()["extras_require"].items()}
ALL = [r for r in [*REQUIRED, *(r for some in EXTRAS.values() for r in some)] if r.name != "warmeng"]
PINS = {
    canonicalize_name(pin.name): pin
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
    for pin in [Requirement(line)]
}


LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
LOCKED = {
    canonicalize_name(asked.name): (asked, hashes)
    for line in LOCK
    if line and not line.startswith("#")
    for text, _, hashes in [line.partition(" --hash=")]
    for asked in [Requirement(text)]
}


def modules(requirements: list[Requirement]) -> set[str]:
    return {MODULES.get(name := canonicalize_name(r.name), name.replace("-", "_")) for r in requirements}


def imported() -> set[str]:
    """The top-level modules that product code imports, anywhere in it, but for ours and Python's own."""
    found: set[str] = set()
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"warmeng"}


def test_what_is_imported_is_required_and_nothing_else() -> None:
    optional = modules([r for name in OPTIONAL for r in EXTRAS[name]])
    assert imported() - IF_THERE - BESIDE - RIVALS - optional == modules(REQUIRED)
    assert modules(EXTRAS["dev"]) >= BESIDE


@pytest.mark.parametrize("requirement", ALL, ids=str)
def test_the_pinned_version_is_one_that_setup_admits(requirement: Requirement) -> None:
    pin = PINS.get(canonicalize_name(requirement.name))
    assert pin is not None, f"constraints.txt: pin {requirement.name}"
    (only,) = pin.specifier
    assert only.operator == "=="
    assert requirement.specifier.contains(only.version)


def test_nothing_else_is_pinned() -> None:
    assert set(PINS) == {canonicalize_name(r.name) for r in ALL}


def test_what_ci_installs_is_what_is_pinned_with_its_hashes() -> None:
    """All but torch, whose wheel depends on the device."""
    assert set(PINS) - set(LOCKED) == {"torch"}
    assert {name: LOCKED[name][0].specifier for name in set(PINS) & set(LOCKED)} == {
        name: pin.specifier for name, pin in PINS.items() if name in LOCKED
    }
    for asked, hashes in LOCKED.values():
        assert [one.operator for one in asked.specifier] == ["=="]
        assert re.fullmatch(r"sha256:[0-9a-f]{64}( +--hash=sha256:[0-9a-f]{64})*", hashes.strip()), asked


# The last version with a hole that hostile input reaches: a sandbox's escape, and a crash on nested brackets.
HOLES = {"jinja2": "3.1.5", "orjson": "3.9.14"}


@pytest.mark.parametrize("name", HOLES)
def test_no_version_with_a_known_hole_is_admitted(name: str) -> None:
    (requirement,) = (r for r in REQUIRED if r.name == name)
    assert not requirement.specifier.contains(HOLES[name])
