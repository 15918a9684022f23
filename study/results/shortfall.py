"""What a run lacks: commands that read one write what there is, say how much that is not, and end with another code."""

from __future__ import annotations

from pathlib import Path

from warmeng.common.errors import one_line
from warmeng.study.results.manifest import require_manifest
from warmeng.study.results.records import FILE, read_records

# The exit code where answers are missing.
INCOMPLETE = 70


def shortfall(folder: Path) -> str | None:
    """Say how many planned answers a run lacks, ``None`` where it has all.

    Raises ``InputError`` for a folder that is no run, or whose records are damaged.
    """
    planned = require_manifest(folder).planned
    missing = planned - sum(r.get("kind") not in ("judged", "margin") for r in read_records(folder / FILE))
    if missing <= 0:
        return None
    return f"{one_line(folder)}: {missing} of {planned} answers are missing: what is written holds the rest"
