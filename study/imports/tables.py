"""Tables of answers: ``warmeng export --format csv``, and any CSV or JSONL file with a mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from warmeng.common.cells import from_cell
from warmeng.common.delimited import read_csv
from warmeng.common.files import parse_json, read_jsonl
from warmeng.study.imports.rows import NAMES, SOME_MODEL, Log, Row

KIND = "tables"
# Of the columns that ``warmeng export`` writes; a table that has them under these names needs no mapping.
PLAIN = (*NAMES, "grade", "which", "text", "status", "exact")


def read_table(path: Path) -> Log:
    """Return the rows of a CSV or JSONL file. An answer without ``text`` has none: labels were scored."""
    if path.suffix == ".csv":
        return Log(KIND, (_row(path, line, dict(row)) for line, row in _csv(path)))
    return Log(KIND, (_row(path, line, row) for line, row in read_jsonl(path)))


def _csv(path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    for line, row in read_csv(path):
        yield line, {name: from_cell(text) for name, text in row.items()}


def _row(path: Path, line: int, raw: Mapping[str, Any]) -> Row:
    where = f"{path}:{line}"
    found = {name: raw[name] for name in PLAIN if name in raw}
    # A table without a model compares what it has.
    found.setdefault("model", SOME_MODEL)
    for name in ("sample", "binary"):
        if raw.get(name) not in (None, ""):
            found[name] = raw[name]
    if raw.get("judged"):
        judged = raw["judged"]
        found["judged"] = parse_json(judged, f"{where}: judged") if isinstance(judged, str) else judged
    if raw.get("text") == "" and raw.get("labels"):
        found["text"] = None
    return Row(where, raw, found)
