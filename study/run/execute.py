"""Works through a run's plan: every model's part of the answers, then what judges owe, one model loaded at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError
from warmeng.common.journal import Journal
from warmeng.common.progress import Progress, counted
from warmeng.study.plan import Planned, Study
from warmeng.study.results.manifest import OWN_MODELS, refuse_changes
from warmeng.study.results.records import read_records
from warmeng.study.run.asking import Display, ask, count_done, judge, judging_work
from warmeng.study.run.judges import BASE, JUDGE, JudgeSpec
from warmeng.study.run.models import Models, identity, settings_of
from warmeng.study.run.sessions import Session
from warmeng.study.settings import StudySettings


@dataclass(frozen=True)
class Part:
    """The personas that one model answers for, and their requests."""

    model: StudySettings  # what loads it
    personas: tuple[str, ...]
    plan: Iterable[Planned]
    size: int  # of the plan
    # Compared where it is loaded again; not the base's.
    identity: Mapping[str, Any] = field(default_factory=dict)

    def shown(self, progress: Progress) -> Iterator[Planned]:
        """Yield the plan; how far it is is shown where it is made again and takes its time."""
        return counted(self.plan, self.size, "requests planned", progress)


@dataclass
class Grid:
    """All parts of a run, the base's first, and its judges.

    ``total`` counts the records that there will be, ``kinds`` are these in words; where the run is
    ``continued``, some may be there already.
    """

    study: Study
    folder: Path
    parts: list[Part]  # each is dropped when it is done
    judges: Mapping[str, JudgeSpec]
    models: Models
    records: Journal
    progress: Progress
    device: str
    total: int
    kinds: str
    continued: bool

    def work(self, first: Session) -> bool:
        """Ask and judge what has no record; return whether an interrupt ended it early.

        The base is loaded, and ``first`` counts what it takes. Raises ``InputError`` for records that the plan does
        not know, and for a model that is no longer what it was.
        """
        counts = self._counts()
        self._announce(counts)
        stopped = self._ask(self.parts.pop(0), *counts[0], first)
        alone = not self.parts
        for planned, done, left in counts[1:]:
            part = self.parts.pop(0)
            if left and not stopped:
                stopped = self._ask(part, planned, done, left, self._session())
            del part
        everything = sum((planned for planned, _, _ in counts), Counter[str]())
        for spec in self.judges.values():
            asked = spec.name == BASE and alone  # in the same engine as the answers
            if not stopped and not asked:
                stopped = self._judge(spec, everything[JUDGE + spec.name])
        return stopped

    def _counts(self) -> list[tuple[Counter[str], Counter[str], float]]:
        judges = list(self.judges.values())
        return [count_done(part.shown(self.progress), judges, self.records.done) for part in self.parts]

    def _announce(self, counts: Sequence[tuple[Counter[str], Counter[str], float]]) -> None:
        there = sum(done.total() for _, done, _ in counts)
        if there != len(self.records.done):
            raise unknown_records(self.records.path, len(self.records.done), there)
        if self.records.cut:
            self.progress.message(f"{self.records.path}: cut an unfinished last line of {self.records.cut} bytes")
        if self.continued:
            self.progress.message(f"{self.folder}: continuing, {there} of {self.total} {self.kinds} are there")
        else:
            self.progress.message(f"{self.folder}: {self.total} {self.kinds} to get")

    def _ask(self, part: Part, planned: Counter[str], done: Counter[str], left: float, session: Session) -> bool:
        """Ask one model what it still owes; the base judges its own answers meanwhile, where it is a judge."""
        engine = self.models.of(part.model, f"{part.model.model} for {', '.join(part.personas)}")
        if part.identity:
            now = identity(engine)
            for name in part.personas:
                refuse_changes(self.folder, {OWN_MODELS: {name: part.identity}}, {OWN_MODELS: {name: now}})
        base = None if part.identity else self.judges.get(BASE)
        shown = [*part.personas, *([JUDGE + BASE] if base else [])]
        left += judging_work() * (planned[JUDGE + BASE] - done[JUDGE + BASE]) if base else 0.0
        stopped = False
        try:
            if left:
                display = Display(self.progress, engine, {name: planned[name] for name in shown}, done, left)
                stopped = ask(engine, part.plan, base, self.study, self.records, display, session.meter, self.continued)
                self.progress.stop()
        finally:
            # Whatever ended it: its time and tokens were spent.
            session.log(self.folder, len(self.records.done))
        return stopped

    def _session(self) -> Session:
        return Session(self.models, self.device)

    def _judge(self, spec: JudgeSpec, planned: int) -> bool:
        """Load one judge, where it owes judgments, and let it make them; return whether an interrupt came."""
        made = sum(r["kind"] == "judged" and r["judge"] == spec.name for r in read_records(self.records.path))
        if made == planned:
            return False
        session = self._session()
        settings = self.study.settings
        model = settings if spec.name == BASE else settings_of(spec.name, settings)
        engine = self.models.of(model, f"judge {spec.name}")
        was, now = ({"judges": {a.name: a.identity}} for a in (spec, JudgeSpec.of(spec.name, engine, spec.commits)))
        refuse_changes(self.folder, was, now)
        name = JUDGE + spec.name
        display = Display(self.progress, engine, {name: planned}, {name: made}, judging_work() * (planned - made))
        stopped = judge(engine, spec, self.study, self.records, display, session.meter)
        self.progress.stop()
        session.log(self.folder, len(self.records.done))
        return stopped


def unknown_records(path: Path, have: int, planned: int) -> InputError:
    """Return the error of records that the plan does not know."""
    return InputError(
        f"{path}: has {have} records where the plan knows {planned}: restore the file or choose another --out"
    )
