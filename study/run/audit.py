"""A finished run made again in part: its files, its tables, and a random sample of its answers.

The run's own settings lead to its plan again, and every model that answered is loaded and compared with the manifest.
Of n answers made again without a difference, fewer than 1 - 0.01^(1 / n) of all differ with 99 % confidence: if more
did, a sample without one of them would come up in less than 1 % of draws (Clopper and Pearson 1934). Judgments are not
made again; tables made of them are.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import orjson

from warmeng.common.errors import InputError, UsageError, show
from warmeng.common.files import read_json
from warmeng.common.progress import Progress
from warmeng.remote.names import is_api
from warmeng.study.plan import Planned, Study
from warmeng.study.results.manifest import Manifest, refuse_changes, require_manifest
from warmeng.study.results.margins import read_margins
from warmeng.study.results.read import read_run
from warmeng.study.results.records import FILE, read_records
from warmeng.study.results.tied import mismatches, refuse_untied
from warmeng.study.run.asking import make_record
from warmeng.study.run.finish import make_results
from warmeng.study.run.models import Models, identity, load_engine
from warmeng.study.run.prepare import known_inputs, prepare
from warmeng.study.settings import StudySettings
from warmeng.study.stats.analyze import FILE as ANALYSIS
from warmeng.study.stats.analyze import analyze
from warmeng.study.stats.fidelity import read_fidelity

RESULTS = "results.json"
# With none of so many different, fewer than 1 % differ with 99 % confidence.
SAMPLE = 459
CONFIDENCE = 0.99
# Differences that are told one by one.
MOST = 20
# A record's checksum is the journal's own.
CHECKSUM = "crc32"


@dataclass(frozen=True)
class Audit:
    """What was compared, in words, and every difference that was found, by place."""

    compared: tuple[str, ...]
    differences: tuple[str, ...]
    answers: int
    of: int

    @property
    def most_differing(self) -> float | None:
        """The share of answers that differ at most, with 99 % confidence; ``None`` where one differs or none was made.

        0 where all were made again.
        """
        if self.differences or not self.answers:
            return None
        return 0.0 if self.answers == self.of else 1 - (1 - CONFIDENCE) ** (1 / self.answers)


def audit(folder: Path, sample: int, progress: Progress, seed: int | None = None) -> Audit:
    """Compare a finished run with what its manifest and records lead to; ``sample`` answers are made again, 0 for none.

    ``seed`` chooses them, at random unless told: who makes a run must not know them before. Raises ``InputError``
    naming what is other than the manifest says (a file, weights, an adapter, the tokenizer, the template, a prompt, the
    processor), and ``UsageError`` for a run that can't be made again: behind an API, or not finished.
    """
    manifest = require_manifest(folder)
    refuse_untied(folder, manifest)
    settings = settings_of(folder, manifest)
    study = Study.load(settings)
    refuse_changes(folder, manifest.inputs, known_inputs(study))
    records = {str(record["key"]): record for record in read_records(folder / FILE)}
    if len(records) < manifest.records:
        raise UsageError(
            f"{folder}: has {len(records)} of {manifest.records} records, expected a finished run: let it finish"
        )
    compared = ["manifest, items and records belong together"]
    found = [*tables_again(folder, manifest, study)]
    compared.append("tables of results.json and analysis.json, computed again from the records")
    answers = [key for key, record in records.items() if _is_answer(record)]
    chosen = random.Random(seed).sample(answers, min(sample, len(answers))) if sample else []
    if chosen:
        if is_api(settings.model):
            raise UsageError(f"{folder}: its model is behind an API, which makes no answer again: take --sample 0")
        found += answers_again(study, folder, manifest, {key: records[key] for key in chosen}, progress)
        compared += [
            "weights, adapters, tokenizer, template, processor, and all prompts of the plan",
            f"{len(chosen)} of {len(answers)} answers and scores, made again and graded again",
        ]
    return Audit(tuple(compared), tuple(found), len(chosen), len(answers))


def settings_of(folder: Path, manifest: Manifest) -> StudySettings:
    """Return a run's settings. Raises ``InputError`` where the manifest's are none that this version knows."""
    known = {field.name for field in fields(StudySettings)}
    given = manifest.setting
    if strange := sorted(set(given) - known):
        raise InputError(f"{folder}: its setting {show(strange[0])} is unknown here: take the version that made it")
    return StudySettings(**given)


def _is_answer(record: Mapping[str, Any]) -> bool:
    return "judge" not in record and record.get("status") == "ok"


def tables_again(folder: Path, manifest: Manifest, study: Study) -> Iterator[str]:
    """Yield each place where the tables of a run's files differ from those that its records lead to."""
    frame, info = read_run(folder)
    margins = read_margins(folder)
    wanted = _plain(make_results(study, manifest, frame, info, margins, read_fidelity(folder)))
    told = read_json(folder / RESULTS)
    # Which model answered behind an API is told beside.
    told.get("run", {}).pop("answered_by", None)
    yield from differing(told, wanted, RESULTS)
    if not (folder / ANALYSIS).exists():
        yield f"{ANALYSIS}: is not there"
        return
    analysis = read_json(folder / ANALYSIS)
    for line in mismatches(analysis, folder):
        yield f"{ANALYSIS}: {line}"
    options = {name: analysis.get(name) for name in ("seed", "bootstrap", "rule", "baseline")}
    if analysis.get("tables", {}).keys() & {"published_summary", "published_claims"}:
        yield f"{ANALYSIS}: has tables of published files, which are not here: analyse the run without them"
        return
    again = _plain(analyze(frame, info, margins=margins, **cast(Any, options)))
    yield from differing({name: analysis.get(name) for name in again}, again, ANALYSIS)


def differing(told: Any, wanted: Any, place: str) -> Iterator[str]:
    """Yield where two JSON values differ, by place: ``results.json: tables.differences.rows[3].value``."""
    if isinstance(told, dict) and isinstance(wanted, dict):
        for name in dict.fromkeys((*wanted, *told)):
            yield from differing(told.get(name), wanted.get(name), _inside(place, name))
    elif isinstance(told, list) and isinstance(wanted, list):
        if len(told) != len(wanted):
            yield f"{place}: has {len(told)} entries, the records lead to {len(wanted)}"
        for k, (one, other) in enumerate(zip(told, wanted, strict=False)):
            yield from differing(one, other, f"{place}[{k}]")
    elif told != wanted or type(told) is not type(wanted):
        yield f"{place}: is {show(told, 60)}, the records lead to {show(wanted, 60)}"


def _inside(place: str, name: str) -> str:
    return f"{place}: {name}" if place in (RESULTS, ANALYSIS) else f"{place}.{name}"


def _plain(value: Any) -> Any:
    """Return a value as it comes back from JSON."""
    return orjson.loads(orjson.dumps(value))


def answers_again(
    study: Study, folder: Path, manifest: Manifest, records: Mapping[str, Mapping[str, Any]], progress: Progress
) -> Iterator[str]:
    """Yield where answers that are made again differ from their records, by key, persona and item.

    Raises ``InputError`` as ``prepare``, where a model or the plan is not the manifest's.
    """
    models = Models(load_engine, progress)
    try:
        ready = prepare(study, models, folder, manifest, progress, f"warmeng audit {folder}")
        for part in ready.parts:
            engine = models.of(part.model)
            if part.identity:
                refuse_changes(folder, part.identity, identity(engine))
            wanted = [planned for planned in part.plan if planned.key in records]
            for planned, record in _asked(engine, wanted, progress):
                told = {name: value for name, value in records[planned.key].items() if name != CHECKSUM}
                where = f"{FILE}: {planned.cell.persona}, {planned.item.id}, key {planned.key[:12]}"
                yield from differing(told, _plain(record), where)
    finally:
        models.free()
        progress.stop()


def _asked(engine: Any, plan: Iterable[Planned], progress: Progress) -> Iterator[tuple[Planned, dict[str, Any]]]:
    """Yield each request with the record that its answer makes."""
    asked = {planned.key: planned for planned in plan}
    progress.message(f"making {len(asked)} answers again")
    for planned in asked.values():
        engine.add(planned.request)
    for result in engine.results():
        planned = asked[result.id]
        yield planned, make_record(planned, result)
