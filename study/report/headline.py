"""What a run found, in a few sentences: its primary claim, then what is exploratory: other contrasts, trends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from warmeng.study.outcomes import AGREEMENT, KNOWLEDGE, MARGIN, RAW, outcome_parts
from warmeng.study.stats.primary import FAMILY
from warmeng.study.stats.susceptibility import sign
from warmeng.study.stats.tables import shown

Row = Mapping[str, Any]
MEANINGS = {
    AGREEMENT: "what the user's own claim does to the answer beyond its mere mention",
    RAW: "how far the user's claim moves the answer, repetition included",
    KNOWLEDGE: "how much likelier the right answer is than the wrong one, whichever the user claims",
    MARGIN: "how much likelier the right answer is than the wrong one, without a claim",
}
WAYS = {-1: "lower", 0: "no difference shown", 1: "higher"}
TRENDS = {-1: "it falls with the dose", 0: "no trend is shown", 1: "it rises with the dose"}
FEW = "The interval rests on few questions, so it may be too short."

FINDING = 0.05  # false-discovery rate


def headline(primary: str, tables: Mapping[str, Any], baseline: str) -> list[str]:
    """Return lines of what a run's tables say: its primary claim first, then what is exploratory.

    ``primary`` is the outcome of margins that it is about, "" where that are error rates.
    """
    first = claim_line(tables)
    lines = [first, *filter(None, [exploratory_line(tables)])] if first else []
    if not primary:
        return lines
    measure, asking = outcome_parts(primary)
    contrasts = primary_contrasts(primary, tables)
    levels = "agreement" if measure == AGREEMENT else "margins" if measure == MARGIN else "susceptibility"
    level = [
        row
        for row in _rows(tables, levels, measure, asking)
        if row["persona"] == baseline and not row.get("against") and row.get("belief", "none") == "none"
    ]
    if not level and not contrasts:
        return [*lines, f"{_upper(primary)}: no question has all the margins that it needs."]
    n = max(row["n"] for row in (*level, *contrasts))
    lines.append(f"{_upper(primary)}, {MEANINGS[measure]}, in nats, over {n} questions, with 95 % intervals:")
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


def claim_line(tables: Mapping[str, Any]) -> str:
    """Return the primary claim in one line: shown or not, its interval, what could have been found; "" without one.

    All that tell it take it from here: the terminal, ``results.md`` and the report.
    """
    for row in tables.get("primary", {}).get("rows", ()):
        return _claim(row)
    return ""


def _claim(row: Row) -> str:
    who, whom, outcome, unit = row["persona"], row["against"], row["outcome"], row["unit"]
    named = "Primary claim, named before the first answer:"
    if row["value"] is None:
        return f"{named} nothing can be said of {outcome} of {who} beside {whom}: no question has what it needs."

    def said(key: str) -> str:
        return shown(row[key], unit)

    if row["low"] is None:
        return (
            f"{named} {outcome} of {who} minus {whom} is {said('value')} {unit}, of too few questions for an interval."
        )
    bounds = f"{said('value')} {unit} (95 % interval {said('low')} to {said('high')}, {row['n']:,} questions)"
    way = sign(row)
    if way:
        told = [f"{outcome} of {who} {'is' if unit == 'nats' else 'are'} {WAYS[way]} than of {whom}: {bounds}."]
        if row["lowest"] is not None and row["lowest"] <= 0 <= row["highest"]:
            told.append(f"Undecided answers could turn it: {said('lowest')} to {said('highest')} whatever they are.")
    else:
        least = f"{said('detectable').lstrip('+')} {unit}"
        told = [
            f"a difference in {outcome} between {who} and {whom} is not shown: {bounds}.",
            f"An effect of {least} would have been found in 80 % of such runs.",
        ]
    if row["few"]:
        told.append(FEW)
    if row["published"] is not None:
        paper = f"the paper's effect of {row['published']:+.2f} points"
        if row["excludes"] == "yes":
            told.append(f"The interval excludes {paper}.")
        elif not way:
            told.append(f"It does not exclude {paper}, which it would take about {row['needed']:,} questions to find.")
    return " ".join([named, *told])


def exploratory_line(tables: Mapping[str, Any]) -> str:
    """Return how many of all other contrasts are findings after correction for their number; "" without any."""
    rows = [row for name in FAMILY if name in tables for row in tables[name]["rows"]]
    rows = [row for row in rows if row["p_family"] is not None]
    if not rows:
        return ""
    findings = sum(row["p_family"] < FINDING for row in rows)
    return (
        f"Everything else is exploratory: of {len(rows):,} contrasts, {findings:,} differ from 0 at a "
        f"false-discovery rate of {100 * FINDING:.0f} % over all of them."
    )


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


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
    """Return a contrast in words; one of the exploratory family is told apart only where it is after correction."""
    corrected = row.get("p_family")
    way = WAYS[sign(row) if corrected is None or corrected < FINDING else 0]
    resting = f" {FEW}" if row.get("few") else ""
    return f"{row['persona']} minus {row['against']}: {_interval(row)}, {way}.{resting}"


def _interval(row: Row, value: str = "value") -> str:
    told = [shown(row[key], "nats") for key in (value, "low", "high")]
    return told[0] if row["low"] is None else f"{told[0]} ({told[1]} to {told[2]})"
