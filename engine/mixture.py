"""What a row's adapters and steering vectors add to the base: a weighted sum of what is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from warmeng.common.errors import UsageError

# The largest coefficient: beyond it a model overflows before it means anything.
MAX_COEFFICIENT = 1000.0


@dataclass(frozen=True)
class Mixture:
    """A weighted sum of adapters and steering vectors; without terms it is the base itself.

    ``terms``: (a content hash, its coefficient), ascending by hash, none of them zero or twice.
    """

    terms: tuple[tuple[str, float], ...] = ()

    @classmethod
    def sum_of(cls, parts: Iterable[tuple[Mixture, float]]) -> Mixture:
        """Return the sum of mixtures times coefficients. Raises ``UsageError`` where one is above ``MAX_COEFFICIENT``.

        A term whose coefficient comes to zero is left out, so that dose zero is the base, bit for bit.
        """
        sums: dict[str, float] = {}
        for mixture, coefficient in parts:
            for name, inner in mixture.terms:
                sums[name] = sums.get(name, 0.0) + coefficient * inner
        for value in sums.values():
            # False for what is not a number, too.
            if not abs(value) <= MAX_COEFFICIENT:
                raise UsageError(f"a coefficient is {value}, expected at most {MAX_COEFFICIENT:g} in size")
        return cls(tuple(sorted((name, value) for name, value in sums.items() if value)))

    @cached_property
    def key(self) -> str:
        """A text that two mixtures share only where they are equal: "" for the base, the hash for one whole adapter."""
        return "+".join(name if value == 1.0 else f"{name}*{value!r}" for name, value in self.terms)


BASE = Mixture()
