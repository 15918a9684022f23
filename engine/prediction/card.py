"""What a card reaches: its two peaks, the share of them that each kind of kernel gets, and the host's cost.

The shares are assumptions until they are measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from warmeng.common.cards import CARDS as MEMORY

KERNELS = ("products", "attention", "head", "choice", "small")
# One share, or (size, share) points: linear between, constant beyond.
Curve = float | tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Roofline:
    """What a device reaches on the two things that everything else consists of."""

    # Bytes read plus bytes written, at the best size.
    bytes_per_second: float
    operations_per_second: float  # of products, the best size
    dtype: str  # of the products
    by_bytes: dict[int, float]
    by_side: dict[int, float]

    def seconds(self, moved: float, operations: float = 0.0) -> float:
        """Return the least time for moving these bytes and doing these operations at once."""
        return max(moved / self.bytes_per_second, operations / self.operations_per_second)

    def bound(self, moved: float, operations: float = 0.0) -> str:
        """Say which of the two that is."""
        by_bytes = moved / self.bytes_per_second >= operations / self.operations_per_second
        return "bytes" if by_bytes else "operations"


# The data sheet's bandwidth, and a product's usual rate.
NOMINAL_H100 = Roofline(3.35e12, 800e12, "bfloat16", {}, {})


@dataclass(frozen=True)
class HostCost:
    """Seconds of the host's part of a step: what every step takes, and for each of its sequences and rows."""

    step: float
    sequence: float
    row: float

    def seconds(self, sequences: int, rows: int) -> float:
        """Return the seconds of a step; a decoding sequence is one row."""
        return self.step + self.sequence * sequences + self.row * rows


# Rounded from ``warmeng bench host`` on two cores of an AMD EPYC that were busy otherwise.
USUAL_HOST = HostCost(0.9e-3, 4e-6, 6e-7)


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
    # Operations of int8 or fp8 in the time of one of bfloat16, as data sheets have it.
    eight_bits: float = 2.0
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
    "h100": Timings(3.0e12, 800e12, MEMORY["h100"] * 2**20, _ASSUMED),
    "h200": Timings(4.3e12, 790e12, MEMORY["h200"] * 2**20, _ASSUMED),
}
