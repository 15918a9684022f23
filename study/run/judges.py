"""A run's judges: who they are, what they are measured at before the grid, and their part of the records."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from warmeng.engine.request import GenerateRequest, Result, ScoreRequest
from warmeng.remote.request import ChatRequest, ChatResult
from warmeng.study.grading.exact import whose
from warmeng.study.grading.judge import OWN_VERSION, RUBRIC_VERSION, Judged, decide, judge_of, own_text
from warmeng.study.grading.rows import Row, row_of
from warmeng.study.plan import Planned
from warmeng.study.results.manifest import Manifest
from warmeng.study.results.records import read_records
from warmeng.study.run.calibrate import Calibration, calibrate, require_trust
from warmeng.study.run.models import AnyEngine, Models, identity, settings_of
from warmeng.study.run.preparation import Preparation
from warmeng.study.settings import StudySettings
from warmeng.study.tasks.task import Item, Task

# Before a judge's name, where work is shown by persona and judge.
JUDGE = "judge "
# The run's own base, without an adapter, in the same engine.
BASE = "base"
# In a judge's identity, where it commits itself first: the version of what it is asked then.
COMMITS = "own answer"
# Before a hash of a question: the id of a judge's own answer to it.
OWN = "own "
# Gradings whose answers are judged; a refusal has no right answer to compare.
JUDGED = ("alias", "judge", "number")
PLACE = ("persona", "task", "context", "belief", "framing", "item", "sample")


@dataclass(frozen=True)
class JudgeSpec:
    """A judge of a run by its name as it was given, and what determines its judgments."""

    name: str
    identity: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, engine: AnyEngine, commits: bool = False) -> JudgeSpec:
        """Return the judge that a loaded model is; one that ``commits`` itself answers each question first."""
        return cls(name, {**identity(engine), **({COMMITS: OWN_VERSION} if commits else {})})

    @property
    def commits(self) -> bool:
        """Whether it answers a question itself before it grades answers to it."""
        return COMMITS in self.identity

    def key(self, answer: str) -> str:
        """Return the key of the judgment of the answer with this key."""
        content = [answer, self.name, self.identity, RUBRIC_VERSION]
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class JudgmentTask:
    """One judgment to be made: its key, the answer's record, and what the judge is shown."""

    key: str
    judge: str
    answer: Mapping[str, Any]
    item: Item
    row: Row


def calibrate_judge(
    engine: AnyEngine, name: str, gate: bool, preparation: Preparation, commits: bool = False
) -> dict[str, Any]:
    """Measure a judge on the embedded labelled answers and return the outcome for the manifest.

    Raises ``InputError`` naming the judge where its agreement with people is too low, unless ``gate`` is off: then it
    is recorded as not trusted, its grades are shown beside the others and decide nothing.
    """
    through = preparation.engine(engine, f"calibration of judge {name}")
    found: Calibration = calibrate(engine, commits=commits, through=through)
    if gate:
        otherwise = "let it only be recorded (--no-judge-gate)"
        require_trust(f"judge {name}", found.agreement, "a judge of this run", otherwise)
    preparation.progress.message(
        f"judge {name}: {found.agreement}{'' if found.trusted else '; not trusted: it decides nothing'}"
    )
    why = "" if found.trusted else "agreement with people is not shown to be high enough"
    about = engine.describe()
    return {**found.as_dict(), "why": why, "rubric": RUBRIC_VERSION, **{k: about.get(k) for k in ("model", "origin")}}


def load_judges(
    settings: StudySettings, models: Models, preparation: Preparation, before: Manifest | None
) -> tuple[dict[str, JudgeSpec], dict[str, dict[str, Any]]]:
    """Return the judges that are models of their own, and what each was measured at, loaded one by one.

    A run that continues takes both from its manifest; the model is checked again when it judges.
    """
    judges: dict[str, JudgeSpec] = {}
    outcomes: dict[str, dict[str, Any]] = {}
    for name in settings.judges:
        if name == BASE:
            continue
        if before is not None:
            judges[name] = JudgeSpec(name, before.inputs["judges"][name])
            outcomes[name] = dict(before.facts.judges[name])
            continue
        engine = models.of(settings_of(name, settings), f"judge {name}")
        judges[name] = JudgeSpec.of(name, engine, settings.judge_commits)
        outcomes[name] = calibrate_judge(engine, name, settings.judge_gate, preparation, settings.judge_commits)
        del engine  # before another one is loaded
    return judges, outcomes


def is_judged(planned: Planned) -> bool:
    """Whether a request's answer is judged: where it is generated, and there is a right answer."""
    return planned.task.grading in JUDGED and not planned.margin


def keys_of(planned: Planned, judges: Iterable[JudgeSpec]) -> Iterator[str]:
    """Yield the keys of all records that a request leads to: the answer's, then each judgment's."""
    yield planned.key
    if is_judged(planned):
        for judge in judges:
            yield judge.key(planned.key)


def judgment_task(judge: JudgeSpec, answer: Mapping[str, Any], item: Item) -> JudgmentTask:
    """Return the judgment to be made of an answer's record."""
    row = row_of(answer["key"], item, str(answer["text"]), answer["belief"])
    return JudgmentTask(judge.key(answer["key"]), judge.name, answer, item, row)


def settled(case: JudgmentTask) -> Judged | None:
    """Return the judgment that needs no judge: of an answer that is not there, or that is blank."""
    if case.answer["status"] != "ok":
        return Judged(case.row, "unscored", reason="there is no answer")
    return None if case.row.answer.strip() else Judged(case.row, "unclear", reason="empty")


def judged_record(case: JudgmentTask, judged: Judged, status: str = "ok") -> dict[str, Any]:
    """Return the record of a judgment."""
    incorrect = judged.grade == "incorrect"
    return {
        "key": case.key,
        "kind": "judged",
        "of": case.answer["key"],
        "judge": case.judge,
        **{name: case.answer[name] for name in PLACE},
        "status": status,
        "grade": judged.grade,
        "which": whose(case.item, case.row.answer, case.row.belief) if incorrect else None,
        "reason": judged.reason,
        "shares": judged.shares or None,
        "mass": judged.mass,
        "prompt_tokens": judged.prompt_tokens,
    }


def items_of(tasks: Sequence[Task]) -> dict[tuple[str, str], Item]:
    """Return the items whose answers are judged, by task and id."""
    return {(task.name, item.id): item for task in tasks if task.grading in JUDGED for item in task.items}


def pending(path: Path, judge: JudgeSpec, tasks: Sequence[Task], done: Collection[str]) -> Iterator[JudgmentTask]:
    """Yield the judgments that a judge still owes of the answers that a file has, in bounded memory."""
    items = items_of(tasks)
    if not path.exists():
        return
    for record in read_records(path):
        item = items.get((record["task"], record["item"])) if record["kind"] == "answer" else None
        if item is not None and judge.key(record["key"]) not in done:
            yield judgment_task(judge, record, item)


# What a judge's client gives: requests for the engine, and records that are done.
Given = list[ScoreRequest | GenerateRequest | ChatRequest | dict[str, Any]]


class JudgeClient:
    """Turns cases into requests and results into records, for one judge and one engine."""

    def __init__(self, judge: JudgeSpec, engine: AnyEngine) -> None:
        self.spec = judge
        self._judge = judge_of(engine)
        self._open: dict[str, JudgmentTask] = {}
        # Of a judge that commits itself first: its answers by id, and the cases that wait for one.
        self._own: dict[str, str] = {}
        self._waiting: dict[str, list[JudgmentTask]] = {}

    @property
    def held(self) -> int:
        """How many cases are not done."""
        return len(self._open) + sum(map(len, self._waiting.values()))

    def take(self, case: JudgmentTask) -> Given:
        """Return what to add to the engine, or the record at once where nothing is needed.

        Nothing yet where the judge's own answer to the question is on its way.
        """
        known = settled(case)
        if known is not None:
            return [judged_record(case, known, str(case.answer["status"]))]
        own = self._own_id(case)
        if not self.spec.commits or own in self._own:
            return [self._request(case)]
        asked = own in self._waiting
        self._waiting.setdefault(own, []).append(case)
        return [] if asked else [self._judge.own_request(own, case.row.question)]

    def receive(self, result: Result | ChatResult) -> Given:
        """Return what follows from a result whose request ``take`` gave: its record, or the requests that it opens."""
        if result.id in self._waiting:
            self._own[result.id] = own_text(result)
            return [self._request(case) for case in self._waiting.pop(result.id)]
        case = self._open.pop(result.id)
        found = judged_record(case, decide(case.row, result), result.status) | answered_by(result)
        return [found | ({"own": self._own[self._own_id(case)]} if self.spec.commits else {})]

    def _request(self, case: JudgmentTask) -> ScoreRequest | ChatRequest:
        self._open[case.key] = case
        return self._judge.request(case.key, case.row, self._own.get(self._own_id(case), ""))

    def _own_id(self, case: JudgmentTask) -> str:
        return OWN + hashlib.sha256(case.row.question.encode()).hexdigest()[:32]


def answered_by(result: Result | ChatResult) -> dict[str, Any]:
    """Return what an API says that answered, for the record; nothing for a model of this machine."""
    if not isinstance(result, ChatResult):
        return {}
    return {"answered_by": result.model or None, "fingerprint": result.fingerprint}
