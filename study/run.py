"""One run, top to bottom: read, gate, ask all personas in one pass, grade and record as answers finish, tabulate."""

from __future__ import annotations

import gc
import hashlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import orjson

from warmeng.engine.errors import InputError, UsageError, one_line
from warmeng.engine.files import FULL, sweep
from warmeng.engine.watchdog import Watchdog, Watched
from warmeng.study.asking import WAVE, ask, count_done, judge, judging_work, make_record
from warmeng.study.backend import EngineLike
from warmeng.study.energy import EnergyMeter
from warmeng.study.finish import FAILED, UNBALANCED, Outcome, finish
from warmeng.study.gates import apply_adapters, check_warmth
from warmeng.study.grading.judge import RUBRIC_VERSION
from warmeng.study.judging import (
    BASE,
    JUDGED,
    Appointed,
    Load,
    appoint,
    examine,
    identity_of,
    is_judged,
    keys_of,
    settings_of,
)
from warmeng.study.manifest import read_manifest, refuse_changes, write_manifest
from warmeng.study.plan import Planned, Planner, Study
from warmeng.study.progress import JUDGE, Progress
from warmeng.study.records import FILE, RecordWriter, RunLock, StorageFailed, read_records
from warmeng.study.report.items import FILE as ITEMS
from warmeng.study.report.items import write_items
from warmeng.study.settings import StudySettings
from warmeng.study.tasks import wrong

__all__ = [
    "FAILED", "INTERRUPTED", "UNBALANCED", "Outcome", "load_engine", "make_record",
    "run_study",
]  # fmt: skip

PLAN = "prompts or grading rules"  # the input that all keys together are, where nothing else explains a change
INTERRUPTED = 130
KV_BYTES = (
    448 * 2**20
)  # a study's prompts share much: less cache than the engine's default, to stay under 2.5 GiB in all


def load_engine(settings: StudySettings) -> EngineLike:
    """Load the model that the settings name; raises as ``Engine.load``."""
    from warmeng.engine.engine import Engine, EngineSettings
    from warmeng.engine.load import choose_device

    on_cpu = choose_device(settings.device) == "cpu"
    chosen = EngineSettings(fast=settings.fast, kv_bytes=KV_BYTES if on_cpu else None)
    engine = Engine.load(settings.model, revision=settings.revision, device=settings.device, settings=chosen)
    return cast(EngineLike, engine)


def run_study(settings: StudySettings, folder: Path, progress: Progress, command: str) -> Outcome:
    """Run, or continue, or print again; ``command`` is what continues it after a failure.

    Raises ``InputError`` and ``UsageError`` before anything is generated for the grid, ``RunLocked`` where another
    process writes the folder, ``StorageFailed`` where the disk does not take a record.
    """
    study = Study.load(settings)
    check_judges(study, progress)
    before = read_manifest(folder)
    if before is not None:
        refuse_changes(folder, before["inputs"], known_inputs(study))
    with RunLock(folder):
        before = read_manifest(folder)
        path = folder / FILE
        if before is not None and path.exists():
            keys = [record["key"] for record in read_records(path)]
            if _digest(keys) == before["inputs"][PLAN]:
                progress.message(f"{folder}: this run is finished; its tables again:")
                return finish(study, folder, before, progress, command)
            if len(keys) >= before["planned"] + before.get("judgments", 0):
                raise _strange(path, len(keys), before["planned"] + before.get("judgments", 0))
        return _run(study, folder, before, progress, command)


def _run(study: Study, folder: Path, before: Mapping[str, Any] | None, progress: Progress, command: str) -> Outcome:
    started, meter = time.monotonic(), EnergyMeter()
    settings, path = study.settings, folder / FILE
    watchdog = Watchdog(settings.stall_seconds, folder, command, progress.stop)

    def load(chosen: StudySettings) -> EngineLike:
        return cast(EngineLike, Watched(load_engine(chosen), watchdog))

    others, outcomes = appoint(settings, load, progress, before)
    progress.message(f"loading {settings.model}")
    engine = load(settings)
    applied = apply_adapters(engine, study.personas, progress.message)
    about = engine.describe()
    identity = identity_of(about)
    judges, outcomes = _with_base(study, engine, others, outcomes, before, progress)
    hashes = {name: adapter.hash for name, adapter in applied.items()}
    inputs = known_inputs(study) | {"model": identity, "adapter": hashes, "template": engine.tokenizer.template_hash}
    if judges:
        inputs["judges"] = {name: dict(appointed.identity) for name, appointed in judges.items()}
    if before is not None:  # before anything is written
        refuse_changes(folder, before["inputs"], inputs)
    study = _with_wrong_answers(study, engine, folder, progress, command)
    planner = Planner(study, engine.tokenizer, engine.config.stop_token_ids, identity, hashes)
    plan: Iterable[Planned] = list(planner) if study.size <= WAVE else planner  # a large one is made again
    inputs[PLAN] = _digest(key for planned in plan for key in keys_of(planned, judges.values()))
    judgments = sum(is_judged(planned) for planned in plan) * len(judges) if judges else 0
    if before is None:
        facts = _facts(study, engine, about, {name: asdict(adapter) for name, adapter in applied.items()}, outcomes)
        facts["manipulation"] = check_warmth(study, engine, progress)
        manifest: Mapping[str, Any] = {"inputs": inputs, "facts": facts, "planned": study.size, "judgments": judgments}
    else:
        refuse_changes(folder, before["inputs"], inputs)
        manifest = before
    with _storing(folder, command):
        sweep(folder)
        if before is None:
            write_manifest(folder, inputs, manifest["facts"], study.size, judgments)
        if not (folder / ITEMS).exists():
            write_items(folder, study)  # here, where the wrong answers that the source lacks are filled in
    records = RecordWriter(path, command)
    total = study.size + judgments
    try:
        what = "answers and judgments" if judgments else "answers"
        planned_, done, left = count_done(plan, list(judges.values()), records.done)
        if done.total() != len(records.done):
            raise _strange(path, len(records.done), done.total())
        if records.cut:
            progress.message(f"{path}: cut an unfinished last line of {records.cut} bytes")
        if before is not None:
            progress.message(f"{folder}: continuing, {done.total()} of {total} {what} are there")
        else:
            progress.message(f"{folder}: {total} {what} to get")
        base = judges.get(BASE)
        shown = [p.name for p in study.personas] + ([JUDGE + BASE] if base else [])
        left += judging_work() * (planned_[JUDGE + BASE] - done[JUDGE + BASE]) if base else 0.0
        stopped = False
        try:
            if left:
                progress.start({name: planned_[name] for name in shown}, done, left)
                stopped = ask(engine, plan, base, study, records, progress, meter, before is not None)
                progress.stop()
        finally:  # whatever ended it: its time and tokens were spent
            _log_session(folder, engine, time.monotonic() - started, len(records.done), meter)
        del engine, planner, plan  # the first model is freed before another one is loaded
        gc.collect()
        for appointed in others.values():
            if not stopped:
                stopped = _judge(study, appointed, planned_, folder, records, progress, load)
    finally:
        try:
            progress.stop()
        finally:
            records.close()
    if stopped:
        progress.message(f"interrupted; {len(records.done)} of {total} {what} are kept; continue: {command}")
        return Outcome(INTERRUPTED, folder, None)
    del records  # the keys of all that is done
    return finish(study, folder, manifest, progress, command)


def _judge(
    study: Study,
    appointed: Appointed,
    planned: Mapping[str, int],
    folder: Path,
    records: RecordWriter,
    progress: Progress,
    load: Load,
) -> bool:
    """Load one judge and let it judge what it owes; return whether an interrupt ended it early."""
    name = JUDGE + appointed.name
    made = sum(r["kind"] == "judged" and r["judge"] == appointed.name for r in read_records(records.path))
    if made == planned[name]:
        return False
    started, meter = time.monotonic(), EnergyMeter()
    progress.message(f"loading judge {appointed.name}")
    engine = load(settings_of(appointed.name, study.settings))
    now = Appointed.of(appointed.name, engine)
    refuse_changes(folder, {"judges": {appointed.name: appointed.identity}}, {"judges": {now.name: now.identity}})
    progress.start({name: planned[name]}, {name: made}, judging_work() * (planned[name] - made))
    stopped = judge(engine, appointed, study, records, progress, meter)
    progress.stop()
    _log_session(folder, engine, time.monotonic() - started, len(records.done), meter)
    return stopped


def known_inputs(study: Study) -> dict[str, Any]:
    """What must stay the same and needs no model to be known."""
    return study.inputs() | ({"rubric": RUBRIC_VERSION} if study.settings.judges else {})


def check_judges(study: Study, progress: Progress) -> None:
    """Raise ``UsageError`` for judges that have nothing to judge; say which answers nobody will grade."""
    judged = [task.name for task in study.tasks if task.grading in JUDGED]
    if study.settings.judges and not judged:
        raise UsageError(
            f"judges {', '.join(study.settings.judges)} have nothing to judge: no task of "
            f"{', '.join(task.name for task in study.tasks)} generates answers that can be right: leave them out"
        )
    needing = [task.name for task in study.tasks if task.grading == "judge"]
    if needing and not study.settings.judges:
        progress.message(f"{', '.join(needing)}: answers stay unscored without a judge (--judge)")


def _with_base(
    study: Study,
    engine: EngineLike,
    others: Mapping[str, Appointed],
    outcomes: Mapping[str, dict[str, Any]],
    before: Mapping[str, Any] | None,
    progress: Progress,
) -> tuple[dict[str, Appointed], dict[str, dict[str, Any]]]:
    """Add the run's own base to the judges, where it is one; all of them in the order in which they were given."""
    if BASE not in study.settings.judges:
        return dict(others), dict(outcomes)
    if before is not None:
        outcome = before["facts"]["judges"][BASE]
    else:
        outcome = examine(engine, BASE, study.settings.judge_gate, progress)
    judges = {**others, BASE: Appointed.of(BASE, engine)}
    found = {**outcomes, BASE: outcome}
    order = study.settings.judges
    return {name: judges[name] for name in order}, {name: found[name] for name in order}


def _with_wrong_answers(study: Study, engine: EngineLike, folder: Path, progress: Progress, command: str) -> Study:
    """Return the study with wrong answers where a user claims one and the source has none."""
    lacking = [task for task in study.tasks if study.lacks_wrong(task)]
    if not lacking:
        return study
    count = sum(len(wrong.missing(task)) for task in lacking)
    progress.message(f"{folder}: {count} wrong answers are missing in {', '.join(t.name for t in lacking)}")
    with _storing(folder, command):
        filled = {task.name: wrong.fill_wrong(task, engine, folder / wrong.FILE) for task in lacking}
    return replace(study, tasks=tuple(filled.get(task.name, task) for task in study.tasks))


@contextmanager
def _storing(folder: Path, command: str) -> Iterator[None]:
    """Turn the system's errors of writing beside the records into one line."""
    try:
        yield
    except OSError as error:
        do = "make room" if error.errno in FULL else "see to the disk"
        why = one_line(error.strerror or error)
        raise StorageFailed(f"{folder}: {why}; what was there is kept: {do}, then continue with: {command}") from None


def _digest(keys: Iterable[str]) -> str:
    return hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()


def _strange(path: Path, have: int, planned: int) -> InputError:
    return InputError(
        f"{path}: has {have} records where the plan knows {planned}: restore the file or choose another --out"
    )


def _facts(
    study: Study, engine: EngineLike, about: dict[str, Any], gates: dict[str, Any], judges: dict[str, Any]
) -> dict[str, Any]:
    """What the manifest tells beside the inputs: shown in the report, not compared."""
    from importlib.metadata import version

    return {
        "engine": about,
        "gates": gates,
        "judges": judges,
        "default_system": engine.tokenizer.default_system,
        "adds_default_system": [p.name for p in study.personas if p.system is None and engine.tokenizer.default_system],
        "template_date": getattr(engine.tokenizer, "frozen_date", None),
        "warmeng": version("warmeng"),
        "python": sys.version.split()[0],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _log_session(folder: Path, engine: EngineLike, seconds: float, done: int, meter: EnergyMeter) -> None:
    """Append what one loaded model took: the only place for times and energy, so that records stay the same."""
    used = {
        key: getattr(engine.stats, key, None) for key in ("output_tokens", "prompt_tokens", "cached_tokens", "steps")
    }
    line = {"ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "seconds": round(seconds, 2), "records": done}
    if (joules := meter.joules()) is not None:
        used["joules"] = round(joules, 1)
    try:
        with (folder / "sessions.jsonl").open("ab+") as file:
            file.seek(max(0, file.tell() - 1))
            torn = b"\n" if file.read(1) not in (b"", b"\n") else b""  # a line that a killed process did not end
            file.write(torn + orjson.dumps(line | used) + b"\n")
    except OSError:
        return  # the records are safe: times are not worth failing for
