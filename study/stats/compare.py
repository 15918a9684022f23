"""Two runs side by side: what is asked in both is compared answer by answer and question by question.

Runs of one seed draw the same noise for an answer, so where nothing changes, not even sampling differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from warmeng.common.errors import InputError, UsageError, one_line
from warmeng.common.files import make_inner, write_atomic
from warmeng.study.results.frame import Factor, Flags, Frame
from warmeng.study.results.items import read_items
from warmeng.study.results.manifest import OWN_MODELS, Manifest, refuse_other_runs, require_manifest
from warmeng.study.results.margins import Margins, read_margins
from warmeng.study.results.read import COLUMNS, joined, read_run
from warmeng.study.results.tied import PLAN, refuse_untied
from warmeng.study.results.views import outcome
from warmeng.study.stats import tables
from warmeng.study.stats.analyze import compared
from warmeng.study.stats.margins import ALL
from warmeng.study.stats.primary import correct_family
from warmeng.study.stats.run_tables import (
    FIRST,
    PLACE,
    SECOND,
    Row,
    answers_table,
    apart,
    contrasts_table,
    margins_table,
)

TABLES = ("run_answers", "run_contrasts", "run_margins", "run_apart")
# Inputs whose change is told by what it changes: the plan holds everything, the settings are told one by one.
_TOLD_APART = ("setting", PLAN, "items")
# Inputs that hold something of each persona: those that both runs have are compared.
_BY_PERSONA = ("system prompt", "adapter", OWN_MODELS)


class Runs:
    """Two runs, read: manifests, what is asked in both as one frame, in which ``model`` tells the run, and margins.

    ``alone`` counts each run's answers whose question the other has not, or has otherwise.
    """

    def __init__(self, first: Path, second: Path) -> None:
        """Raises ``InputError`` for folders that are no runs, or no whole ones, ``UsageError`` for one given twice."""
        self.folders = (first, second)
        if first.resolve() == second.resolve():
            raise UsageError(f"{first} is given twice: give two runs")
        self.manifests = [require_manifest(folder) for folder in self.folders]
        for folder, manifest in zip(self.folders, self.manifests, strict=True):
            refuse_untied(folder, manifest)
        found = [read_run(folder) for folder in self.folders]
        frames = [frame for frame, _ in found]
        self.infos = [info for _, info in found]
        self.whole = side_by_side(*frames)
        asked = [read_items(folder) for folder in self.folders]
        same = {f"{task}/{item}" for (task, item), one in asked[0].items() if asked[1].get((task, item)) == one}
        if not all(asked):
            # Runs of earlier versions: only ids are known.
            same = set.intersection(*(set(frame.item.names) for frame in frames))
        kept = [_named(frame.item, same) for frame in frames]
        self.alone = [int((~use).sum()) for use in kept]
        self.frame = side_by_side(*(frame.take(use) for frame, use in zip(frames, kept, strict=True)))
        self.margins = [m.take(_named(m.item, same)) for m in map(read_margins, self.folders)]

    @property
    def notes(self) -> Iterator[str]:
        """Yield what a reader has to know of each run."""
        for name, info in zip((FIRST, SECOND), self.infos, strict=True):
            if lacking := info.planned - int(info.statuses.get("ok", 0)):
                yield f"Of the {name} run {lacking} of {info.planned} answers are missing or failed."
        one, other = self.manifests
        if one.facts.sources != other.facts.sources:
            yield "The runs were made by two versions of warmeng: prompts and grading rules may differ, too."


def compare(first: Path, second: Path, rule: str = "grades") -> dict[str, Any]:
    """Return what differs between two runs, as JSON-able tables: paired where both ask the same, else side by side.

    Raises as ``Runs``, ``UsageError`` for an unknown rule, and ``InputError`` where no persona is in both.
    """
    runs = Runs(first, second)
    shared = set.intersection(*(set(_present(runs.whole, run)) for run in (FIRST, SECOND)))
    if not shared:
        raise InputError("the two runs have no persona in common: give runs that call what is compared by one name")
    notes = [f"First: {one_line(first)}. Second: {one_line(second)}.", *differing(*runs.manifests), *runs.notes]
    both = len(runs.frame) > 0 and all(runs.frame.model.is_(name).any() for name in (FIRST, SECOND))
    if both:
        frame = runs.frame.take(_named(runs.frame.persona, shared))
        baseline, _ = compared(frame)
        rows = paired(frame, runs.margins, rule)
        if any(runs.alone):
            notes.append(
                f"{runs.alone[0]} answers of the first and {runs.alone[1]} of the second run are to questions that the "
                "other run does not ask in the same words: they are left out."
            )
    else:
        frame = runs.whole.take(_named(runs.whole.persona, shared))
        baseline, _ = compared(frame)
        rows = {"run_apart": apart(frame, outcome(frame, rule))}
        notes.append("No question is the same in both runs: they are compared as two samples, which tells less.")
    return result(rows, notes, rule, baseline, runs.manifests[0].facts.primary)


def paired(frame: Frame, margins: Sequence[Margins], rule: str) -> dict[str, list[Row]]:
    """Return the tables of what both runs ask, corrected as one family; ``margins`` are each run's."""
    known = outcome(frame, rule)
    baseline, variants = compared(frame)
    rows = {
        "run_answers": answers_table(frame, known),
        "run_contrasts": contrasts_table(frame, known, baseline, variants),
        "run_margins": margins_table(margins, baseline, [baseline, *variants]),
    }
    correct_family(rows.values())
    return {name: found for name, found in rows.items() if found}


def result(
    rows: Mapping[str, Sequence[Row]], notes: Sequence[str], rule: str, baseline: str, primary: str
) -> dict[str, Any]:
    """Return a comparison as it is written."""
    return {
        "format": tables.FORMAT,
        "rule": rule,
        "baseline": baseline,
        "primary": primary,
        "notes": list(notes),
        "tables": {name: tables.table(name, part) for name, part in rows.items()},
    }


def write_comparison(out: Path, found: Mapping[str, Any], name: str, heading: str, run: Path | None = None) -> None:
    """Write ``NAME.json`` and ``NAME.md`` into a folder, made if need be.

    Raises ``UsageError`` for a folder in a run's other than ``run``, ``OSError`` where it can't be written.
    """
    refuse_other_runs(out, *([run] if run else ()))
    place = make_inner(out.parent, out.name)
    write_atomic(place / f"{name}.md", tables.to_markdown(found["tables"].values(), heading, found["notes"]))
    write_atomic(place / f"{name}.json", orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def differing(one: Manifest, other: Manifest) -> list[str]:
    """Return in a sentence each what the two runs were made with that is not the same."""
    found = []
    settings = [m.setting for m in (one, other)]
    for name in sorted(set(settings[0]) | set(settings[1])):
        was, now = (s.get(name) for s in settings)
        if was != now:
            found.append(f"{name}: {_short(was)} in the first run, {_short(now)} in the second.")
    changed = []
    for name in sorted(set(one.inputs) | set(other.inputs)):
        was, now = (m.inputs.get(name) for m in (one, other))
        if name in _BY_PERSONA:
            old, new = was or {}, now or {}
            changed += [f"{name} of {persona}" for persona in old if persona in new and old[persona] != new[persona]]
        elif name not in _TOLD_APART and was != now:
            changed.append(name)
    if changed:
        found.append(f"Not the same in both runs: {', '.join(changed)}.")
    return found or ["Nothing that determines the answers differs."]


def _short(value: Any) -> str:
    return "not given" if value is None else one_line(orjson.dumps(value).decode(), 80)


def _present(frame: Frame, run: str) -> list[str]:
    part = frame.take(frame.model.is_(run))
    return [name for name in part.persona.names if part.persona.is_(name).any()]


def _named(column: Factor, names: set[str]) -> Flags:
    """Return which rows have one of these names, ``[n]``."""
    return np.array([name in names for name in column.names], dtype=bool)[column.codes]


def side_by_side(first: Frame, second: Frame) -> Frame:
    """Return both runs' answers as one frame, in which ``model`` tells the run."""
    columns: dict[str, Any] = {
        name: joined([getattr(part, name) for part in (first, second)]) for name in COLUMNS if name != "model"
    }
    for name in ("sample", "grade", "which", "binary", "chars", "exact"):
        columns[name] = np.concatenate([getattr(first, name), getattr(second, name)])
    refused = [name for name in first.refused if name in second.refused]
    run = np.repeat(np.arange(2, dtype=np.int32), [len(first), len(second)])
    return Frame(
        model=Factor((FIRST, SECOND), run),
        judges={},
        refused={name: np.concatenate([first.refused[name], second.refused[name]]) for name in refused},
        **columns,
    )


def headline(found: Mapping[str, Any]) -> list[str]:
    """Return what the tables say over everything, a line for each persona and each contrast."""
    lines = []
    answers, contrasts, measured, apart = (found["tables"].get(name, {}).get("rows", ()) for name in TABLES)
    for row in answers:
        if all(row[name] == ALL for name in PLACE):
            lines.append(
                f"{row['persona']}: {row['changed']:.1%} of the answers have another grade; errors {row['value']:+.1f} "
                f"points ({row['low']:+.1f} to {row['high']:+.1f}), {row['b']} wrong only in the second run and "
                f"{row['c']} only in the first"
            )
    for row in contrasts:
        if all(row[name] == ALL for name in PLACE):
            lines.append(
                f"{row['persona']} minus {row['against']}: {row['first']:+.1f} points, then {row['second']:+.1f}: "
                f"{row['value']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f}); found in 80 %: "
                f"{row['detectable']:.1f}"
            )
    for row in measured:
        if row["outcome"] == found["primary"]:
            less = f" minus {row['against']}" if row["against"] else ""
            lines.append(
                f"{row['persona']}{less}: {row['outcome']} {row['value']:+.2f} nats in the second run minus the first"
                f"{_interval(row)}, {row['n']} questions"
            )
    for row in apart:
        lines.append(
            f"{row['persona']}: errors {row['first']:.1%} of {row['n_first']:,} answers, then {row['second']:.1%} of "
            f"{row['n_second']:,} to other questions: {row['value']:+.1f} points{_interval(row, 1)}"
        )
    return lines


def _interval(row: Row, digits: int = 2) -> str:
    return "" if row["low"] is None else f" ({row['low']:+.{digits}f} to {row['high']:+.{digits}f})"
