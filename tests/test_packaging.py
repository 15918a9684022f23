"""What is published: the wheel and the source archive hold the same, all of it, and run on their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = re.findall(r'"(\w+)"', re.search(r"^FOLDERS = \((.*)\)$", (ROOT / "setup.py").read_text(), re.MULTILINE)[1])
# Of the packages' folders, what only a clone has: measurements, and the script that takes them.
LEFT_OUT = ("bench/results/", "bench/slot.sh")
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command of this Python; its output on failure."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wheel(source: Path, to: Path) -> Path:
    """Build a wheel of a folder with the build tools that are installed; nothing is fetched."""
    run("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", to, source, cwd=source)
    return next(to.glob("*.whl"))


def contents(path: Path) -> dict[str, int]:
    """Return a wheel's files and their checksums, the list of checksums aside."""
    return {i.filename: i.CRC for i in zipfile.ZipFile(path).infolist() if not i.filename.endswith("/RECORD")}


def test_wheel_and_source_archive_hold_all_and_run(tmp_path: Path) -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no clone: git tells which files there are")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    tracked = [name for name in listed.stdout.split("\n") if name and (ROOT / name).is_file()]
    source = tmp_path / "source"
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    run("setup.py", "-q", "sdist", "-d", tmp_path / "sdist", cwd=source)
    shutil.unpack_archive(next((tmp_path / "sdist").glob("*.tar.gz")), tmp_path / "unpacked", filter="data")
    first = wheel(source, tmp_path / "wheel")
    again = wheel(next((tmp_path / "unpacked").iterdir()), tmp_path / "again")
    held = contents(first)
    assert held == contents(again)
    wanted = [n for n in tracked if n.startswith(tuple(f"{f}/" for f in FOLDERS)) and not n.startswith(LEFT_OUT)]
    assert [name for name in wanted if f"warmeng/{name}" not in held] == []
    assert [name for name in held if "tests/" in name or "__pycache__" in name] == []

    run("-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target", tmp_path / "site", first, cwd=tmp_path)
    main = "from warmeng.cli.main import main; import warmeng; print(warmeng.__file__); main()"

    def warmeng(*arguments: str) -> str:
        return run("-P", "-c", main, *arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))

    assert str(tmp_path / "site" / "warmeng") in warmeng("--version")
    assert "misconceptions" in warmeng("list", "tasks")
    assert "misconceptions" in warmeng("run", "--dry-run", "--no-probe")
