"""A card's timings from a file, in place of those that are assumed."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.errors import UsageError, show
from warmeng.engine.prediction.card import KERNELS, Curve, HostCost, Timings


def read_timings(path: Path, card: Timings) -> Timings:
    """Return ``card`` with the values of a JSON file in place of its own; see ``Timings`` for the names.

    ``shares`` maps kernels to a number or to [size, share] pairs; ``host`` has the fields of ``HostCost``. Raises
    UsageError for what is not known, or is not a number above 0.
    """
    try:
        given = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise UsageError(f"{path}: can't be read as JSON ({error})") from None
    known = {f.name for f in fields(Timings)}
    _known(path, "the file", given, known)
    numbers = {name: _number(path, name, value) for name, value in given.items() if name not in ("shares", "host")}
    shares, host = dict(card.shares), card.host
    if "shares" in given:
        _known(path, "shares", given["shares"], set(KERNELS))
        shares |= {name: _curve(path, name, value) for name, value in given["shares"].items()}
    if "host" in given:
        names = [f.name for f in fields(HostCost)]
        _known(path, "host", given["host"], set(names))
        if len(given["host"]) < len(names):
            raise UsageError(f"{path}: host has {', '.join(given['host']) or 'nothing'}, expected {', '.join(names)}")
        host = HostCost(**{name: _number(path, name, value, least=0.0) for name, value in given["host"].items()})
    return replace(card, **numbers, shares=shares, host=host)


def _known(path: Path, what: str, given: Any, known: set[str]) -> None:
    if not isinstance(given, dict) or given.keys() - known:
        said = ", ".join(sorted(given.keys() - known)) if isinstance(given, dict) else show(given)
        raise UsageError(f"{path}: {what} has {said}, expected an object with some of {', '.join(sorted(known))}")


def _number(path: Path, name: str, value: Any, least: float = 1e-12) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise UsageError(f"{path}: {name} is {show(value)}, expected a number of at least {least:g}")
    return float(value)


def _curve(path: Path, name: str, value: Any) -> Curve:
    if not isinstance(value, list):
        return _number(path, name, value)
    if not value or any(not isinstance(point, list) or len(point) != 2 for point in value):
        raise UsageError(f"{path}: {name} is {show(value)}, expected a number or pairs as [[64, 0.6], [512, 0.7]]")
    points = [(_number(path, name, size, 0.0), _number(path, name, share)) for size, share in value]
    return tuple(sorted(points))
