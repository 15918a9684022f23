"""``manifest.json`` of a preparation: what must stay the same for it to be continued."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError
from warmeng.common.files import parse_json, read_text
from warmeng.common.messages import first_change
from warmeng.common.storage import write_json
from warmeng.engine.stamps import contents, model_files

FILE = "manifest.json"
FORMAT = 1
IDENTITY = ("weights", "dtype", "device", "machine", "deterministic", "numerics")  # of describe(): must stay the same


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return a folder's inputs, None for a new or empty one. Raises InputError for a folder of something else."""
    path = folder / FILE
    if path.exists():
        found = parse_json(read_text(path), str(path))
        if isinstance(found, dict) and found.get("prepare") == FORMAT and isinstance(found.get("inputs"), dict):
            return dict(found["inputs"])
        raise InputError(f"{path}: is not a preparation's manifest of this version: choose another --out")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is not a folder: choose another --out")
    others = [p.name for p in folder.iterdir() if not p.name.startswith(".")] if folder.exists() else []
    if others:
        raise InputError(f"{folder}: holds {min(others)!r} and is no preparation: choose another --out")
    return None


def write_manifest(folder: Path, inputs: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Write it atomically, with what the files of the ``model`` that rewrites are. Raises StorageError."""
    write_json(folder / FILE, {"prepare": FORMAT, "inputs": inputs, "model": model})


def refuse_replaced(folder: Path, model: Path | None) -> None:
    """Raise InputError naming the first file of a finished preparation's model that is not what it was.

    A ``model`` that is not on this machine any more can't be compared.
    """
    before = parse_json(read_text(folder / FILE), str(folder / FILE)).get("model") or {}
    if before and model is not None:
        now = {"model": contents(model_files(model), before)}
        refuse_changes(folder, {"model": {name: kept["sha256"] for name, kept in before.items()}}, now)


def refuse_changes(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise InputError naming the first input of ``now`` that is not what it was; what ``now`` lacks is ignored."""
    if change := first_change(before, now):
        name, old, new = change
        raise InputError(
            f"{folder}: was prepared with {name} {old}, now it is {new}: use the old one, or choose another --out"
        )


def identity_of(facts: Mapping[str, Any], template: str) -> dict[str, Any]:
    """Return what of a loaded model determines its texts, from ``Engine.describe()`` and its template's hash."""
    found = {name: facts.get(name) for name in IDENTITY} | {"template": template}
    return found | {"torch": (facts.get("versions") or {}).get("torch")}
