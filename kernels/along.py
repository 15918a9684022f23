"""Projections of rows onto a direction."""

from __future__ import annotations

from torch import Tensor


def along(x: Tensor, unit: Tensor) -> Tensor:
    """Return the dot product of each row with a unit vector, in the wider of both types. x [rows, n]; unit [n]."""
    # Not a matrix product: its order of summation depends on the number of rows.
    return (x * unit).sum(-1)
