"""Who is expected to be warmer than whom: named before the first answer, else guessed from the personas' names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from warmeng.common.errors import UsageError, show
from warmeng.study.algebra import is_dose
from warmeng.study.personas import baseline_of

FORM = "WARMER>COLDER"


class Expected(NamedTuple):
    """That the responses of one persona are warmer than those of another."""

    warmer: str
    colder: str

    def __str__(self) -> str:
        """Return it as it was given, with blanks."""
        return f"{self.warmer} > {self.colder}"


def parse_expected(texts: Sequence[str], personas: Sequence[str]) -> tuple[Expected, ...]:
    """Parse each ``WARMER>COLDER``; blanks may stand around the sign.

    Raises ``UsageError`` where either is no persona of the run, or both are one.
    """
    found = []
    for text in texts:
        pair = Expected(*(part.strip() for part in (text.partition(">")[0], text.partition(">")[2])))
        if not set(pair) <= set(personas) or pair.warmer == pair.colder:
            raise UsageError(f"expect is {show(text)}, expected {FORM} of {', '.join(personas)}")
        found.append(pair)
    return tuple(found)


def expected_of(texts: Sequence[str], personas: Sequence[str]) -> tuple[Expected, ...]:
    """Return what is expected of a run: what is named, else that each persona called warm is warmer than the baseline.

    A dose is not meant by its name, since it may be zero or negative. Empty where nothing is named and no name tells.
    """
    if texts or not personas:
        return parse_expected(texts, personas)
    baseline = baseline_of(personas)
    warm = (name for name in personas if "warm" in name.lower() and name != baseline and not is_dose(name))
    return tuple(Expected(name, baseline) for name in warm)
