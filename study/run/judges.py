"""A run's judges: who they are, what they are measured at before the grid, and their part of the records."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from warmeng.engine.request import Result, ScoreRequest
from warmeng.remote.request import ChatRequest, ChatResult
from warmeng.study.grading.exact import whose
from warmeng.study.grading.judge import RUBRIC_VERSION, Judged, decide, judge_of
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
# Gradings whose answers are judged; a refusal has no right answer to compare.
JUDGED = ("alias", "judge", "number")
PLACE = ("persona", "task", "context", "belief", "framing", "item", "sample")


@dataclass(frozen=True)
class JudgeSpec:
    """A judge of a run by its name as it was given, and what determines its judgments."""

    name: str
    identity: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, engine: AnyEngine) -> JudgeSpec:
        """Return the judge that a loaded model is."""
        return cls(name, identity(engine))

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


def calibrate_judge(engine: AnyEngine, name: str, gate: bool, preparation: Preparation) -> dict[str, Any]:
    """Measure a judge on the embedded labelled answers and return the outcome for the manifest.

    Raises ``InputError`` naming the judge where its agreement with people is too low, unless ``gate`` is off: then it
    is recorded as not trusted, its grades are shown beside the others and decide nothing.
    """
    found: Calibration = calibrate(engine, score=preparation.engine(engine, f"calibration of judge {name}").score)
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
        judges[name] = JudgeSpec.of(name, engine)
        outcomes[name] = calibrate_judge(engine, name, settings.judge_gate, preparation)
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


class JudgeClient:
    """Turns cases into requests and results into records, for one judge and one engine."""

    def __init__(self, judge: JudgeSpec, engine: AnyEngine) -> None:
        self.spec = judge
        self._judge = judge_of(engine)
        self.open: dict[str, JudgmentTask] = {}

    def take(self, case: JudgmentTask) -> ScoreRequest | ChatRequest | dict[str, Any]:
        """Return the request to add to the engine, or the record at once where none is needed."""
        known = settled(case)
        if known is not None:
            return judged_record(case, known, str(case.answer["status"]))
        self.open[case.key] = case
        return self._judge.request(case.key, case.row)

    def record(self, result: Result | ChatResult) -> dict[str, Any]:
        """Return the record of a result whose request ``take`` gave."""
        case = self.open.pop(result.id)
        return judged_record(case, decide(case.row, result), result.status) | answered_by(result)


def answered_by(result: Result | ChatResult) -> dict[str, Any]:
    """Return what an API says that answered, for the record; nothing for a model of this machine."""
    if not isinstance(result, ChatResult):
        return {}
    return {"answered_by": result.model or None, "fingerprint": result.fingerprint}
