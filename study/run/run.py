"""One run, top to bottom: read, gate, ask all personas in one pass, grade and record as answers finish, tabulate."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from warmeng import __version__
from warmeng.common.errors import InputError, StorageError, UsageError, one_line
from warmeng.common.files import FULL, sweep
from warmeng.common.journal import Journal
from warmeng.common.locks import FolderLock
from warmeng.common.progress import Progress, for_stderr
from warmeng.common.watchdog import Watchdog, Watched
from warmeng.engine.identity import identity_of
from warmeng.study.adapters import apply_adapters
from warmeng.study.grading.grade import RULES
from warmeng.study.grading.judge import RUBRIC_VERSION
from warmeng.study.personas import Persona, on_base
from warmeng.study.plan import Planned, Planner, Study
from warmeng.study.results.items import FILE as ITEMS
from warmeng.study.results.items import write_items
from warmeng.study.results.manifest import OWN_MODELS, read_manifest, refuse_changes, write_manifest
from warmeng.study.results.records import FILE, LOCK, read_records
from warmeng.study.run.asking import MOST_OPEN, make_record
from warmeng.study.run.calibrate import calibrate_exact
from warmeng.study.run.execute import Grid, Part, strange
from warmeng.study.run.finish import FAILED, UNBALANCED, Outcome, finish
from warmeng.study.run.gates import check_warmth
from warmeng.study.run.judges import BASE, JUDGED, Appointed, appoint, examine, is_judged, keys_of
from warmeng.study.run.models import Models, compare, load_engine, meet, settings_of
from warmeng.study.run.sessions import Session
from warmeng.study.run.sources import FACT, refuse_replaced, stamps
from warmeng.study.settings import StudySettings
from warmeng.study.tasks import wrong_answers

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine

__all__ = [
    "FAILED", "INTERRUPTED", "UNBALANCED", "Outcome", "make_record",
    "run_study",
]  # fmt: skip

PLAN = "prompts or grading rules"  # the input that all keys together are, where nothing else explains a change
INTERRUPTED = 130


def run_study(
    settings: StudySettings | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
    command: str = "run_study with the same arguments",
) -> Outcome:
    """Run a study, continue an interrupted one, or make a finished one's tables again.

    ``settings``: the embedded study on the built-in model unless given. ``folder``: where the run is kept,
    ``runs/<hash of the settings>`` unless given. ``progress``: a display on stderr unless given; ``Silent()`` of
    ``warmeng.common.progress`` shows nothing. ``command``: what messages say continues the run after a failure.

    Returns the exit code (0 for a run that is whole), the folder, and the results as ``results.json`` has them (None
    after an interrupt). A run without a step for ``stall_seconds`` ends the process.

    A finished run is printed again without its models, unless their files are others by now. Raises ``InputError``
    and ``UsageError`` before anything is generated for the grid, ``FolderLocked`` where another process writes the
    folder, ``StorageError`` where the disk does not take a record.
    """
    settings = settings or StudySettings()
    folder = Path(folder) if folder is not None else settings.default_folder
    progress = progress or for_stderr()
    study = Study.load(settings)
    for task in study.tasks:
        if task.left_out:
            progress.message(f"{task.name}: {task.left_out}")
    check_judges(study, progress)
    check_own_models(study)
    before = read_manifest(folder)
    if before is not None:
        refuse_changes(folder, before["inputs"], known_inputs(study))
    with FolderLock(folder, LOCK):
        before = read_manifest(folder)
        path = folder / FILE
        if before is not None and path.exists():
            keys = [record["key"] for record in read_records(path)]
            if _digest(keys) == before["inputs"][PLAN]:
                unknown = refuse_replaced(study, folder, before["facts"])
                progress.message(f"{folder}: this run is finished; its tables again:")
                if unknown:
                    progress.message(f"not compared with what the run was made with: {', '.join(unknown)}")
                return finish(study, folder, before, progress, command)
            if len(keys) >= before["planned"] + before.get("judgments", 0):
                raise strange(path, len(keys), before["planned"] + before.get("judgments", 0))
        return _run(study, folder, before, progress, command)


def _run(study: Study, folder: Path, before: Mapping[str, Any] | None, progress: Progress, command: str) -> Outcome:
    from warmeng.engine.load import choose_device

    settings, path = study.settings, folder / FILE
    device = choose_device(settings.device)
    watchdog = Watchdog(settings.stall_seconds, folder, command, progress.stop)
    models = Models(lambda chosen: cast("Engine", Watched(load_engine(chosen), watchdog)), progress)
    session = Session(models, device)
    ready = _prepare(study, models, folder, before, progress, command)
    with _storing(folder, command):
        sweep(folder)
        if before is None:
            facts = ready.manifest["facts"]
            write_manifest(folder, ready.manifest["inputs"], facts, study.size, ready.judgments)
        if not (folder / ITEMS).exists():
            write_items(folder, ready.study)  # here, where the wrong answers that the source lacks are filled in
    records = Journal(path, command)
    total = study.size + ready.judgments
    grid = Grid(
        ready.study, folder, ready.parts, ready.judges, models, records, progress, device, total, before is not None
    )
    try:
        stopped = grid.work(session)
    finally:
        try:
            progress.stop()
        finally:
            records.close()
    if stopped:
        what = "answers and judgments" if ready.judgments else "answers"
        progress.message(f"interrupted; {len(records.done)} of {total} {what} are kept; continue: {command}")
        return Outcome(INTERRUPTED, folder, None)
    manifest = ready.manifest
    del records, grid, ready  # the keys of all that is done
    models.free()
    return finish(study, folder, manifest, progress, command)


@dataclass(frozen=True)
class Prepared:
    """A run that may begin: its study with all wrong answers, each model's part, its judges, its manifest."""

    study: Study
    parts: list[Part]
    judges: dict[str, Appointed]
    manifest: Mapping[str, Any]

    @property
    def judgments(self) -> int:
        """Judgments that the run will make."""
        return int(self.manifest.get("judgments", 0))


def _prepare(
    study: Study, models: Models, folder: Path, before: Mapping[str, Any] | None, progress: Progress, command: str
) -> Prepared:
    """Load every model once, the base last, hold the gates, and refuse whatever changed since the run began."""
    settings = study.settings
    others, outcomes = appoint(settings, models, progress, before)
    own = meet(study, models, before is None, progress)
    engine = models.of(settings)
    unlike = compare(own, engine, progress)
    applied = apply_adapters(engine, study.personas, progress.message)
    about = engine.describe()
    identity = identity_of(about)
    judges, outcomes = _with_base(study, engine, others, outcomes, before, progress)
    hashes = {name: adapter.hash for name, adapter in applied.items()}
    inputs = known_inputs(study) | {"model": identity, "adapter": hashes, "template": engine.tokenizer.template_hash}
    if own:
        inputs[OWN_MODELS] = {persona.name: dict(model.identity) for model in own for persona in model.personas}
    if judges:
        inputs["judges"] = {name: dict(appointed.identity) for name, appointed in judges.items()}
    if before is not None:  # before anything is written
        refuse_changes(folder, before["inputs"], inputs)
    study = _with_wrong_answers(study, engine, folder, progress, command)
    mine = replace(study, personas=on_base(study.personas))
    planner = Planner(mine, engine.tokenizer, engine.config.stop_token_ids, identity, hashes)
    parts = [Part(settings, _names(mine.personas), _kept(planner, study))]
    for model in own:
        plan = _kept(model.planner(study), study)
        parts.append(Part(settings_of(model.name, settings), _names(model.personas), plan, model.identity))
    inputs[PLAN] = _digest(key for part in parts for planned in part.plan for key in keys_of(planned, judges.values()))
    if before is not None:
        refuse_changes(folder, before["inputs"], inputs)
        return Prepared(study, parts, judges, before)
    judgments = sum(is_judged(p) for part in parts for p in part.plan) * len(judges) if judges else 0
    facts = _facts(study, engine, about, {name: asdict(adapter) for name, adapter in applied.items()}, outcomes)
    facts["own_models"] = unlike
    responses = {name: texts for model in own for name, texts in model.responses.items()}
    facts["manipulation"] = check_warmth(study, engine, progress, responses)
    facts[FACT] = stamps(study, facts)
    manifest = {"inputs": inputs, "facts": facts, "planned": study.size, "judgments": judgments}
    return Prepared(study, parts, judges, manifest)


def _names(personas: Iterable[Persona]) -> tuple[str, ...]:
    return tuple(persona.name for persona in personas)


def _kept(planner: Planner, study: Study) -> Iterable[Planned]:
    """Return a model's plan, which is kept; of a large study it is made again whenever it is read."""
    return list(planner) if study.size <= MOST_OPEN else planner


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


def check_own_models(study: Study) -> None:
    """Raise ``InputError`` for a persona whose own model is the base by its name; ``compare`` finds copies."""
    from warmeng.engine.registry import is_same, parse_name

    for persona in study.personas:
        name, revision = parse_name(persona.model or "")
        if persona.model and is_same(name, study.settings.model) and revision == study.settings.revision:
            raise InputError(f"persona {persona.name}: {persona.model} is the base itself: leave full: out")


def _with_base(
    study: Study,
    engine: Engine,
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


def _with_wrong_answers(study: Study, engine: Engine, folder: Path, progress: Progress, command: str) -> Study:
    """Return the study with wrong answers where a user claims one and the source has none."""
    lacking = [task for task in study.tasks if study.lacks_wrong(task)]
    if not lacking:
        return study
    count = sum(len(wrong_answers.missing(task)) for task in lacking)
    progress.message(f"{folder}: {count} wrong answers are missing in {', '.join(t.name for t in lacking)}")
    with _storing(folder, command):
        filled = {task.name: wrong_answers.fill_wrong(task, engine, folder / wrong_answers.FILE) for task in lacking}
    return replace(study, tasks=tuple(filled.get(task.name, task) for task in study.tasks))


@contextmanager
def _storing(folder: Path, command: str) -> Iterator[None]:
    """Turn the system's errors of writing beside the records into one line."""
    try:
        yield
    except OSError as error:
        do = "make room" if error.errno in FULL else "see to the disk"
        why = one_line(error.strerror or error)
        raise StorageError(f"{folder}: {why}; what was there is kept: {do}, then continue with: {command}") from None


def _digest(keys: Iterable[str]) -> str:
    return hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()


def _facts(
    study: Study, engine: Engine, about: dict[str, Any], gates: dict[str, Any], judges: dict[str, Any]
) -> dict[str, Any]:
    """What the manifest tells beside the inputs: shown in the report, not compared."""
    return {
        "engine": about,
        "gates": gates,
        "judges": judges,
        "exact_rule": calibrate_exact().as_dict() | {"rules": RULES},
        "questions": {task.name: task.extent for task in study.tasks},
        "left_out": {task.name: task.left_out for task in study.tasks if task.left_out},
        "systems": {p.name: p.system for p in study.personas if p.system},
        "default_system": engine.tokenizer.default_system,
        "adds_default_system": [
            p.name for p in on_base(study.personas) if p.system is None and engine.tokenizer.default_system
        ],
        "template_date": engine.tokenizer.frozen_date,
        "warmeng": __version__,
        "python": sys.version.split()[0],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
