"""All margins of a run as one CSV table: a row a score of a right and a wrong answer, with what it is made of."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from warmeng.common.cells import as_cell
from warmeng.common.errors import InputError, UsageError
from warmeng.common.files import replacing
from warmeng.study.export.table import Source
from warmeng.study.prompts import OPEN
from warmeng.study.results.margins import NORMS, column_of, norms
from warmeng.study.results.records import FILE, read_records

PLACES = ("key", "model", "persona", "task", "context", "belief", "framing", "item", "asking", "order")
# Sums of log-probabilities in nats, of the answer's own tokens, of a full stop and of the end token; tokens and bytes.
PARTS = ("own", "stop", "end", "tokens", "bytes")
SIDES = ("right", "wrong")
COLUMNS = (
    *PLACES,
    *(f"{side}_{part}" for side in SIDES for part in PARTS),
    *(f"margin_{column_of(norm)}" for norm in NORMS),
)


def margin_rows(source: Source) -> Iterator[dict[str, Any]]:
    """Yield a score's columns. Raises ``InputError`` for a record that is none of a run."""
    path = source.folder / FILE
    for r in read_records(path):
        parts = r.get("margin")
        if not parts:
            continue
        try:
            row = {name: r[name] for name in ("key", "persona", "task", "context", "belief", "item")}
            row |= {"model": source.model, "framing": r.get("framing") or "plain"}
            row |= {"asking": r.get("asking") or OPEN, "order": r.get("order") or None}
            row |= {f"{side}_{part}": parts[side][part] for side in SIDES for part in PARTS}
            for norm, right, wrong in zip(NORMS, *(norms(parts[side]) for side in SIDES), strict=True):
                row[f"margin_{column_of(norm)}"] = right - wrong
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: record {r['key']} lacks {error}: restore the file") from None
        yield row


def write_margins(source: Source, path: Path) -> None:
    """Write all margins as CSV, UTF-8, as ``write_csv`` writes answers.

    Raises ``UsageError`` where the run has none, ``OSError`` of the disk.
    """
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\r\n")
        writer.writeheader()
        count = 0
        for row in margin_rows(source):
            writer.writerow({k: as_cell(v) for k, v in row.items()})
            count += 1
        if not count:
            raise UsageError(
                f"{source.folder}: has no margins: none of its tasks has a right and a wrong answer, or the run is of "
                "an earlier version"
            )
