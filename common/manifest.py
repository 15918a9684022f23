"""``manifest.json``: what the results in a folder are made with, so that nothing else ever continues them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.errors import InputError, WarmengError, one_line, show
from warmeng.common.files import read_bytes, write_atomic

FILE = "manifest.json"
OTHER = "choose another --out"


@dataclass(frozen=True)
class ManifestKind:
    """How one kind of folder's manifest is known, and how messages speak of it.

    Errors are ``InputError`` unless ``error`` is another one.
    """

    # A key that tells the kind or its version, and what it has to be.
    mark: tuple[str, str | int]
    # Other keys that it has, and of which type.
    parts: Mapping[str, type]
    # "run folder": what a folder is no such of.
    what: str
    # "this run was made with": what stands before a name and its old value.
    made: str
    # Files that may be there before the manifest is.
    before: tuple[str, ...] = ()
    error: type[WarmengError] = field(default=InputError)

    def read(self, folder: Path, instead: str = OTHER) -> dict[str, Any] | None:
        """Return a folder's manifest, or ``None`` for a folder that is new or empty.

        Raises for a manifest of another kind, and for a folder with other things in it; ``instead`` is what to do then.
        """
        path = folder / FILE
        if path.exists():
            try:
                content = orjson.loads(read_bytes(path))
            except ValueError:
                content = None
            if not self._is_ours(content):
                raise self.error(f"{path}: is not a manifest of this version: restore it, or {instead}")
            return dict(content)
        if not folder.exists():
            return None
        if not folder.is_dir():
            raise self.error(f"{folder}: is not a folder: {instead}")
        in_progress = tuple(f".{name}." for name in (FILE, *self.before))
        others = [p.name for p in folder.iterdir() if not (p.name.startswith(in_progress) or p.name in self.before)]
        if others:
            raise self.error(
                f"{folder}: holds {show(min(others))} and is no {self.what} (there is no manifest): {instead}"
            )
        return None

    def around(self, path: Path) -> Path | None:
        """Return the nearest folder, a path itself or one above it, that has a manifest of this kind."""
        for folder in (whole := path.resolve(), *whole.parents):
            try:
                if self._is_ours(orjson.loads((folder / FILE).read_bytes())):
                    return folder
            except (OSError, ValueError):
                continue
        return None

    def _is_ours(self, content: object) -> bool:
        if not isinstance(content, dict) or content.get(self.mark[0]) != self.mark[1]:
            return False
        return all(isinstance(content.get(name), kind) for name, kind in self.parts.items())

    def write(self, folder: Path, content: Mapping[str, Any]) -> None:
        """Write the manifest atomically. Raises ``OSError``."""
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        write_atomic(folder / FILE, orjson.dumps(dict([self.mark]) | dict(content), option=options))

    def refuse_changes(self, folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Raise for the first input in ``now`` that is not what it was, by its name; parts not in it are ignored."""
        if change := first_change(before, now):
            name, old, new = change
            raise self.error(f"{folder}: {self.made} {name} {old}, now it is {new}: use the old one, or {OTHER}")


def first_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Return the first value of ``now``, at any depth, that is not what it was: its name, the old and the new one.

    Both are compared as JSON; parts of ``before`` that ``now`` lacks altogether are ignored.
    """
    parts = {name: before.get(name) for name in now}
    was, are = (dict(_flat(orjson.loads(orjson.dumps(x)))) for x in (parts, now))
    for name in (*are, *was):
        if was.get(name) != are.get(name):
            return name, _shown(was.get(name)), _shown(are.get(name))
    return None


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}".strip())
    else:
        yield name, value


def _shown(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:  # a hash
        return value[:12]
    return "absent" if value is None else one_line(orjson.dumps(value).decode(), 120)
