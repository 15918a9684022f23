"""Records of earlier runs that a new one need not make again: those with a key of its plan, made by the same model.

A key holds all that determines an answer but the tokenizer's library and the processor, which are compared here; so a
record that is taken over is the one that the model would make again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from warmeng.common.errors import UsageError
from warmeng.common.journal import Journal, Keys
from warmeng.common.progress import Progress
from warmeng.study.results.manifest import refuse_changes, require_manifest
from warmeng.study.results.records import FILE, read_records
from warmeng.study.results.tied import refuse_untied

# Inputs that determine an answer.
SAME = ("model", "template", "tokenizer", "processor")


def refuse_unlike(donors: Iterable[Path], folder: Path, inputs: Mapping[str, Any]) -> None:
    """Raise ``InputError`` for an earlier run that another model made, or whose files are not of one run.

    ``inputs`` are those of the new run in ``folder``. Raises ``UsageError`` where both are the same folder.
    """
    for donor in donors:
        if donor.resolve() == folder.resolve():
            raise UsageError(f"--reuse {donor} is the run's own folder: leave it out, the run continues anyway")
        manifest = require_manifest(donor)
        refuse_untied(donor, manifest)
        refuse_changes(donor, manifest.inputs, {name: inputs[name] for name in SAME if name in inputs})


def take_over(donors: Sequence[Path], folder: Path, plan: Iterable[str], records: Journal, progress: Progress) -> None:
    """Append what earlier runs have of a plan's keys and the journal has not; say how many each gave."""
    if not donors:
        return
    wanted = Keys()
    for key in plan:
        wanted.add(key)
    for donor in donors:
        count = 0
        for record in _lacking(donor, wanted, records):
            records.append(record)
            count += 1
        progress.message(f"{folder}: {count} of {len(wanted)} records are taken over from {donor}")


def _lacking(donor: Path, wanted: Keys, records: Journal) -> Iterator[dict[str, Any]]:
    for record in read_records(donor / FILE):
        if record["key"] in wanted and record["key"] not in records.done:
            # The journal writes a checksum of its own.
            yield {name: value for name, value in record.items() if name != "crc32"}
