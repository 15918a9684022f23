"""Which files of a run belong together: what a reader sees of one must not be another's.

The last line of ``sessions.jsonl`` holds hashes of ``manifest.json`` and ``items.jsonl``; a finished run's manifest a
hash of all its records' keys; ``analysis.json`` hashes of all three and of ``labels.json``, and one of itself. None of
them is a signature: whoever edits on purpose can make them anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.errors import InputError
from warmeng.common.manifest import FILE as MANIFEST
from warmeng.study.results.items import FILE as ITEMS
from warmeng.study.results.labels import FILE as LABELS
from warmeng.study.results.manifest import Manifest
from warmeng.study.results.overruled import FILE as OVERRULED
from warmeng.study.results.records import FILE as RECORDS
from warmeng.study.results.records import read_records
from warmeng.study.results.sessions import read_sessions

# The input that all keys together are, where nothing else explains a change.
PLAN = "prompts or grading rules"
SESSION = (MANIFEST, ITEMS)
# In an analysis: what it was made of, and its own checksum.
OF, OWN = "of", "sha256"


def digest(keys: Iterable[str]) -> str:
    """Return one hash of all keys of a plan, whatever their order."""
    return hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()


def hashes(folder: Path, names: Sequence[str] = (MANIFEST, ITEMS, RECORDS, OVERRULED, LABELS)) -> dict[str, str]:
    """Return the SHA-256 of those of a run's files that are there. Raises ``InputError`` where one can't be read."""
    found = {}
    for name in names:
        try:
            with (folder / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"{folder / name}: can't be read ({error.strerror}): give a file that can") from None
    return found


def refuse_edited(folder: Path) -> None:
    """Raise ``InputError`` where a run's manifest or items are not what they were when it was asked.

    What is not there, or no session tells of, as of runs of an earlier version, can't be compared.
    """
    sessions = read_sessions(folder)
    told = sessions[-1].get("files") if sessions else None
    now = hashes(folder, SESSION)
    for name, was in told.items() if isinstance(told, dict) else ():
        if now.get(name, was) != was:
            raise InputError(f"{folder / name}: is not what it was when the run was made: restore it")


def refuse_untied(folder: Path, manifest: Manifest) -> None:
    """Raise ``InputError`` as ``refuse_edited``, and where a finished run's records are not those of its manifest."""
    refuse_edited(folder)
    planned = manifest.inputs.get(PLAN)
    if planned is not None:
        keys = [record["key"] for record in read_records(folder / RECORDS)]
        if len(keys) == manifest.records and digest(keys) != planned:
            raise InputError(f"{folder / RECORDS}: holds records of another run than {MANIFEST}: restore it")


def tie(analysis: Mapping[str, Any], runs: Iterable[Path]) -> dict[str, Any]:
    """Return an analysis with what it was made of and a checksum of itself, for ``mismatches``."""
    whole = {**analysis, OF: [hashes(run) for run in runs]}
    return {**whole, OWN: _checksum(whole)}


def mismatches(analysis: Mapping[str, Any], folder: Path) -> list[str]:
    """Return why an analysis is not one of a run's folder as it is now, a sentence each; none where it is."""
    made_of = analysis.get(OF)
    if not isinstance(made_of, list):
        return ["The analysis does not tell which files it was made of."]
    found = []
    if analysis.get(OWN) != _checksum(analysis):
        found.append("The analysis was changed after it was made.")
    if len(made_of) != 1 or not isinstance(made_of[0], dict):
        return [*found, f"The analysis is of {len(made_of)} runs together."]
    now = hashes(folder)
    changed = [name for name in dict.fromkeys((*now, *made_of[0])) if now.get(name) != made_of[0].get(name)]
    if changed:
        found.append(f"The analysis was made of another {' and another '.join(changed)} than the run has now.")
    return found


def _checksum(analysis: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in analysis.items() if name != OWN}
    return hashlib.sha256(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)).hexdigest()
