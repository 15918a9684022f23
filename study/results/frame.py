"""The graded answers of a study as columns: what every statistic, figure and export reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

# Whose wrong answer an incorrect answer gave.
WHICH = ("", "user", "other")

Codes = npt.NDArray[np.int32]
Small = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Factor:
    """A column of names: ``names[codes[i]]`` is row i's. Names are in order of first appearance, or as given."""

    names: tuple[str, ...]
    codes: Codes  # [n]

    @classmethod
    def of(cls, values: Iterable[str], names: Iterable[str] = ()) -> Factor:
        """Number the values; ``names`` come first, whether they occur or not."""
        table = {name: k for k, name in enumerate(names)}
        codes = np.fromiter((table.setdefault(value, len(table)) for value in values), dtype=np.int32)
        return cls(tuple(table), codes)

    def is_(self, name: str) -> Flags:
        """Return which rows have this name; none where no row can."""
        code = self.names.index(name) if name in self.names else -1
        return np.asarray(self.codes == code)

    def take(self, rows: npt.NDArray[Any]) -> Factor:
        """Return the column of some rows, with all names kept."""
        return Factor(self.names, self.codes[rows])

    @property
    def blank(self) -> Factor:
        """The column with the same empty name everywhere."""
        return Factor(("",), np.zeros(len(self), dtype=np.int32))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.codes)


@dataclass(frozen=True)
class Frame:
    """One row an answer, every column of the same length n.

    ``item`` is ``task/id``. ``grade`` and ``exact`` index ``GRADES``; ``exact`` and every judge's column are -1 where
    that rule was not applied. ``grade`` is what all rules together say. ``binary`` is the paper's rule of two labels:
    0 correct, 1 incorrect, -1 unknown. ``which`` indexes ``WHICH``.
    """

    model: Factor
    persona: Factor
    task: Factor
    context: Factor  # ``unmodified``, ``emotion:sad``, ...
    # ``none``, ``wrong``, ``doubt``, ``right``.
    belief: Factor
    framing: Factor  # ``plain``, ``neutral``
    item: Factor
    sample: Codes
    grade: Small
    which: Small
    binary: Small
    # Length of the answer in characters; -1 where nothing was generated.
    chars: Codes
    exact: Small
    judges: Mapping[str, Small]  # grade by judge
    # Whether the text reads as a refusal, by rule.
    refused: Mapping[str, Flags]

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            for column in value.values() if isinstance(value, Mapping) else [value]:
                assert len(column) == len(self.persona), f"{f.name}: {len(column)} rows, expected {len(self.persona)}"

    def __len__(self) -> int:
        """Return the number of answers."""
        return len(self.persona)

    def take(self, rows: npt.NDArray[Any]) -> Frame:
        """Return the frame of some rows: indices, or flags of length n."""
        found: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Factor):
                found[f.name] = value.take(rows)
            elif isinstance(value, Mapping):
                found[f.name] = {name: column[rows] for name, column in value.items()}
            else:
                found[f.name] = value[rows]
        return Frame(**found)

    def without(self, name: str) -> Frame:
        """Return the frame with a column of names that says nothing: the same empty name everywhere."""
        blank: dict[str, Any] = {name: getattr(self, name).blank}
        return replace(self, **blank)
