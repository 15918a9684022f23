"""``results.json`` and ``results.md``: the first tables of a run's analysis, its counts and what it was made with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.files import write_atomic
from warmeng.engine.provenance import PROVENANCE, Provenance
from warmeng.study.grading.grade import GRADES
from warmeng.study.report.headline import headline
from warmeng.study.report.settings_text import weights_words
from warmeng.study.results.overruled import overruled_line
from warmeng.study.results.shortfall import NO_ANSWERS
from warmeng.study.stats.tables import escaped, section

# Share of generated answers that may be cut before it is said.
MOST_CUT = 0.1


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``results.json`` and ``results.md`` atomically. Raises ``OSError``.

    ``results`` has ``tables`` by name as ``stats.tables.table`` makes them, ``grades`` and ``reasons`` as counts, and
    ``run``: see ``study.run.finish``.
    """
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    write_atomic(folder / "results.json", orjson.dumps(results, option=options))
    write_atomic(folder / "results.md", markdown(results).encode())


def markdown(results: Mapping[str, Any]) -> str:
    """Return all tables, pooled and by task, as plain Markdown."""
    lines = ["# Results", ""]
    if found := found_lines(results):
        lines += ["## What was found", "", *(f"- {escaped(line)}" for line in found), "", "## The run", ""]
    lines += [*(f"- {escaped(line)}" for line in notes(results)), ""]
    tables = results["tables"]
    # A choice that is asked alone has no error rates.
    for task in dict.fromkeys(row["task"] for found in tables.values() for row in found["rows"] if "task" in row):
        lines += ["## All tasks" if task == "all" else f"## Task {escaped(task)}", ""]
        for found in tables.values():
            lines += section(found, [row for row in found["rows"] if row.get("task", "all") == task], level=3)
    if results["reasons"]:
        lines += ["## Why answers have their grade", "", "| reason | n |", "| --- | ---: |"]
        lines += [f"| {escaped(reason)} | {n} |" for reason, n in results["reasons"].items()]
        lines.append("")
    return "\n".join(lines)


def found_lines(results: Mapping[str, Any]) -> list[str]:
    """Return what was found, and whether the personas were as warm as expected; nothing of a persona alone."""
    run = results["run"]
    found = headline(run.get("primary") or "", results["tables"], results["baseline"])
    return [*found, *filter(None, [run.get("warmth")])] if found else []


def cut_line(lengths: Mapping[str, int], most: int) -> tuple[bool, str]:
    """Return whether so few generated answers were cut that it does not matter, and how many were, in a sentence."""
    cut, whole = lengths.get("cut", 0), lengths.get("whole", 0)
    if not cut + whole:
        return True, ""
    share = cut / (cut + whole)
    told = f"{cut:,} of {cut + whole:,} generated answers ({share:.0%}) were cut at {most} tokens"
    if share > MOST_CUT:
        return False, f"{told}: what would have come later is not graded; raise --max-new-tokens."
    return True, f"{told}."


def notes(results: Mapping[str, Any]) -> list[str]:
    """Return the lines below the tables: counts, numerics, the system message that the template adds, gates."""
    run = results["run"]
    grades = " + ".join(f"{results['grades'].get(grade, 0)} {grade}" for grade in GRADES)
    missing = f" + {run['missing']} missing" if run["missing"] else ""
    lines = [f"Planned {run['planned']} = {grades}{missing}." if run["planned"] else NO_ANSWERS]
    api = run.get("api") or {}
    bits = "deterministic." if run["deterministic"] else "fast: results may differ in another batch."
    where = f" behind {api['base']}" if api else ""
    lines.append(f"Model {run['model']}{where}, seed {run['seed']}, {'not deterministic.' if api else bits}")
    fits, cut = cut_line(run.get("lengths") or {}, int((run.get("settings") or {}).get("max_new_tokens") or 0))
    if not fits:
        lines.append(cut)
    if by_hand := overruled_line(run.get("overruled") or {}):
        lines.append(by_hand)
    if told := weights_words(run, bool(run.get("fidelity"))):
        lines.append(f"Weights: {told}.")
    lines += [f"Beside full precision: {line.rstrip('.')}." for line in run.get("fidelity") or ()]
    if answered := run.get("answered_by"):
        lines.append(f"Answered by {answered}.")
    if api:
        lines.append(f"Options are graded by {api['options']}.")
        lines += [f"An API gives {told}." for told in api["not_given"]]
    if run.get("questions"):
        lines.append(f"Questions: {', '.join(f'{name} {extent}' for name, extent in run['questions'].items())}.")
    lines += [f"{name}: {told}." for name, told in (run.get("left_out") or {}).items()]
    if run["default_system"] and run["adds_default_system"]:
        names = ", ".join(run["adds_default_system"])
        lines.append(f"The chat template adds a system message of its own for {names}: {run['default_system']!r}.")
    for persona, gate in run["gates"].items():
        unlike = Provenance(*map(gate.get, PROVENANCE)).lines()
        if gate.get("hash") == "":
            lines.append(f"{persona} is dose 0 of its adapter: it has the base's bits.")
            continue
        moves = f"it moves the probe's logits by {gate['probe']:.3g}"
        lines.append(f"Adapter of {persona} is applied: {'; '.join((moves, *unlike))}.")
    for persona, about in (run.get("own_models") or {}).items():
        lines.append(f"{persona} is a model of its own: {about['model']}.")
        if about.get("adds_default_system"):
            added = about["adds_default_system"]
            lines.append(f"Its chat template adds a system message of its own for {persona}: {added!r}.")
    disputed = {name: count for name, count in (run.get("disputed") or {}).items() if count}
    if disputed:
        told = ", ".join(f"{name} {count}" for name, count in disputed.items())
        lines.append(f"Disputed, a trusted judge grades otherwise than the exact rule and counts: {told}.")
    return lines
