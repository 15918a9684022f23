"""The primary claim's numbers, and the correction of everything else as one exploratory family."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from warmeng.study.claim import Claim
from warmeng.study.contexts import UNMODIFIED
from warmeng.study.outcomes import outcome_parts
from warmeng.study.results.frame import Frame, Small
from warmeng.study.results.views import NONE
from warmeng.study.stats.changes import differences
from warmeng.study.stats.draws import number
from warmeng.study.stats.intervals import detectable
from warmeng.study.stats.margins import ALL
from warmeng.study.stats.missing import missing_bounds
from warmeng.study.stats.paired import false_discovery
from warmeng.study.stats.published import EFFECTS, is_warm_by_training

Row = dict[str, Any]
Tables = Mapping[str, Sequence[Row]]
# Tables of a run whose contrasts are one exploratory family.
FAMILY = ("differences", "belief_effects", "rises", "margin_contrasts")
POINTS, NATS = "points", "nats"


def claimed(frame: Frame, known: Small, claim: Claim, baseline: str, tables: Tables) -> Row | None:
    """Return the row that a claim is about, of ``tables`` where they have it; ``None`` where no question has it.

    Errors are those on plain questions: over all tasks, in the unmodified context and without a belief, as in the
    paper's main effect; where one of these was not asked, over all that were.
    """
    if claim.is_errors:
        mine = claim.against == baseline
        rows = tables["differences"] if mine else differences(frame, known, claim.against, (claim.variant,))
        return _first(rows, plain_place(frame, claim))
    measure, asking = outcome_parts(claim.outcome)
    wanted = {"measure": measure, "asking": asking, "persona": claim.variant, "against": claim.against}
    return _first(tables.get("margin_contrasts", ()), wanted | {"task": ALL, "context": ALL})


def primary(frame: Frame, known: Small, claim: Claim, found: Row | None) -> list[Row]:
    """Return the table ``primary``: one row, of what ``claimed`` found; ``value`` is missing where that is nothing."""
    row: Row = {"outcome": claim.outcome, "persona": claim.variant, "against": claim.against, "n": 0}
    row |= {"unit": POINTS if claim.is_errors else NATS}
    if found is None:
        return [row]
    row |= {name: found[name] for name in ("n", "value", "low", "high", "p")} | {"few": found.get("few")}
    if found["low"] is not None:
        # By its own spread, not an assumed one.
        row["detectable"] = detectable(found["low"], found["high"])
    if claim.is_errors:
        place = plain_place(frame, claim)
        if bounds := _first(missing_bounds(frame, known, claim.against, (claim.variant,)), place):
            row |= {name: bounds[name] for name in ("lowest", "highest")}
        plain = (place["context"], place["belief"]) == (UNMODIFIED, NONE)
        if plain and is_warm_by_training(claim.variant) and not is_warm_by_training(claim.against):
            paper = EFFECTS[1, ALL]
            row |= {"published": paper, "excludes": "no" if row["low"] <= paper <= row["high"] else "yes"}
            row["needed"] = math.ceil(row["n"] * (row["detectable"] / paper) ** 2)
    return [row]


def plain_place(frame: Frame, claim: Claim) -> dict[str, str]:
    """Return where a claim about errors is told of; ``all`` for context or belief where the plain one was not asked."""
    context = UNMODIFIED if frame.context.is_(UNMODIFIED).any() else ALL
    belief = NONE if frame.belief.is_(NONE).any() else ALL
    return {"task": ALL, "context": context, "belief": belief, "persona": claim.variant}


def _first(rows: Iterable[Row], wanted: Mapping[str, str]) -> Row | None:
    """Return the first row with these values: over all models, where there are several."""
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), None)


def correct_family(tables: Iterable[Sequence[Row]], but: Row | None = None) -> None:
    """Give every row of the tables that has a p the same, corrected over all of them together: ``p_family``.

    Benjamini and Hochberg (1995): of what is called a finding at 5 %, at most 5 % are expected to be none; where there
    is nothing at all, 95 % of runs are expected to have no finding. The tests are not independent, which it allows for
    where they depend positively, as tests of the same questions mostly do (Benjamini and Yekutieli 2001). ``but``, the
    primary claim's row, is not in the family, and gets none.
    """
    rows = [row for found in tables for row in found if "p" in row and row is not but]
    p = np.array([math.nan if row["p"] is None else row["p"] for row in rows])
    for row, corrected in zip(rows, false_discovery(p), strict=True):
        row["p_family"] = number(corrected)
