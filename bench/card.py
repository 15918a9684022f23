"""What a card reaches: its two peaks, the share of them that each kind of kernel gets, and the host's cost.

The shares are assumptions until they are measured: ``read_timings`` takes them from a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from warmeng.bench.host import HostCost
from warmeng.bench.roofline import Roofline
from warmeng.common.errors import UsageError, show

KERNELS = ("products", "attention", "head", "choice", "small")
# One share, or (size, share) points: linear between, constant beyond.
Curve = float | tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Timings:
    """A card's ceilings, and what share of them each kind of kernel reaches.

    A share may depend on the step's rows (attention's: on the mean context). ``gap`` lies between two kernels of a
    replayed graph; ``launch`` is the host's time to start one outside a graph. Seconds and bytes.
    """

    bytes_per_second: float
    operations_per_second: float
    memory: float
    shares: Mapping[str, Curve] = field(default_factory=dict)
    gap: float = 1e-6
    launch: float = 36e-6
    # None: to be measured.
    host: HostCost | None = None

    @property
    def roofline(self) -> Roofline:
        """The two ceilings."""
        return Roofline(self.bytes_per_second, self.operations_per_second, "bfloat16", {}, {})

    def share(self, kernel: str, size: float) -> float:
        """Return the share of its ceiling that a kernel reaches at this size."""
        curve = self.shares[kernel]
        if isinstance(curve, float):
            return curve
        sizes, shares = zip(*curve, strict=True)
        return float(np.interp(size, sizes, shares))


# Assumed: literature and compiled code, no measurement. The ceilings are what large copies and products reach.
_ASSUMED: Mapping[str, Curve] = {
    "products": ((16.0, 0.5), (64.0, 0.6), (512.0, 0.72), (4096.0, 0.8)), "attention": 0.7, "head": 0.75,
    "choice": 0.45, "small": 0.5,
}  # fmt: skip
CARDS = {
    "h100": Timings(3.0e12, 800e12, 79.6 * 2**30, _ASSUMED),
    "h200": Timings(4.3e12, 790e12, 140.4 * 2**30, _ASSUMED),
}


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
