"""What a run lacks: commands that read one write what there is, say how much that is not, and end with another code."""

from __future__ import annotations

from pathlib import Path

from warmeng.common.errors import one_line
from warmeng.study.results.manifest import require_manifest
from warmeng.study.results.records import FILE, read_records

# The exit code where answers are missing.
INCOMPLETE = 70
# Of a run whose choice is asked alone.
NO_ANSWERS = "No answer was asked for: each question is a choice between its two answers, and only margins are told."
ALONE = "its questions were asked as a choice alone, which gives margins (warmeng export --format margins)"


def shortfall(folder: Path) -> str | None:
    """Say how many planned answers, scores and judgments a run lacks, ``None`` where it has all.

    Raises ``InputError`` for a folder that is no run, or whose records are damaged.
    """
    manifest = require_manifest(folder)
    planned = manifest.records
    missing = planned - sum(1 for _ in read_records(folder / FILE))
    if missing <= 0:
        return None
    return f"{one_line(folder)}: {missing} of {planned} {manifest.kinds} are missing: what is written holds the rest"
