"""One run, top to bottom: read, gate, ask all personas in one pass, grade and record as answers finish, tabulate."""

from __future__ import annotations

import hashlib
import itertools
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson

from warmeng.engine.errors import InputError
from warmeng.engine.request import GenerateRequest, GenerateResult, Result
from warmeng.study.backend import EngineLike
from warmeng.study.gates import apply_adapters
from warmeng.study.grading import grade_answer, grade_scores
from warmeng.study.manifest import read_manifest, refuse_changes, write_manifest
from warmeng.study.plan import Planned, Planner, Study
from warmeng.study.progress import Progress
from warmeng.study.records import FILE, RecordWriter, RunLock, StorageFailed, read_records
from warmeng.study.settings import StudySettings
from warmeng.study.stats import Answers, summarise
from warmeng.study.table import write_results

if TYPE_CHECKING:
    from types import FrameType

WAVE = 16384  # requests that the engine is given at once: what bounds memory, and each ends with a short tail
IDENTITY = ("weights", "dtype", "device", "machine", "deterministic", "numerics")  # of describe(): must stay the same
PROMPT_RATE, OUTPUT_RATE = 900.0, 300.0  # tokens a second on two cores with the built-in model: the plan's estimate

PLAN = "prompts or grading rules"  # the input that all keys together are, where nothing else explains a change

INTERRUPTED = 130
UNBALANCED = 70


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the exit code, and the results unless it was interrupted."""

    exit_code: int
    folder: Path
    results: dict[str, Any] | None


def load_engine(settings: StudySettings) -> EngineLike:
    """Load the model that the settings name; raises as ``Engine.load``."""
    from warmeng.engine.engine import Engine, EngineSettings

    chosen = EngineSettings(fast=settings.fast)
    engine = Engine.load(settings.model, revision=settings.revision, device=settings.device, settings=chosen)
    return cast(EngineLike, engine)


def run_study(settings: StudySettings, folder: Path, progress: Progress, command: str) -> Outcome:
    """Run, or continue, or print again; ``command`` is what continues it after a failure.

    Raises ``InputError`` and ``UsageError`` before anything is written, ``RunLocked`` where another process writes
    the folder, ``StorageFailed`` where the disk does not take a record.
    """
    study = Study.load(settings)
    before = read_manifest(folder)
    if before is not None:
        refuse_changes(folder, before["inputs"], study.inputs())
    with RunLock(folder):
        before = read_manifest(folder)
        path = folder / FILE
        if before is not None and path.exists():
            keys = [record["key"] for record in read_records(path)]
            if _digest(keys) == before["inputs"][PLAN]:
                progress.message(f"{folder}: this run is finished; its tables again:")
                return _finish(study, folder, before["facts"])
            if len(keys) >= before["planned"]:
                raise _strange(path, len(keys), before["planned"])
        started = time.monotonic()
        progress.message(f"loading {settings.model}")
        engine = load_engine(settings)
        applied = apply_adapters(engine, study.personas)
        facts = engine.describe()
        identity = {name: facts.get(name) for name in IDENTITY} | {"torch": facts.get("versions", {}).get("torch")}
        hashes = {name: adapter.hash for name, adapter in applied.items()}
        planner = Planner(study, engine.tokenizer, engine.config.stop_token_ids, identity, hashes)
        plan: Iterable[Planned] = list(planner) if study.size <= WAVE else planner  # a large one is made again
        inputs = study.inputs() | {
            "model": identity,
            "adapter": hashes,
            "template": engine.tokenizer.template_hash,
            PLAN: _digest(planned.key for planned in plan),
        }
        if before is None:
            facts = _facts(study, engine, facts, {name: asdict(adapter) for name, adapter in applied.items()})
            try:
                write_manifest(folder, inputs, facts, study.size)
            except OSError as error:
                raise StorageFailed(f"{folder}: {error.strerror}: make room, then continue with: {command}") from None
        else:
            refuse_changes(folder, before["inputs"], inputs)
            facts = before["facts"]
        records = RecordWriter(path, command)
        try:
            stopped = _answer(engine, study, plan, records, progress, before is not None)
        finally:
            progress.stop()
            records.close()
        _log_session(folder, engine, time.monotonic() - started, len(records.done))
        if stopped and len(records.done) < study.size:
            progress.message(f"interrupted; {len(records.done)} of {study.size} answers are kept; continue: {command}")
            return Outcome(INTERRUPTED, folder, None)
        return _finish(study, folder, facts)


def _answer(
    engine: EngineLike,
    study: Study,
    plan: Iterable[Planned],
    records: RecordWriter,
    progress: Progress,
    continued: bool,
) -> bool:
    """Ask everything that has no record yet; return whether an interrupt ended it early."""
    folder = records.path.parent
    done: Counter[str] = Counter()
    left = 0.0
    for planned in plan:
        if planned.key in records.done:
            done[planned.cell.persona] += 1
        else:
            left += _work(planned)
    if done.total() != len(records.done):
        raise _strange(records.path, len(records.done), done.total())
    if records.cut:
        progress.message(f"{records.path}: cut an unfinished last line of {records.cut} bytes")
    if continued:
        progress.message(f"{folder}: continuing, {done.total()} of {study.size} answers are there")
    else:
        progress.message(f"{folder}: {study.size} answers to get")
    if not left:
        return False
    progress.start({p.name: study.per_persona() for p in study.personas}, done, left)
    todo = (planned for planned in plan if planned.key not in records.done)
    with _interruptible() as interrupted:
        while wave := {planned.key: planned for planned in itertools.islice(todo, WAVE)}:
            for planned in wave.values():
                engine.add(planned.request)
            for result in engine.results():
                planned = wave.pop(result.id)
                records.append(make_record(planned, result))
                used = engine.stats
                progress.advance(planned.cell.persona, _work(planned), used.output_tokens, used.prompt_tokens)
                if interrupted:
                    return True
            assert not wave, "the engine answers every request"
    return bool(interrupted)


def make_record(planned: Planned, result: Result) -> dict[str, Any]:
    """Grade a finished answer and return its record: nothing in it depends on time or on what else was in the batch."""
    numbers: dict[str, float] = {}
    if isinstance(result, GenerateResult):
        grade = grade_answer(planned.item, result, planned.cell.belief)
        answer: dict[str, Any] = {
            "kind": "answer",
            "text": result.text,
            "finish": result.finish_reason,
            "tokens": len(result.token_ids),
        }
    else:
        grade, numbers = grade_scores(planned.item, planned.task.grading, result)
        answer = {"kind": "score", "labels": numbers}
    return {
        "key": planned.key,
        **asdict(planned.cell),
        "item": planned.item.id,
        "sample": planned.sample,
        "status": result.status,
        **asdict(grade),
        **answer,
        "prompt_tokens": result.prompt_tokens,
    }


def _digest(keys: Iterable[str]) -> str:
    return hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()


def _strange(path: Path, have: int, planned: int) -> InputError:
    return InputError(
        f"{path}: has {have} records where the plan knows {planned}: restore the file or choose another --out"
    )


def _work(planned: Planned) -> float:
    """Seconds that a request takes at the plan's rates: only its proportions matter."""
    request = planned.request
    if isinstance(request, GenerateRequest):
        return len(request.prompt) / PROMPT_RATE + request.sampling.max_new_tokens / 2 / OUTPUT_RATE
    return (len(request.prompt) + sum(map(len, request.labels))) / PROMPT_RATE


def _facts(study: Study, engine: EngineLike, about: dict[str, Any], gates: dict[str, Any]) -> dict[str, Any]:
    """What the manifest tells beside the inputs: shown in the report, not compared."""
    from importlib.metadata import version

    return {
        "engine": about,
        "gates": gates,
        "default_system": engine.tokenizer.default_system,
        "adds_default_system": [p.name for p in study.personas if p.system is None and engine.tokenizer.default_system],
        "template_date": getattr(engine.tokenizer, "frozen_date", None),
        "warmeng": version("warmeng"),
        "python": sys.version.split()[0],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _finish(study: Study, folder: Path, facts: dict[str, Any]) -> Outcome:
    """Read the records back, check that planned = sum of all grades, write and return the results."""
    answers = Answers(read_records(folder / FILE))
    s = study.settings
    names = [p.name for p in study.personas]
    results = summarise(answers, names, list(study.contexts), list(s.beliefs), [t.name for t in study.tasks])
    missing = study.size - answers.grades.total()
    results["run"] = {
        "planned": study.size,
        "missing": missing,
        "model": s.model,
        "seed": s.seed,
        "deterministic": not s.fast,
        "settings": s.as_dict(),
        **{key: facts.get(key) for key in ("default_system", "adds_default_system", "gates")},
    }
    try:
        write_results(folder, results)
    except OSError as error:
        raise StorageFailed(f"{folder}: the results can't be written ({error.strerror})") from None
    return Outcome(UNBALANCED if missing else 0, folder, results)


def _log_session(folder: Path, engine: EngineLike, seconds: float, done: int) -> None:
    """Append what this process took: the only place for times, so that records stay the same."""
    used = {
        key: getattr(engine.stats, key, None) for key in ("output_tokens", "prompt_tokens", "cached_tokens", "steps")
    }
    line = {"ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "seconds": round(seconds, 2), "records": done}
    try:
        with (folder / "sessions.jsonl").open("ab") as file:
            file.write(orjson.dumps(line | used) + b"\n")
    except OSError:
        return  # the records are safe: times are not worth failing for


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Yield a list that the first SIGINT fills: what is finished is kept. A second one stops at once."""
    seen: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        old = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread: nobody can interrupt us there
        yield seen
        return
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, old)
