"""One run, top to bottom: read, gate, ask all personas in one pass, grade and record as answers finish, tabulate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from warmeng.common.errors import Stopped, StorageError, one_line
from warmeng.common.files import FULL, sweep
from warmeng.common.journal import Journal
from warmeng.common.locks import FolderLock
from warmeng.common.log import timed
from warmeng.common.progress import Progress, for_stderr
from warmeng.common.watchdog import Watchdog, Watched
from warmeng.fleet.settings import FleetSettings
from warmeng.remote.errors import BudgetReached
from warmeng.remote.names import is_api
from warmeng.study.personas import remarks
from warmeng.study.plan import Study
from warmeng.study.results.items import FILE as ITEMS
from warmeng.study.results.items import write_items
from warmeng.study.results.manifest import Manifest, read_manifest, refuse_changes, write_manifest
from warmeng.study.results.records import FILE, LOCK, read_records
from warmeng.study.results.responses import write_responses
from warmeng.study.results.tied import PLAN, digest, refuse_edited
from warmeng.study.run.api import Apis
from warmeng.study.run.energy import ELSEWHERE
from warmeng.study.run.execute import Grid, unknown_records
from warmeng.study.run.finish import FAILED, UNBALANCED, Outcome, finish
from warmeng.study.run.fleet import Fleet
from warmeng.study.run.models import AnyEngine, Models, load_engine
from warmeng.study.run.prepare import check_judges, check_own_models, known_inputs, prepare
from warmeng.study.run.reuse import take_over
from warmeng.study.run.sessions import Session
from warmeng.study.run.sources import refuse_replaced
from warmeng.study.settings import StudySettings
from warmeng.study.stats.fidelity import refuse_other_study
from warmeng.study.warmth.responses import load_prompts

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine

__all__ = ["FAILED", "INTERRUPTED", "UNBALANCED", "Outcome", "run_study"]

INTERRUPTED = 130


def run_study(
    settings: StudySettings | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
    command: str = "run_study with the same arguments",
    reuse: Sequence[Path] = (),
    fleet: FleetSettings | None = None,
    full: Path | None = None,
) -> Outcome:
    """Run a study, continue an interrupted one, or make a finished one's tables again.

    ``settings``: the embedded study on the built-in model unless given. ``folder``: where the run is kept,
    ``runs/<hash of the settings>`` unless given. ``progress``: a display on stderr unless given; ``Silent()`` of
    ``warmeng.common.progress`` shows nothing. ``command``: what messages say continues the run after a failure.
    ``reuse``: folders of earlier runs of the same model, whose answers are taken over where this run asks the same.
    ``fleet``: the Ray cluster whose workers answer, with the bits of one process. ``full``: folder of a run of the
    same study in full precision; what this run's precision changes is told beside its results.

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
    for line in remarks(study.personas, settings.personas):
        progress.message(line)
    check_judges(study, progress)
    check_own_models(study)
    # Twice: what changed is refused before the lock is asked for; another process may write until it is held.
    _read_unchanged(study, folder)
    if full is not None:
        refuse_other_study(full, folder, known_inputs(study))
    with FolderLock(folder, LOCK):
        before = _read_unchanged(study, folder)
        path = folder / FILE
        if before is not None and path.exists():
            keys = [record["key"] for record in read_records(path)]
            if digest(keys) == before.inputs[PLAN]:
                unknown = refuse_replaced(study, folder, before.facts)
                progress.message(f"{folder}: this run is finished; its tables again:")
                if unknown:
                    progress.message(f"not compared with what the run was made with: {', '.join(unknown)}")
                if full is not None:
                    refuse_other_study(full, folder, before.inputs)
                return finish(study, folder, before, progress, command, full)
            if len(keys) >= before.records:
                raise unknown_records(path, len(keys), before.records)
        return _run(study, folder, before, progress, command, reuse, fleet, full)


def _read_unchanged(study: Study, folder: Path) -> Manifest | None:
    """Return a folder's manifest.

    Raises ``InputError`` naming what is other than the study's as far as it is known, and where it was edited.
    """
    found = read_manifest(folder)
    if found is not None:
        refuse_changes(folder, found.inputs, known_inputs(study))
        refuse_edited(folder)
    return found


def _run(
    study: Study,
    folder: Path,
    before: Manifest | None,
    progress: Progress,
    command: str,
    reuse: Sequence[Path],
    fleet: FleetSettings | None,
    full: Path | None,
) -> Outcome:
    settings = study.settings
    if is_api(settings.model) or fleet is not None:
        device = ELSEWHERE
    else:
        from warmeng.engine.load import choose_device

        device = choose_device(settings.device)
    watchdog = Watchdog(settings.stall_seconds, folder, command, progress.stop)
    apis = Apis(study, folder, progress, command, watchdog)
    workers = Fleet(fleet, progress, watchdog) if fleet is not None else None

    def load(chosen: StudySettings) -> AnyEngine:
        if is_api(chosen.model):
            return apis.load(chosen)
        if workers is not None:
            return cast("Engine", workers.load(chosen))
        return cast("Engine", Watched(load_engine(chosen), watchdog))

    models = Models(load, progress)
    try:
        session = Session(models, device)
        return _run_with(study, folder, before, models, session, progress, command, device, reuse, full)
    finally:
        models.free()
        apis.close()
        if workers is not None:
            workers.close()


def _run_with(
    study: Study,
    folder: Path,
    before: Manifest | None,
    models: Models,
    session: Session,
    progress: Progress,
    command: str,
    device: str,
    reuse: Sequence[Path],
    full: Path | None,
) -> Outcome:
    path = folder / FILE
    with timed(f"{folder}: all before the grid"):
        ready = prepare(study, models, folder, before, progress, command, reuse)
    if full is not None:
        refuse_other_study(full, folder, ready.manifest.inputs)
    with _storing(folder, command):
        sweep(folder)
        if before is None:
            if ready.responses:
                write_responses(folder, ready.responses, load_prompts(limit=study.settings.warmth_prompts))
            write_manifest(folder, ready.manifest)
        # Here, where the wrong answers that the source lacks are filled in.
        if not (folder / ITEMS).exists():
            write_items(folder, ready.study)
    records = Journal(path, command)
    take_over(reuse, folder, ready.keys(progress), records, progress)
    total = ready.manifest.records
    grid = Grid(
        ready.study,
        folder,
        ready.parts,
        ready.judges,
        models,
        records,
        progress,
        device,
        total,
        ready.manifest.kinds,
        before is not None,
    )
    try:
        stopped = grid.work(session)
    except Stopped as error:
        how = "with a higher limit: " if isinstance(error, BudgetReached) else "with: "
        kept = f"{len(records.done)} of {total} {ready.manifest.kinds} are kept"
        raise type(error)(f"{folder}: {error}; {kept}: continue {how}{command}") from None
    finally:
        try:
            progress.stop()
        finally:
            records.close()
    if stopped:
        what = ready.manifest.kinds
        progress.message(f"interrupted; {len(records.done)} of {total} {what} are kept; continue: {command}")
        return Outcome(INTERRUPTED, folder, None)
    manifest = ready.manifest
    del records, grid, ready  # the keys of all that is done
    models.free()
    return finish(study, folder, manifest, progress, command, full)


@contextmanager
def _storing(folder: Path, command: str) -> Iterator[None]:
    """Turn the system's errors of writing beside the records into one line."""
    try:
        yield
    except OSError as error:
        do = "make room" if error.errno in FULL else "see to the disk"
        why = one_line(error.strerror or error)
        raise StorageError(f"{folder}: {why}; what was there is kept: {do}, then continue with: {command}") from None
