"""``records.jsonl``: the journal of a run, one finished answer or judgment a line (see ``common/journal.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from warmeng.common.journal import read_journal

FILE = "records.jsonl"
LOCK = "run.lock"  # of the run's folder


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a run in the order in which they were made; raises as ``read_journal``."""
    return read_journal(path)
