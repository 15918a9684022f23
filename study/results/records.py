"""``records.jsonl``: the journal of a run, one finished answer or judgment a line (see ``common/journal.py``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from warmeng.common.errors import InputError, show
from warmeng.common.journal import read_journal

FILE = "records.jsonl"
LOCK = "run.lock"  # of the run's folder


# What a record's fields hold, where they are there.
_TEXT, _MAYBE, _COUNT = (str,), (str, NoneType), (int, NoneType)
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("kind", "persona", "task", "context", "belief", "item", "status", "grade", "judge", "of"), _TEXT),
    **dict.fromkeys(("framing", "which", "reason", "text", "finish", "asking", "answered_by", "fingerprint"), _MAYBE),
    **dict.fromkeys(("tokens", "prompt_tokens"), _COUNT),
    "sample": (int,),
    **dict.fromkeys(("labels", "shares", "margin"), (dict, NoneType)),
}
MOST_SAMPLES = 2**31
_NUMBER = (float, int, NoneType)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a run in the order in which they were made.

    Raises as ``read_journal``, and ``InputError`` for a field that is not of its type: a checksum is no proof of who
    wrote a line.
    """
    for record in read_journal(path):
        for name, kinds in _TYPES.items():
            if name in record and not isinstance(record[name], kinds):
                raise _strange(path, record, name)
        if not 0 <= record.get("sample", 0) < MOST_SAMPLES:
            raise _strange(path, record, "sample")
        for name in ("labels", "shares"):
            if (found := record.get(name)) and not all(isinstance(value, _NUMBER) for value in found.values()):
                raise _strange(path, record, name)
        if (found := record.get("margin")) and not all(map(_is_side, found.values())):
            raise _strange(path, record, "margin")
        yield record


def _is_side(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(number, _NUMBER) for number in value.values())


def _strange(path: Path, record: Mapping[str, Any], name: str) -> InputError:
    what = show(record[name])
    return InputError(f"{path}: record {record['key']} has {name} {what}, which no run writes: restore the file")
