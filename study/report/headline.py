"""What a run found, in a few sentences: its primary outcome, the trend over doses, then what was known anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from warmeng.study.outcomes import AGREEMENT, KNOWLEDGE, MARGIN, RAW, outcome_parts
from warmeng.study.stats.susceptibility import sign
from warmeng.study.stats.tables import shown

Row = Mapping[str, Any]
MEANINGS = {
    AGREEMENT: "what the user's own claim does to the answer beyond its mere mention",
    RAW: "how far the user's claim moves the answer, repetition included",
    KNOWLEDGE: "how much likelier the right answer is than the wrong one, whichever the user claims",
    MARGIN: "how much likelier the right answer is than the wrong one, without a claim",
}
WAYS = {-1: "lower", 0: "not told apart", 1: "higher"}
TRENDS = {-1: "it falls with the dose", 0: "no trend is shown", 1: "it rises with the dose"}


def headline(primary: str, tables: Mapping[str, Any], baseline: str) -> list[str]:
    """Return lines of what a run's tables say of its primary outcome; none where it named none."""
    if not primary:
        return []
    measure, asking = outcome_parts(primary)
    contrasts = primary_contrasts(primary, tables)
    levels = "agreement" if measure == AGREEMENT else "margins" if measure == MARGIN else "susceptibility"
    level = [
        row
        for row in _rows(tables, levels, measure, asking)
        if row["persona"] == baseline and not row.get("against") and row.get("belief", "none") == "none"
    ]
    named = f"The outcome named before the first answer is {primary}"
    if not level and not contrasts:
        return [f"{named}: no question has all the margins that it needs."]
    n = max(row["n"] for row in (*level, *contrasts))
    lines = [
        f"{named}: {MEANINGS[measure]}, in nats, over {n} questions. Each 95 % interval stands for itself; none is "
        "corrected for the others."
    ]
    lines += [f"{row['persona']}: {_interval(row)}." for row in level]
    lines += [_contrast(row) for row in contrasts]
    for row in tables.get("dose_trends", {}).get("rows", ()):
        if row["outcome"] == primary:
            doses = f"Over the doses {row['doses']} of {row['family']}"
            lines.append(f"{doses}: {_interval(row, 'slope')} a unit, {TRENDS[sign(row)]}.")
    known = _rows(tables, "margin_contrasts", MARGIN, asking) if measure not in (MARGIN, KNOWLEDGE) else []
    if known:
        lines.append(f"Without a claim ({MEANINGS[MARGIN].removesuffix(', without a claim')}):")
        lines += [_contrast(row) for row in known]
    return lines


def primary_contrasts(primary: str, tables: Mapping[str, Any]) -> Sequence[Row]:
    """Return the rows of ``margin_contrasts`` of a run's primary outcome, over all tasks and contexts."""
    return _rows(tables, "margin_contrasts", *outcome_parts(primary)) if primary else []


def _rows(tables: Mapping[str, Any], name: str, measure: str, asking: str) -> Sequence[Row]:
    """Return a table's rows of one measure and asking style, over all tasks, contexts and models."""
    found = [
        row
        for row in tables.get(name, {}).get("rows", ())
        if row["asking"] == asking and row["task"] == row["context"] == "all" and row.get("measure", measure) == measure
    ]
    return [row for row in found if row["model"] == found[0]["model"]]


def _contrast(row: Row) -> str:
    return f"{row['persona']} less {row['against']}: {_interval(row)}, {WAYS[sign(row)]}."


def _interval(row: Row, value: str = "value") -> str:
    told = [shown(row[key], "nats") for key in (value, "low", "high")]
    return told[0] if row["low"] is None else f"{told[0]} ({told[1]} to {told[2]})"
