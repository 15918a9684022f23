"""What a run found, in a few sentences: its primary outcome, the trend over doses, then what was known anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from warmeng.study.stats.belief_margins import AGREEMENT, MARGIN, RAW
from warmeng.study.stats.susceptibility import sign
from warmeng.study.stats.tables import shown

Row = Mapping[str, Any]
MEANINGS = {
    AGREEMENT: "what the user's own claim does to the answer beyond its mere mention",
    RAW: "how far the user's claim moves the answer, repetition included",
    MARGIN: "how much likelier the right answer is than the wrong one, without a claim",
}
WAYS = {-1: "lower", 0: "not told apart", 1: "higher"}
TRENDS = {-1: "it falls with the dose", 0: "no trend is shown", 1: "it rises with the dose"}


def headline(results: Mapping[str, Any]) -> list[str]:
    """Return lines of what ``results.json`` says of the primary outcome; none where the run has no margins."""
    primary = results["run"].get("primary") or ""
    measure, _, asking = primary.removesuffix(")").partition(" (")
    tables = results["tables"]
    contrasts = _rows(tables, "margin_contrasts", measure, asking)
    if not contrasts:
        return []
    n = max(row["n"] for row in contrasts)
    lines = [
        f"The outcome named before the first answer is {primary}: {MEANINGS[measure]}, in nats, over {n} questions "
        "(95 % intervals)."
    ]
    levels = "agreement" if measure == AGREEMENT else "margins" if measure == MARGIN else "susceptibility"
    for row in _rows(tables, levels, measure, asking):
        if row["persona"] == results["baseline"] and not row.get("against") and row.get("belief", "none") == "none":
            lines.append(f"{row['persona']}: {_interval(row)}.")
    lines += [_contrast(row) for row in contrasts]
    for row in tables.get("dose_trends", {}).get("rows", ()):
        if row["outcome"] == primary:
            doses = f"Over the doses {row['doses']} of {row['family']}"
            lines.append(f"{doses}: {_interval(row, 'slope')} a unit, {TRENDS[sign(row)]}.")
    known = _rows(tables, "margin_contrasts", MARGIN, asking) if measure != MARGIN else []
    if known:
        lines.append(f"Without a claim ({MEANINGS[MARGIN].removesuffix(', without a claim')}):")
        lines += [_contrast(row) for row in known]
    return lines


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
