"""How things that several commands say are put: durations, and what a folder was made with and is not now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from warmeng.common.errors import one_line


def duration(seconds: float) -> str:
    """Return seconds as ``47 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def first_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Return the first value of ``now``, at any depth, that is not what it was: its name, the old and the new one.

    Both are compared as JSON; parts of ``before`` that ``now`` lacks altogether are ignored.
    """
    parts = {name: before.get(name) for name in now}
    was, are = (dict(_flat(orjson.loads(orjson.dumps(x)))) for x in (parts, now))
    for name in (*are, *was):
        if was.get(name) != are.get(name):
            return name, _show(was.get(name)), _show(are.get(name))
    return None


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}".strip())
    else:
        yield name, value


def _show(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:  # a hash
        return value[:12]
    return "absent" if value is None else one_line(orjson.dumps(value).decode(), 120)
