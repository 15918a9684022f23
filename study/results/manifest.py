"""``manifest.json``: what a run was made with, written before its first record.

``inputs`` must be the same for a run to continue, and a changed one is refused by name; ``facts`` only inform.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.errors import InputError
from warmeng.common.files import read_bytes, write_atomic
from warmeng.common.messages import first_change

FILE = "manifest.json"
FORMAT = 1
OWN_MODELS = "model of"  # the inputs of personas that are models of their own, by persona
OTHER_RUN = "give the folder of a run"  # what to do where a folder is only read
BEFORE = ("run.lock", "wrong_answers.jsonl")  # what a run may write before its manifest


def read_manifest(folder: Path, instead: str = "choose another --out") -> dict[str, Any] | None:
    """Return a folder's manifest, or ``None`` for a folder that is new or empty.

    Raises ``InputError`` for a folder with other things in it, or a manifest that is not one; ``instead`` says what to
    do then.
    """
    path = folder / FILE
    if path.exists():
        try:
            manifest = orjson.loads(read_bytes(path))
            if manifest["format"] == FORMAT and {"inputs", "facts", "planned"} <= manifest.keys():
                return dict(manifest)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise InputError(f"{path}: is not a manifest of this version: restore it, or {instead}")
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder: {instead}")
    beside = tuple(f".{name}." for name in (FILE, *BEFORE))
    names = sorted(p.name for p in folder.iterdir() if not (p.name.startswith(beside) or p.name in BEFORE))
    if names:
        what = "has records but no manifest" if "records.jsonl" in names else f"holds {names[0]!r} and is no run folder"
        raise InputError(f"{folder}: {what}: {instead}")
    return None


def write_manifest(
    folder: Path, inputs: Mapping[str, Any], facts: Mapping[str, Any], planned: int, judgments: int = 0
) -> None:
    """Write the manifest atomically: ``planned`` answers, and ``judgments`` of them. Raises ``OSError``."""
    content = {"format": FORMAT, "planned": planned, "judgments": judgments, "inputs": inputs, "facts": facts}
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    write_atomic(folder / FILE, orjson.dumps(content, option=options))


def refuse_changes(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ``InputError`` naming the first input in ``now`` that is not what it was; parts not in it are ignored."""
    if change := first_change(before, now):
        name, old, new = change
        raise InputError(
            f"{folder}: this run was made with {name} {old}, now it is {new}: use the old one, or choose another --out"
        )
