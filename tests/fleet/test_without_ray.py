"""Without Ray everything works but ``--ray``, which says what is missing; and nothing but ``--ray`` imports it."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from warmeng.cli.run import run
from warmeng.common.errors import UsageError
from warmeng.fleet.cluster import _why, join
from warmeng.fleet.settings import FleetSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def no_ray(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else find(name, *more))


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("more", [[], ["--dry-run", "--no-probe"]])
def test_ray_that_is_not_installed_is_one_line(tmp_path, more):
    done = CliRunner().invoke(run, ["--ray", "--out", str(tmp_path / "r"), *more])
    assert isinstance(done.exception, UsageError)
    assert str(done.exception) == "--ray needs Ray, which is not installed: pip install 'warmeng[ray]'"
    assert not (tmp_path / "r").exists()
    with pytest.raises(UsageError, match="not installed"):
        join(FleetSettings())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--workers", "2"], "are of --ray"),
        (["--worker-cores", "2"], "are of --ray"),
        (["--ray", "--fast"], "leave --fast or --ray out"),
        (["--ray", "--workers", "0"], "workers is 0, expected at least 1"),
        (["--ray", "ray://host:10001"], "expected HOST:PORT or auto"),
        (["--ray", "--model", "openai:gpt-4o"], "openai:gpt-4o is behind an API"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(given, said, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: find("click" if name == "ray" else name))
    done = CliRunner().invoke(run, [*given, "--out", str(tmp_path / "r")])
    assert isinstance(done.exception, UsageError), done
    assert said in str(done.exception)


def test_one_module_alone_imports_ray_and_only_when_it_is_used():
    importing = {}
    for path in ROOT.glob("*/**/*.py"):
        # Folders with a point are environments and links.
        if (folder := path.parts[len(ROOT.parts)]) == "tests" or folder.startswith("."):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "ray" for name in names):
                importing.setdefault(str(path.relative_to(ROOT)), []).append(node.col_offset)
    assert set(importing) == {"fleet/cluster.py"}
    assert all(offset > 0 for offset in importing["fleet/cluster.py"])


@pytest.mark.slow
def test_a_run_without_it_imports_no_ray(tmp_path):
    code = """
import sys
from warmeng.cli.main import main
sys.argv = ["warmeng", "run", "--dry-run", "--no-probe", "--limit", "2", "--out", sys.argv[1]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
import warmeng.cli.finetune, warmeng.study.run.run, warmeng.fleet.engine
assert "ray" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "r")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_ray_tells_of_a_death_is_one_line_with_its_cause():
    told = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: Worker\n\tpid: 10295\n"
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
        "End of file. Some common causes include: (1) the process was killed"
    )
    cause = (
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: End"
    )
    assert _why(Exception(told)) == f"{cause} of file."
    assert _why(Exception("Out of memory\n\tpid: 1")) == "Out of memory"
    assert _why(ValueError()) == "ValueError"
