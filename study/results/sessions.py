"""``sessions.jsonl``: what each part of a run took. Times and energy have no other place: records stay the same."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError
from warmeng.common.files import parse_object

FILE = "sessions.jsonl"


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """Return the sessions that made a run; none where the folder does not tell. A line torn by a crash is left out."""
    path = folder / FILE
    found = []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        with contextlib.suppress(InputError):
            found += [parse_object(line, str(path))] if line.strip() else []
    return found
