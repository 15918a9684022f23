"""The margins of a run: how much likelier the right answer is than the wrong one, in nats, place by place."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from warmeng.common.errors import InputError
from warmeng.study.prompts import ASKINGS, OPEN
from warmeng.study.results.frame import Factor, Flags
from warmeng.study.results.manifest import require_manifest
from warmeng.study.results.read import joined, orders, reorder
from warmeng.study.results.records import FILE, read_records

# What a margin is counted by; the first is the primary one, the others show whether a conclusion rests on it.
SUM, PER_BYTE, PER_TOKEN, WITH_END = NORMS = ("sum", "per byte", "per token", "with end")
NAMES = ("model", "persona", "task", "context", "belief", "framing", "asking", "item")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Margins:
    """One row a score of a right and a wrong answer; every column has the same length n.

    ``item`` is ``task/id``. A choice has a row for each order of the two answers. The margin is log p(right) -
    log p(wrong), natural logarithm: ``sum`` of the answers' own tokens, without full stop and end token; ``per_byte``
    and ``per_token`` of each answer's sum over its length; ``with_end`` with full stop and end token.
    """

    model: Factor
    persona: Factor
    task: Factor
    context: Factor
    belief: Factor
    framing: Factor
    asking: Factor  # ``open``, ``choice``
    item: Factor
    sum: Floats
    per_byte: Floats
    per_token: Floats
    with_end: Floats
    # Records of these that are no answers, failed ones too.
    beside: int = 0

    def __len__(self) -> int:
        """Return the number of scores."""
        return len(self.sum)

    def by(self, norm: str) -> Floats:
        """Return the margins as one of ``NORMS`` counts them: ``[n]``, nats."""
        found: Floats = getattr(self, column_of(norm))
        return found

    def take(self, rows: npt.NDArray[Any]) -> Margins:
        """Return some rows: indices, or flags of length n."""
        found: dict[str, Any] = {"beside": self.beside}
        for f in fields(self)[:-1]:
            column = getattr(self, f.name)
            found[f.name] = column.take(rows) if isinstance(column, Factor) else column[rows]
        return Margins(**found)

    @property
    def plain(self) -> Flags:
        """Return which rows are of the plain framing, ``[n]``."""
        return self.framing.is_("plain")


class MarginColumns:
    """Grows margins row by row: names become numbers at once, so that a million rows take some 64 bytes each."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, int]] = {name: {} for name in NAMES}
        self.codes = {name: array("i") for name in NAMES}
        self.values = [array("d") for _ in NORMS]

    def add(self, names: Mapping[str, str], parts: Mapping[str, Mapping[str, float]]) -> None:
        """Append a row: a name for each of ``NAMES``, and what ``grading.labels.margin_parts`` gave."""
        for name in NAMES:
            table = self.tables[name]
            self.codes[name].append(table.setdefault(names[name], len(table)))
        right, wrong = (norms(parts[side]) for side in ("right", "wrong"))
        for column, a, b in zip(self.values, right, wrong, strict=True):
            column.append(a - b)

    def margins(self, beside: int = 0, **first: Sequence[str]) -> Margins:
        """Return the rows; columns' names come in the order given, where they occur."""
        found: dict[str, Any] = {"beside": beside}
        for name in NAMES:
            codes = Factor(tuple(self.tables[name]), np.array(self.codes[name], dtype=np.int32))
            found[name] = reorder(codes, first.get(name, ()))
        for norm, values in zip(NORMS, self.values, strict=True):
            found[column_of(norm)] = np.array(values)
        return Margins(**found)


def column_of(norm: str) -> str:
    """Return the column of one of ``NORMS``."""
    return norm.replace(" ", "_")


def norms(parts: Mapping[str, float]) -> tuple[float, float, float, float]:
    """Return an answer's log-probability as each of ``NORMS`` counts it."""
    own = parts["own"]
    return own, own / max(1, parts["bytes"]), own / max(1, parts["tokens"]), own + parts["stop"] + parts["end"]


def read_margins(folder: Path) -> Margins:
    """Return a run's margins; none for what a run of an earlier version did not keep.

    Raises ``InputError`` for a folder that is no run, and for a record that is none of a run.
    """
    manifest = require_manifest(folder)
    model = Path(str(manifest.setting.get("model") or "model")).name
    columns = MarginColumns()
    beside = 0
    for r in read_records(folder / FILE):
        beside += r.get("kind") == "margin"
        if parts := r.get("margin"):
            try:
                names = {name: r[name] for name in ("persona", "task", "context", "belief")}
                names |= {"model": model, "framing": r.get("framing") or "plain", "asking": r.get("asking") or OPEN}
                columns.add(names | {"item": f"{r['task']}/{r['item']}"}, parts)
            except (KeyError, TypeError) as error:
                raise InputError(f"{folder / FILE}: record {r['key']} lacks {error}: restore the file") from None
    first = orders(manifest.inputs)
    return columns.margins(beside, persona=first.pop("personas"), asking=ASKINGS, **first)


def concat_margins(parts: Sequence[Margins]) -> Margins:
    """Return the margins of several runs as one."""
    if len(parts) == 1:
        return parts[0]

    def columns() -> Iterator[Any]:
        for f in fields(Margins):
            values = [getattr(part, f.name) for part in parts]
            if isinstance(values[0], int):
                yield sum(values)
            else:
                yield joined(values) if isinstance(values[0], Factor) else np.concatenate(values)

    return Margins(*columns())
