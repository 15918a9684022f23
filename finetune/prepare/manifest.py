"""``manifest.json`` of a preparation: what must stay the same for it to be continued."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from warmeng.engine.errors import InputError, one_line
from warmeng.engine.files import parse_json, read_text
from warmeng.finetune.files import write_json

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


def write_manifest(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Write it atomically. Raises StorageError."""
    write_json(folder / FILE, {"prepare": FORMAT, "inputs": inputs})


def refuse_changes(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise InputError naming the first input of ``now`` that is not what it was; what ``now`` lacks is ignored."""
    was = dict(_flat({name: before.get(name) for name in now}))
    are = dict(_flat(json.loads(json.dumps(now))))
    for name in (*are, *was):
        if was.get(name) != are.get(name):
            old, new = (_show(values.get(name)) for values in (was, are))
            raise InputError(
                f"{folder}: was prepared with {name} {old}, now it is {new}: use the old one, or choose another --out"
            )


def identity_of(facts: Mapping[str, Any], template: str) -> dict[str, Any]:
    """Return what of a loaded model determines its texts, from ``Engine.describe()`` and its template's hash."""
    found = {name: facts.get(name) for name in IDENTITY} | {"template": template}
    return found | {"torch": (facts.get("versions") or {}).get("torch")}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}".strip())
    else:
        yield name, value


def _show(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    return "absent" if value is None else one_line(json.dumps(value), 60)
