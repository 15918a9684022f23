"""The end of a run: its records read back, counted, tabulated, analysed and reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError, StorageError, UsageError, one_line
from warmeng.common.files import storage_failure, sweep
from warmeng.common.interrupts import convert_to_keyboard_interrupt
from warmeng.common.log import timed
from warmeng.common.progress import Progress
from warmeng.remote.names import is_api
from warmeng.study.plan import Study
from warmeng.study.report.results import write_results
from warmeng.study.results.answering import answering, answering_words
from warmeng.study.results.frame import Frame
from warmeng.study.results.manifest import Manifest
from warmeng.study.results.margins import Margins, read_margins
from warmeng.study.results.read import RunInfo, read_run
from warmeng.study.results.tied import tie
from warmeng.study.results.trust import Trust
from warmeng.study.results.views import outcome
from warmeng.study.stats.analyze import analyze, compared, grade_counts, summary, write_analysis
from warmeng.study.stats.compare import headline
from warmeng.study.stats.fidelity import FILE as FIDELITY
from warmeng.study.stats.fidelity import fidelity, read_fidelity, write_fidelity
from warmeng.study.stats.judges import disputed
from warmeng.study.stats.tables import FORMAT, table
from warmeng.study.stats.warmer import warmth_shown

UNBALANCED = 70
FAILED = 70

TOLD = (
    "api",
    "default_system",
    "adds_default_system",
    "exact_rule",
    "gates",
    "judges",
    "own_models",
    "questions",
    "left_out",
    "primary",
    "claim",
)  # facts in the results


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the exit code, and the results unless it was interrupted."""

    exit_code: int
    folder: Path
    results: dict[str, Any] | None


def finish(
    study: Study, folder: Path, manifest: Manifest, progress: Progress, command: str, full: Path | None = None
) -> Outcome:
    """Read the records back, check that planned = sum of all grades, write and return the results, then analyse.

    The results are tables of the analysis; they are written first, because they need no fit and no draws. ``command``
    is what does this again. ``full``: a run in full precision that this one is compared with. Raises ``StorageError``
    where results, analysis or report can't be written.
    """
    frame, info = read_run(folder)
    margins = read_margins(folder)
    failed = full is not None and not _beside(full, folder, info.rule, progress)
    results = make_results(study, manifest, frame, info, margins, read_fidelity(folder))
    if manifest.facts.api or any(map(is_api, manifest.facts.judges)):
        results["run"]["answered_by"] = answering_words(answering(folder))
    run = results["run"]
    missing = run["missing"]
    beside = run["judgments"]["missing"] + run["margins"]["missing"]
    try:
        sweep(folder)
        write_results(folder, results)
    except OSError as error:
        why = one_line(error.strerror or error)
        raise StorageError(
            f"{folder}: the results can't be written ({why}); every record is kept: make room, then: {command}"
        ) from None
    if missing or beside:
        progress.message(
            f"{folder}: {missing} of {study.size} answers, {run['judgments']['missing']} judgments and "
            f"{run['margins']['missing']} scores beside them are missing: get them with: {command}"
        )
    failed = not conclude(folder, frame, info, margins, progress) or failed
    return Outcome(UNBALANCED if missing or beside else FAILED if failed else 0, folder, results)


def _beside(full: Path, folder: Path, rule: str, progress: Progress) -> bool:
    """Compare a run with one in full precision; return whether that could be done, and say why it could not."""
    try:
        write_fidelity(folder, fidelity(full, folder, rule), folder)
    except (InputError, UsageError) as error:
        progress.message(f"{folder}: not compared with {full} ({error}); every record is kept")
        return False
    except OSError as error:
        why = one_line(error.strerror or error)
        raise StorageError(f"{folder}: {FIDELITY} can't be written ({why}); every record is kept: make room") from None
    return True


def make_results(
    study: Study,
    manifest: Manifest,
    frame: Frame,
    info: RunInfo,
    margins: Margins,
    beside: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what ``results.json`` holds: tables of the analysis, counts, and what the run was made with.

    ``beside``: what ``read_fidelity`` returns.
    """
    s, facts = study.settings, manifest.facts
    baseline, variants = compared(frame, margins=margins)
    found = summary(frame, outcome(frame, info.rule), baseline, variants, info, margins)
    told = {row["persona"]: row["disputed"] for row in disputed(frame, Trust.of(facts.judges).name)}
    judgments = manifest.judgments
    return {
        "format": FORMAT,
        "baseline": baseline,
        "rule": info.rule,
        "tables": {name: table(name, rows) for name, rows in found.items()} | (beside["tables"] if beside else {}),
        "grades": grade_counts(frame),
        "reasons": dict(info.reasons),
        "run": {
            "planned": study.size,
            "missing": study.size - len(frame),
            "lengths": dict(info.lengths),
            "overruled": dict(info.overruled),
            "disputed": {p.name: told.get(p.name, 0) for p in study.personas},
            "judgments": {
                "planned": judgments,
                "missing": judgments - sum(info.judged.values()),
                "done": dict(info.judged),
            },
            "margins": {"planned": manifest.margins, "missing": manifest.margins - margins.beside},
            "model": s.model,
            "seed": s.seed,
            "deterministic": not s.fast and not facts.api,
            "settings": s.as_dict(),
            "warmth": warmth_shown(s.as_dict(), facts.manipulation)[1],
            **{key: facts.engine[key] for key in ("quantization", "kv_dtype") if facts.engine.get(key)},
            **({"fidelity": [*beside["notes"], *headline(beside)]} if beside else {}),
            **{key: getattr(facts, key) for key in TOLD},
        },
    }


def conclude(folder: Path, frame: Frame, info: RunInfo, margins: Margins, progress: Progress) -> bool:
    """Analyse a finished run and write its report; return whether both were made.

    Whatever fails here, the records are whole: the message says which command makes it again from them. Raises
    ``StorageError`` where it is the disk.
    """

    def analysis() -> None:
        write_analysis(folder, tie(analyze(frame, info, margins=margins), [folder]))

    def report() -> None:
        # Here: the page's libraries are slow to import, and a run that is interrupted needs none of them.
        from warmeng.study.report.page import write_report

        write_report(folder)

    for what, command, make in (("analysis", "analyze", analysis), ("report", "report", report)):
        progress.message(f"{folder}: writing the {what}")
        try:
            with timed(f"{folder}: the {what}"), convert_to_keyboard_interrupt():
                make()
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
