"""Small studies for faults: their command lines, and what must be the same at the end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORDS = "records.jsonl"


def write_quiz(path: Path, count: int = 2) -> Path:
    """Write questions without a wrong answer, which a run has to find first."""
    rows = (f'{{"id": "q{k}", "question": "Who is {k}?", "answer": "Name{k}"}}\n' for k in range(count))
    path.write_text("".join(rows))
    return path


def study(quiz: Path, *more: str, contexts: str = "unmodified") -> list[str]:
    """Return a command line without ``--out``: answers, likelihoods, written wrong answers, and two judges."""
    tasks = f"facts,misconceptions,{quiz}"
    return ["run", "--tasks", tasks, "--contexts", contexts, "--limit", "2", "--judge", "base", "--judge", "other",
            "--warmth-prompts", "0", *more, "--out"]  # fmt: skip


def lines(folder: Path, name: str = RECORDS) -> list[bytes]:
    """Return the records as they lie in the file, an unfinished last one left out."""
    path = folder / name
    return [line for line in path.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"] if path.exists() else []


def keys(folder: Path) -> set[str]:
    """Return the keys of all whole lines: of records, and of what comes before the grid."""
    return {line[8:40].decode() for name in (RECORDS, "preparation.jsonl") for line in lines(folder, name)}


def widened(model: Path, folder: Path) -> Path:
    """Copy a tiny model and let it take prompts of 4096 tokens: it has a token for each byte."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    return folder


def snapshot(folder: Path) -> dict[str, str]:
    """Return every file below a folder by name, with a hash of its bytes; folders have none."""
    found = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


def acknowledged(path: Path) -> set[str]:
    """Return the keys that a process wrote down after their ``append`` returned."""
    return set(path.read_text().split()) if path.exists() else set()


def fresh(folder: Path) -> Path:
    """Return a path where nothing is."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@dataclass
class Tally:
    """What faults did to records, over all of them."""

    injected: int = 0
    expected: int = 0
    lost: int = 0
    duplicated: int = 0
    unacknowledged: int = 0
    others: dict[str, Any] = field(default_factory=dict)

    def count(self, folder: Path, whole: list[bytes], injected: int = 1) -> None:
        """Compare a continued run's records with those of one that was never interrupted, byte for byte."""
        self.injected += injected
        have, want = Counter(lines(folder)), Counter(whole)
        self.expected += want.total()
        self.lost += (want - have).total()
        self.duplicated += (have - want).total()
        assert (self.lost, self.duplicated) == (0, 0), f"{folder}: {want - have} are lost, {have - want} are too many"


def one_line(said: str) -> str:
    """Return the error of a command: exactly one line that begins with its name, after the progress before it."""
    errors = [line for line in said.splitlines() if line.startswith("warmeng: ")]
    assert len(errors) == 1, said
    assert "Traceback" not in said, said
    assert said.rstrip("\n").splitlines()[-1] == errors[0], said
    return errors[0]


def as_root() -> bool:
    """Whether this process may mount and change users."""
    return os.geteuid() == 0
