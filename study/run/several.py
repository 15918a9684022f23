"""One study of several bases: a run of each, one after the other, and tables over all of them.

Each base has the whole machine, or all workers, while it is asked: two at once would share them, and end no sooner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmeng.common.errors import UsageError
from warmeng.common.progress import Progress
from warmeng.fleet.settings import FleetSettings
from warmeng.study.plan import Study
from warmeng.study.results.manifest import refuse_other_runs
from warmeng.study.run.dry_run import check_before
from warmeng.study.run.finish import Outcome
from warmeng.study.run.run import INTERRUPTED, run_study
from warmeng.study.settings import StudySettings, short_name
from warmeng.study.stats.analyze import analyze_sources


@dataclass(frozen=True)
class Several:
    """How the runs ended, in order, as far as they were begun; and the analysis of all, where all of them ended."""

    outcomes: tuple[Outcome, ...]
    analysis: Mapping[str, Any] | None

    @property
    def exit_code(self) -> int:
        """That of the first run that did not end well."""
        return next((outcome.exit_code for outcome in self.outcomes if outcome.exit_code), 0)


def folders_of(studies: Sequence[StudySettings], folder: Path) -> dict[Path, StudySettings]:
    """Return each study by the folder of its run inside ``folder``, which has its base's short name.

    Raises ``UsageError`` for two bases of one short name, and where ``folder`` is a run itself.
    """
    refuse_other_runs(folder)
    runs: dict[Path, StudySettings] = {}
    for study in studies:
        own = folder / (short_name(study.model) or "model")
        if own in runs:
            raise UsageError(f"{runs[own].model} and {study.model} would both go to {own}: run them one by one")
        runs[own] = study
    return runs


def run_several(
    studies: Sequence[StudySettings],
    folder: Path,
    progress: Progress,
    command: str = "run_several with the same arguments",
    fleet: FleetSettings | None = None,
) -> Several:
    """Run, continue or print again one study of several bases, each in a folder of its own inside ``folder``.

    What every base asks is read before the first is begun. An interrupt ends it; a run that lacks answers does not.
    The analysis of all goes into ``folder``. Raises as ``folders_of``, ``run_study`` and ``analyze_sources``.
    """
    runs = folders_of(studies, folder)
    for own, study in runs.items():
        check_before(Study.load(study), own)
    outcomes: list[Outcome] = []
    for k, (own, study) in enumerate(runs.items(), start=1):
        progress.message(f"base {k} of {len(runs)}: {study.model}, in {own}")
        outcomes.append(run_study(study, own, progress, command, fleet=fleet))
        if outcomes[-1].exit_code == INTERRUPTED:
            return Several(tuple(outcomes), None)
    _, analysis = analyze_sources(tuple(runs), folder, seed=studies[0].seed)
    return Several(tuple(outcomes), analysis)
