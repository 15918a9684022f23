"""The rows of tables: every choice of columns that are pooled, as groups of a frame's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from warmeng.study.results.frame import Factor, Frame
from warmeng.study.stats.draws import Ints

ALL = "all"


@dataclass(frozen=True)
class Margin:
    """A column of a table: its name, the rows' codes and the names; ``pooled`` adds a row over all of them."""

    key: str
    factor: Factor
    pooled: bool


def place_columns(frame: Frame, pool_beliefs: bool = True) -> list[Margin]:
    """Return the columns of a table by place in the grid: models are pooled where there are several."""
    return [
        Margin("model", frame.model, len(np.unique(frame.model.codes)) > 1),
        Margin("persona", frame.persona, False),
        Margin("task", frame.task, True),
        Margin("context", frame.context, True),
        Margin("belief", frame.belief, pool_beliefs),
    ]


def margins(columns: Sequence[Margin]) -> Iterator[tuple[list[str], list[list[str]], Ints]]:
    """Yield, for every choice of columns that are pooled, (names that vary, the groups' labels, each row's group)."""
    options = [(False, True) if column.pooled else (False,) for column in columns]
    for choice in product(*options):
        kept = [c for c, pooled in zip(columns, choice, strict=True) if not pooled]
        shape = tuple(max(1, len(c.factor.names)) for c in kept)
        size = len(columns[0].factor)
        codes = np.ravel_multi_index([c.factor.codes for c in kept], shape) if kept else np.zeros(size, dtype=np.int64)
        used, group = np.unique(codes, return_inverse=True)
        places = np.unravel_index(used, shape) if kept else ()
        by_key = {c.key: [c.factor.names[k] for k in place] for c, place in zip(kept, places, strict=True)}
        labels = [[by_key[c.key][i] if c.key in by_key else ALL for c in columns] for i in range(len(used))]
        yield [c.key for c in kept], labels, np.asarray(group)


def in_order(rows: list[dict[str, Any]], columns: Sequence[Margin], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return rows sorted by these columns: ``all`` first, then names in the frame's order."""
    order = {c.key: {ALL: -1} | {name: k for k, name in enumerate(c.factor.names)} for c in columns}
    return sorted(rows, key=lambda row: [order[key][row[key]] for key in keys])
