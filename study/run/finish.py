"""The end of a run: its records read back, counted, tabulated, analysed and reported."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmeng.common.errors import StorageError, one_line
from warmeng.common.files import storage_failure, sweep
from warmeng.common.interrupts import heeded
from warmeng.common.progress import Progress
from warmeng.study.plan import Study
from warmeng.study.report.table import write_results
from warmeng.study.results.combine import combine, first_trusted
from warmeng.study.results.records import FILE, read_records
from warmeng.study.stats.rates import Answers, summarise

UNBALANCED = 70
FAILED = 70

TOLD = (
    "default_system",
    "adds_default_system",
    "exact_rule",
    "gates",
    "judges",
    "own_models",
    "questions",
    "left_out",
)  # facts in the results
STEPS = (  # after the tables: module, function, what it makes, the command that makes it again
    ("warmeng.study.stats.analyze", "analyze_run", "analysis", "analyze"),
    ("warmeng.study.report.page", "write_report", "report", "report"),
)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the exit code, and the results unless it was interrupted."""

    exit_code: int
    folder: Path
    results: dict[str, Any] | None


def final_grades(path: Path, facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the answers' records with what all rules together say in ``grade``, ``which``, ``reason``, ``disputed``."""
    judge = first_trusted(facts)
    judged: dict[bytes, dict[str, Any]] = {}
    if judge is not None:
        for record in read_records(path):
            if record["kind"] == "judged" and record["judge"] == judge:
                kept = {name: record[name] for name in ("judge", "grade", "which", "reason")}
                judged[bytes.fromhex(record["of"])] = kept
    for record in read_records(path):
        if record["kind"] != "judged":
            found = combine(record, judged.get(bytes.fromhex(record["key"])))
            final = {"grade": found.grade, "which": found.which, "reason": found.reason, "disputed": found.disputed}
            yield record | final


def finish(study: Study, folder: Path, manifest: Mapping[str, Any], progress: Progress, command: str) -> Outcome:
    """Read the records back, check that planned = sum of all grades, write and return the results, then analyse.

    ``manifest`` has ``facts`` and the number of ``judgments``; ``command`` is what does this again. Raises
    ``StorageError`` where results, analysis or report can't be written.
    """
    facts = manifest["facts"]
    s = study.settings
    disputed: Counter[str] = Counter()  # answers that a trusted judge grades otherwise than the exact rule, by persona
    beside: Counter[str] = Counter()  # the neutral frame has no place in the first tables: counted only

    def plain() -> Iterator[dict[str, Any]]:
        for record in final_grades(folder / FILE, facts):
            disputed[record["persona"]] += record["disputed"]
            if record["framing"] == "plain":
                yield record
            else:
                beside[record["grade"]] += 1

    answers = Answers(plain())
    answers.grades.update(beside)
    names = [p.name for p in study.personas]
    results = summarise(answers, names, list(study.contexts), list(s.beliefs), [t.name for t in study.tasks])
    missing = study.size - answers.grades.total()
    judgments = Counter(r["judge"] for r in read_records(folder / FILE) if r["kind"] == "judged")
    unjudged = manifest.get("judgments", 0) - judgments.total()
    results["run"] = {
        "planned": study.size,
        "missing": missing,
        "disputed": {name: disputed[name] for name in names},
        "judgments": {"planned": manifest.get("judgments", 0), "missing": unjudged, "done": dict(judgments)},
        "model": s.model,
        "seed": s.seed,
        "deterministic": not s.fast,
        "settings": s.as_dict(),
        **{key: facts.get(key) for key in TOLD},
    }
    try:
        sweep(folder)
        write_results(folder, results)
    except OSError as error:
        why = one_line(error.strerror or error)
        raise StorageError(
            f"{folder}: the results can't be written ({why}); every record is kept: make room, then: {command}"
        ) from None
    if missing or unjudged:
        progress.message(
            f"{folder}: {missing} of {study.size} answers and {unjudged} judgments are missing: "
            f"get them with: {command}"
        )
    failed = not conclude(folder, progress)
    return Outcome(UNBALANCED if missing or unjudged else FAILED if failed else 0, folder, results)


def conclude(folder: Path, progress: Progress) -> bool:
    """Analyse a finished run and write its report; return whether both were made.

    Whatever fails here, the records are whole: the message says which command makes it again from them. Raises
    ``StorageError`` where it is the disk.
    """
    for module, function, what, command in STEPS:
        progress.message(f"{folder}: writing the {what}")
        try:
            with heeded():
                getattr(importlib.import_module(module), function)(folder)
        except Exception as error:
            then = f"warmeng {command} {folder}"
            if isinstance(error, OSError) and (line := storage_failure(error, then)):
                raise StorageError(f"{line} (every record is kept)") from None
            why = one_line(str(error) or type(error).__name__)
            progress.message(
                f"{folder}: the {what} could not be made ({why}); every record is kept: try again with: {then}"
            )
            return False
    return True
