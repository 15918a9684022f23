"""An answer as another program wrote it, before it is a row of a frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Of the places of an answer, as ``results.read.COLUMNS`` has them.
NAMES = ("model", "persona", "task", "context", "belief", "framing", "item")
# Where a log tells no persona, its models are compared as if they were personas of one.
SOME_MODEL = "models"


@dataclass(frozen=True)
class Row:
    """One answer: ``raw`` as the file has it, ``found`` our columns as far as the file tells them.

    ``where`` is file and line. Without a ``grade`` in ``found``, ``scores`` has the names of what could be one.
    """

    where: str
    raw: Mapping[str, Any]
    found: Mapping[str, Any]
    scores: Sequence[str] = ()


@dataclass
class Log:
    """One file of answers. ``planned`` answers, where it says so; ``orders`` of names, where it knows them."""

    kind: str
    rows: Iterator[Row]
    planned: int | None = None
    notes: list[str] = field(default_factory=list)
    orders: Mapping[str, Sequence[str]] = field(default_factory=dict)


def compared(model: str, persona: str | None) -> dict[str, str]:
    """Return model and persona of a log."""
    return {"model": SOME_MODEL, "persona": model} if persona is None else {"model": model, "persona": persona}
