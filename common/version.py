"""Which code made a result: a hash of the package's sources, and the commit of the clone that they lie in."""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache
from pathlib import Path

# Of an installed package its own folder, of a clone the repository.
ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("face", "common", "kernels", "engine", "remote", "finetune", "study", "bench", "cli")


@cache
def sources_sha256() -> str:
    """Return SHA-256 (hex) over the names and bytes of all modules: some hundred files, read once a process."""
    whole = hashlib.sha256()
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            raw = path.read_bytes()
            whole.update(f"{path.relative_to(ROOT).as_posix()} {len(raw)}\n".encode() + raw)
    return whole.hexdigest()


@cache
def commit() -> str | None:
    """Return a clone's commit, with ``-changed`` where files differ from it; None where there is no clone or no git."""
    if not (ROOT / ".git").exists() or (found := _git("rev-parse", "HEAD")) is None:
        return None
    return found + ("-changed" if _git("status", "--porcelain") else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
