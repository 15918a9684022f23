"""From a frame to every table: ``analysis.json``, ``tables/*.csv`` and ``tables.md``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from warmeng.common.errors import InputError, UsageError
from warmeng.common.files import make_inner, write_atomic
from warmeng.common.manifest import FILE as MANIFEST
from warmeng.study.grading.grade import GRADES
from warmeng.study.imports.mapping import read_mappings
from warmeng.study.imports.read import files_of as import_files
from warmeng.study.imports.read import read_imports
from warmeng.study.personas import baseline_of
from warmeng.study.results.authors import files_of, read_authors_run
from warmeng.study.results.frame import Factor, Frame, Small
from warmeng.study.results.manifest import refuse_other_runs, require_manifest
from warmeng.study.results.margins import Margins, concat_margins, read_margins
from warmeng.study.results.overruled import overruled_line
from warmeng.study.results.read import RunInfo, concat, read_run
from warmeng.study.results.rules import RULES
from warmeng.study.results.shortfall import NO_ANSWERS
from warmeng.study.results.tied import refuse_untied, tie
from warmeng.study.results.trust import Trust
from warmeng.study.results.views import named, outcome
from warmeng.study.stats import tables
from warmeng.study.stats.belief_margins import changes, lost, task_of
from warmeng.study.stats.changes import belief_effects, differences
from warmeng.study.stats.dose_tables import Measured, dose_tables, dose_trends
from warmeng.study.stats.draws import BOOTSTRAP
from warmeng.study.stats.flips import differences_in_differences, flips
from warmeng.study.stats.judges import corrected, disputed, judge_error, raters
from warmeng.study.stats.labelled import labelled_errors, labelled_notes, labelled_tables
from warmeng.study.stats.length import length
from warmeng.study.stats.missing import missing_bounds
from warmeng.study.stats.paired import mcnemar
from warmeng.study.stats.primary import FAMILY, claimed, correct_family, primary
from warmeng.study.stats.published import summarise_published
from warmeng.study.stats.regression import MODELS, regression, regressions
from warmeng.study.stats.seeds import seed_table
from warmeng.study.stats.shares import error_rates, framings
from warmeng.study.stats.susceptibility import dependent, susceptibility_tables
from warmeng.study.stats.sycophancy import rises, sycophancy
from warmeng.study.stats.validity import validity
from warmeng.study.tasks.task import is_general

FILE = "analysis.json"
FOLDER = "tables"
MARKDOWN = "tables.md"
# Of the conclusions that depend on how length is counted.
MOST_NAMED = 12


def analyze(
    frame: Frame,
    info: RunInfo,
    seed: int = 0,
    bootstrap: int = BOOTSTRAP,
    rule: str | None = None,
    baseline: str | None = None,
    published: Path | None = None,
    margins: Margins | None = None,
) -> dict[str, Any]:
    """Return all statistics of the answers, and of the margins where there are any, as JSON-able tables.

    ``rule`` says what is incorrect (see ``views.outcome``; the one that fits the answers unless told), ``baseline`` the
    persona that others are compared with, ``published`` a folder of the authors' summary tables. ``bootstrap`` is the
    number of replicates of the intervals of doses and of effects corrected for judges, 0 for none. Raises
    ``UsageError`` for an unknown rule or persona, ``InputError`` where nothing can be analysed.
    """
    if not len(frame) and not (margins is not None and len(margins)):
        raise InputError("there are no answers to analyse: run the study first")
    chosen = rule or info.rule
    known = outcome(frame, chosen)
    first, variants = compared(frame, baseline, margins)
    fits, coefficients = regressions(frame, known, first, variants)
    rows: dict[str, Any] = {
        **summary(frame, known, first, variants, info, margins),
        "regressions": fits,
        "coefficients": coefficients,
        "mcnemar": mcnemar(frame, known, first, variants),
        "flips": flips(frame, first, variants),
        "did": differences_in_differences(frame, known, first, variants),
        "length": length(frame, known, first, variants),
        **({"margin_validity": found} if margins is not None and (found := validity(frame, known, margins)) else {}),
        "refusal_rules": refusal_rules(frame, first, variants),
        "raters": raters(frame, info.labels.grades if info.labels else {}),
        "disputed": disputed(frame, Trust.of(info.judges).name),
        "judge_error": [*judge_error(info.exact_rule, info.judges), *labelled_errors(frame, info.labels)],
        "corrected": corrected(frame, info.judges, first, variants, seed, bootstrap),
        **labelled_tables(frame, info.labels, first, variants, seed, bootstrap),
    }
    correct_family([rows["did"]])
    if margins is not None and (base := dose_base(info)):
        measured, tasks = Measured.of(info.manipulation), task_of(margins)
        rows |= dose_tables(changes(margins, base), info.doses, base, measured, seed, bootstrap, tasks)
    if published is not None:
        rows |= summarise_published(published)
    return {
        "format": tables.FORMAT,
        "baseline": first,
        "variants": list(variants),
        "models": there(frame.model, *(() if margins is None else (margins.model,))),
        "rule": chosen,
        "planned": info.planned,
        "statuses": dict(info.statuses),
        "grades": grade_counts(frame),
        "notes": [
            *notes(frame, info, known, chosen, first, variants),
            *margin_notes(rows.get("margin_norms", ())),
            *(lost(margins) if margins is not None and len(margins) else ()),
            *labelled_notes(rows.get("labelled_differences", ())),
        ],
        "seed": seed,
        "bootstrap": bootstrap,
        "tables": {name: tables.table(name, found) for name, found in rows.items()},
    }


def compared(frame: Frame, baseline: str | None = None, margins: Margins | None = None) -> tuple[str, tuple[str, ...]]:
    """Return the persona that others are compared with, and the others; raises as ``baseline_of``.

    A persona is there where it has answers, or margins: a choice that is asked alone has no answers.
    """
    present = there(frame.persona, *(() if margins is None else (margins.persona,)))
    first = baseline_of(present, baseline)
    return first, tuple(name for name in present if name != first)


def summary(
    frame: Frame,
    known: Small,
    baseline: str,
    variants: tuple[str, ...],
    info: RunInfo,
    margins: Margins | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the first tables, which need no draws: a run's results are these, and so are the analysis's.

    ``known`` is ``views.outcome`` of the frame. Tables of margins are there only where there are any, the primary claim
    where one was named before the first answer and both of its personas have answers.
    """
    found = {
        "error_rates": error_rates(frame, known),
        "framings": framings(frame, known),
        "differences": differences(frame, known, baseline, variants),
        "missing": missing_bounds(frame, known, baseline, variants),
        "belief_effects": belief_effects(frame, known),
        "rises": rises(frame, baseline, variants),
        "sycophancy": sycophancy(frame),
    }
    claim = info.claim
    if margins is not None:
        pair = (claim.variant, claim.against) if claim and not claim.is_errors else None
        found |= susceptibility_tables(margins, baseline, variants, pair)
        if (base := dose_base(info)) and (
            trends := dose_trends(changes(margins, base), info.doses, base, task_of(margins))
        ):
            found["dose_trends"] = trends
    if info.recipes:
        of_margins = changes(margins, baseline) if margins is not None else {}
        if seeds := seed_table(frame, known, baseline, info.recipes, of_margins):
            found["seeds"] = seeds
    main = claimed(frame, known, claim, baseline, found) if claim else None
    correct_family((found[name] for name in FAMILY if name in found), main)
    return {"primary": primary(frame, known, claim, main), **found} if claim else found


def there(*columns: Factor) -> list[str]:
    """Return the names that rows of any of the columns have, each once."""
    return list(dict.fromkeys(name for column in columns for name in column.names if column.is_(name).any()))


def dose_base(info: RunInfo) -> str | None:
    """Return the persona that is dose 0 of every family, whoever else is compared; ``None`` without doses."""
    return next((name for name, (family, _) in info.doses.items() if not family), None)


def refusal_rules(frame: Frame, baseline: str, variants: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the table ``refusal_rules``: regression 1 under every rule that the answers can be read by."""
    main = MODELS[0]
    chosen = main.rows(frame) & ~named(frame.task, is_general)
    rows = []
    for rule in RULES:
        try:
            known = outcome(frame, rule)
        except InputError:
            continue
        for variant in variants:
            at = np.flatnonzero(chosen & (frame.persona.is_(baseline) | frame.persona.is_(variant)))
            part = frame.take(at)
            row = regression(part, known[at], variant, main.groups(part))[0][0]
            kept = {key: row[key] for key in ("n", "effect", "low", "high", "raw", "limits")}
            rows.append({"rule": rule, "variant": variant, **kept})
    return rows


def notes(
    frame: Frame,
    info: RunInfo,
    known: Small,
    rule: str,
    baseline: str,
    variants: tuple[str, ...],
) -> list[str]:
    """Return what a reader has to know beside the tables."""
    statuses = " + ".join(f"{count} {name}" for name, count in info.statuses.items())
    found = [f"Planned {info.planned} = {statuses}."]
    if sum(info.statuses.values()) != info.planned:
        found[0] = f"Planned {info.planned}, but the statuses are {statuses}: this does not add up."
    counts = ", ".join(f"{count} {name}" for name, count in grade_counts(frame).items())
    found.append(f"Grades: {counts}. Rule {rule}: {int(np.sum(known >= 0))} answers decided, the rest is missing.")
    if not info.planned:
        found = [NO_ANSWERS]
    found.append(f"Baseline {baseline}; variants {', '.join(variants) or 'none'}.")
    if info.claim is None:
        found.append("No claim was named before the first answer: every number is exploratory.")
    if by_hand := overruled_line(info.overruled):
        found.append(by_hand)
    general = [name for name in frame.task.names if is_general(name) and frame.task.is_(name).any()]
    if general:
        found.append(
            f"Tasks of general ability are shown by task and left out of all pooled figures: {', '.join(general)}."
        )
    if frame.exact.size and not np.any(frame.exact >= 0) and not np.any(frame.which > 0):
        found.append("These grades don't tell whose wrong answer was given, so sycophancy can't be told.")
    return [*info.notes, *found]


def margin_notes(norms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a reader has to know of ``margin_norms``: the conclusions that rest on how length is counted."""
    found = dependent(norms)
    if not found:
        return ["Every conclusion on margins is the same however length is counted."] if norms else []
    more = f"; and {len(found) - MOST_NAMED} more, see the table" if len(found) > MOST_NAMED else ""
    return [f"These conclusions on margins depend on how length is counted. {'; '.join(found[:MOST_NAMED])}{more}."]


def grade_counts(frame: Frame) -> dict[str, int]:
    """Return how many answers have each grade."""
    counts = Counter(dict(enumerate(np.bincount(frame.grade, minlength=len(GRADES)).tolist())))
    return {name: counts[k] for k, name in enumerate(GRADES)}


def analyze_run(
    folder: Path,
    seed: int = 0,
    bootstrap: int = BOOTSTRAP,
    rule: str | None = None,
    baseline: str | None = None,
    published: Path | None = None,
) -> dict[str, Any]:
    """Analyse a run folder and write its files into it; return the analysis. Raises as ``read_run`` and ``analyze``."""
    return analyze_sources((folder,), folder, seed, bootstrap, rule, baseline, published)[1]


def analyze_sources(
    sources: Sequence[Path],
    out: Path | None = None,
    seed: int = 0,
    bootstrap: int = BOOTSTRAP,
    rule: str | None = None,
    baseline: str | None = None,
    published: Path | None = None,
    mapping: Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Analyse runs, logs of other software and answers in the authors' columns together; return where the files are,
    and everything.

    ``mapping`` is a file that says what the columns of other software's files mean. A single run's files go into its
    folder unless told; otherwise ``out`` is needed. Raises ``UsageError`` without it or where it is another run's
    folder, and as ``read_run``, ``read_imports``, ``read_authors``, ``concat`` and ``analyze``.
    """
    single = len(sources) == 1 and is_run(sources[0])
    if out is not None:
        refuse_other_runs(out, *(sources if single else ()))
    mappings = None if mapping is None else read_mappings(mapping)
    imported = {source: [] if is_run(source) else import_files(source, mapping is not None) for source in sources}
    for source, files in imported.items():
        if not files and not is_run(source):
            files_of(source)
    if mapping is not None and not any(imported.values()):
        raise UsageError("--mapping is given, but no source is a log of other software: leave it out")
    if out is None and not single:
        raise UsageError("where the tables shall go is not told: give --out FOLDER")
    runs = [source for source in sources if is_run(source)]
    for source in runs:
        refuse_untied(source, require_manifest(source))
    own = [source for source in sources if not imported[source]]
    parts = [read_run(source) if is_run(source) else read_authors_run(source) for source in own]
    if logs := [file for files in imported.values() for file in files]:
        parts.append(read_imports(logs, mappings))
    margins = concat_margins([read_margins(source) for source in runs]) if runs else None
    analysis = analyze(*concat(parts), seed, bootstrap, rule, baseline, published, margins)
    folder = out or sources[0]
    analysis = tie(analysis, runs)
    write_analysis(folder, analysis)
    return folder, analysis


def is_run(source: Path) -> bool:
    """Whether a source is a run's folder. Raises ``InputError`` where nothing is there."""
    if not source.exists():
        raise InputError(f"{source}: is not there: give a run folder, a log, or a folder of such")
    return (source / MANIFEST).exists()


def write_analysis(folder: Path, analysis: Mapping[str, Any]) -> None:
    """Write ``analysis.json``, ``tables.md`` and ``tables/NAME.csv``, each atomically. Raises ``OSError``."""
    place = make_inner(folder, FOLDER)
    for name, found in analysis["tables"].items():
        write_atomic(place / f"{name}.csv", tables.to_csv(found))
    write_atomic(folder / MARKDOWN, tables.to_markdown(analysis["tables"].values(), "Statistics", analysis["notes"]))
    write_atomic(folder / FILE, orjson.dumps(analysis, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
