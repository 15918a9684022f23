"""Asks an engine what has no record yet, and records results as they come: answers, and judgments of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any, cast

from warmeng.common.interrupts import interruptible
from warmeng.common.journal import Journal
from warmeng.common.progress import Pace, Progress
from warmeng.engine import work as engine_work
from warmeng.engine.request import GenerateResult, Result, ScoreResult
from warmeng.fleet.engine import FleetEngine
from warmeng.remote.request import ChatRequest, ChatResult
from warmeng.study.grading.exact import grade_answer, grade_scores
from warmeng.study.grading.labels import margin_parts, margin_places
from warmeng.study.grading.letters import grade_letter, grade_told
from warmeng.study.plan import Planned, Study
from warmeng.study.prompts import CHOICE
from warmeng.study.run.energy import EnergyMeter
from warmeng.study.run.judges import (
    JUDGE,
    Given,
    JudgeClient,
    JudgeSpec,
    JudgmentTask,
    answered_by,
    is_judged,
    judgment_task,
    pending,
)
from warmeng.study.run.models import AnyEngine

# Requests that the engine holds at once, which bounds memory: each result makes room for another.
MOST_OPEN = 16384
# Of these, those that a fleet is given at a time.
STEP = 4096
# Of an ordinary judgment's prompt, without the rubric that all share.
JUDGE_TOKENS = 200

# Records between readings of the energy counters, which wrap around within the hour.
POLL = 256


def count_done(
    plan: Iterable[Planned], judges: Sequence[JudgeSpec], done: Collection[str]
) -> tuple[Counter[str], Counter[str], float]:
    """Return the plan's records and those that are done, by persona or judge, and the answers' work that is left."""
    planned_, done_ = Counter[str](), Counter[str]()
    left = 0.0
    for planned in plan:
        persona = planned.cell.persona
        planned_[persona] += 1
        if planned.key in done:
            done_[persona] += 1
        else:
            left += work(planned)
        if is_judged(planned):
            for judge in judges:
                name = JUDGE + judge.name
                planned_[name] += 1
                done_[name] += judge.key(planned.key) in done
    return planned_, done_, left


class Display:
    """Shows one model's part: bars by persona or judge, its engine's speed, and the time left by the work done."""

    def __init__(
        self,
        progress: Progress,
        engine: AnyEngine,
        planned: Mapping[str, int],
        done: Mapping[str, int],
        work: float,
    ) -> None:
        """``work`` is what is left, in the unit of ``advance``."""
        self._progress, self._stats, self._pace = progress, engine.stats, Pace()
        self._work, self._worked = work, 0.0
        self._before = self._stats.output_tokens, self._stats.prompt_tokens
        judges = sum(name.startswith(JUDGE) for name in planned)
        if judges == len(planned):
            self._what = "judgments"
        else:
            self._what = "answers, scores and judgments" if judges else "answers and scores"
        progress.start(planned, done, self.status)

    def advance(self, name: str, work: float) -> None:
        """One answer or judgment is recorded."""
        self._worked += work
        self._progress.advance(name)

    def status(self) -> str:
        """Return speed and time left."""
        seconds = self._pace.seconds
        output = (self._stats.output_tokens - self._before[0]) / seconds
        prompt = (self._stats.prompt_tokens - self._before[1]) / seconds
        left = self._pace.left(self._worked, self._work)
        return f"{self._what}, {output:.0f} output and {prompt:.0f} prompt tokens/s{left}"


def ask(
    engine: AnyEngine,
    plan: Iterable[Planned],
    base: JudgeSpec | None,
    study: Study,
    records: Journal,
    display: Display,
    meter: EnergyMeter,
    continued: bool,
) -> bool:
    """Ask every request that has no record; return whether an interrupt ended it early.

    Each answer's judging request by ``base`` joins the same engine as soon as the answer is there.
    """
    client = JudgeClient(base, engine) if base is not None else None
    jobs: Iterator[Planned | JudgmentTask] = (planned for planned in plan if planned.key not in records.done)
    # Judgments of answers from before the interruption come first.
    if client is not None and continued:
        jobs = itertools.chain(pending(records.path, client.spec, study.tasks, records.done), jobs)
    asker = _Asker(engine, client, records, display, meter)
    with interruptible(asker.longest_step) as interrupted:
        return asker.run(jobs, interrupted)


def judge(
    engine: AnyEngine,
    spec: JudgeSpec,
    study: Study,
    records: Journal,
    display: Display,
    meter: EnergyMeter,
) -> bool:
    """Judge every answer that a judge of its own has not judged yet; return whether an interrupt ended it early."""
    asker = _Asker(engine, JudgeClient(spec, engine), records, display, meter)
    owed = pending(records.path, spec, study.tasks, records.done)
    with interruptible(asker.longest_step) as interrupted:
        return asker.run(owed, interrupted)


class _Asker:
    """Runs requests through one engine, a bounded number at once."""

    def __init__(
        self, engine: AnyEngine, client: JudgeClient | None, records: Journal, display: Display, meter: EnergyMeter
    ) -> None:
        # Its requests come from a plan, or a judge, that is made for it.
        self.engine = cast(Any, engine)
        self.client, self.records, self.display = client, records, display
        self.meter, self.count = meter, 0
        # Workers begin with what there is, while the rest of a large plan is made.
        self.most = self.step = MOST_OPEN
        if isinstance(self.engine, FleetEngine):
            self.most, self.step = max(MOST_OPEN, self.engine.most_open), STEP
        self.asked: dict[str, Planned] = {}

    def run(self, jobs: Iterable[Planned | JudgmentTask], interrupted: Sequence[int]) -> bool:
        """Answer what is planned and judge cases; return whether an interrupt came."""
        left = iter(jobs)
        while self._fill(left, interrupted):
            # The engine stands still once this ends, whatever ends it.
            with closing(self.engine.results(interrupted)) as results:
                for result in results:
                    self._take(result)
                    if interrupted:
                        return True
                    self._fill(left, interrupted)
            if interrupted:
                break
            assert not self.asked, "the engine answers every request"
        return bool(interrupted)

    def longest_step(self) -> float:
        """Return the seconds that the longest step took: an interrupt lets one end. Elsewhere nothing is waited for."""
        return float(getattr(self.engine.stats, "longest_step", 0.0))

    def _fill(self, left: Iterator[Planned | JudgmentTask], interrupted: Sequence[int]) -> bool:
        """Give the engine as many requests as it may hold; return whether it holds any, unless an interrupt came."""
        for _ in range(self.step):
            if interrupted:
                return False
            held = len(self.asked) + (self.client.held if self.client is not None else 0)
            job = next(left, None) if held < self.most else None
            if job is None:
                return held > 0
            if isinstance(job, JudgmentTask):
                self._judge(job, urgent=False)
            else:
                self.asked[job.key] = job
                self.engine.add(job.request)
        return True

    def _take(self, result: Result | ChatResult) -> None:
        planned = self.asked.pop(result.id, None)
        if planned is None:
            assert self.client is not None, "only judgments are asked beside what is planned"
            self._give(self.client.receive(result), urgent=True)
            return
        record = make_record(planned, result)
        self._record(record, planned.cell.persona, work(planned))
        if self.client is not None and is_judged(planned):
            self._judge(judgment_task(self.client.spec, record, planned.item), urgent=True)

    def _judge(self, case: JudgmentTask, urgent: bool) -> None:
        assert self.client is not None, "cases come from a client's judge"
        self._give(self.client.take(case), urgent)

    def _give(self, given: Given, urgent: bool) -> None:
        assert self.client is not None, "what is given comes from a client's judge"
        for one in given:
            if isinstance(one, dict):
                self._record(one, JUDGE + self.client.spec.name, judging_work())
            else:
                self.engine.add(one, urgent=urgent)

    def _record(self, record: Mapping[str, Any], who: str, done: float) -> None:
        self.records.append(record)
        self.display.advance(who, done)
        self.count += 1
        if self.count % POLL == 0:
            self.meter.joules()


def make_record(planned: Planned, result: Result | ChatResult) -> dict[str, Any]:
    """Grade a finished answer by its exact rule and return its record; a score that is no answer has no grade.

    Nothing in it depends on time, or on what else was in the batch.
    """
    return {
        "key": planned.key,
        **asdict(planned.cell),
        "item": planned.item.id,
        "sample": planned.sample,
        "status": result.status,
        **(
            _told(planned, result)
            if isinstance(result, ChatResult)
            else _margin(planned, result)
            if planned.margin
            else _answer(planned, result)
        ),
        "prompt_tokens": result.prompt_tokens,
    }


def _told(planned: Planned, result: ChatResult) -> dict[str, Any]:
    """Return what an API answered: a text, or the letters' probabilities as far as it tells them."""
    request, item, grading = planned.request, planned.item, planned.task.grading
    if isinstance(request, ChatRequest) and request.labels:
        grade, numbers = grade_told(item, result)
        return {**asdict(grade), "kind": "score", "labels": numbers, **answered_by(result)}
    if grading == "options":
        grade = grade_letter(item, result)
    else:
        grade = grade_answer(item, result, planned.cell.belief, grading)
    written = {"kind": "answer", "text": result.text, "finish": result.finish_reason, "tokens": result.tokens}
    return {**asdict(grade), **written, **answered_by(result)}


def _answer(planned: Planned, result: Result) -> dict[str, Any]:
    if isinstance(result, GenerateResult):
        grade = grade_answer(planned.item, result, planned.cell.belief, planned.task.grading)
        written = {"kind": "answer", "text": result.text, "finish": result.finish_reason}
        projected = {"projections": dict(result.projections)} if result.projections else {}
        return {**asdict(grade), **written, "tokens": len(result.token_ids), **projected}
    grade, numbers = grade_scores(planned.item, planned.task.grading, result)
    return {**asdict(grade), "kind": "score", "labels": numbers, **_parts(planned, result)}


def _margin(planned: Planned, result: Result) -> dict[str, Any]:
    assert isinstance(result, ScoreResult), "margins are scored"
    style = {"asking": CHOICE, "order": planned.order} if planned.order else {}
    return {"kind": "margin", **style, **_parts(planned, result)}


def _parts(planned: Planned, result: ScoreResult) -> dict[str, Any]:
    """Return what the margin of a right and a wrong answer is computed from; nothing where there are not both."""
    if not planned.owns or result.status != "ok":
        return {}
    places = (0, 1) if planned.margin else margin_places(planned.item, planned.task.grading)
    parts = margin_parts(planned.owns, [result.token_logprobs[k] for k in places])
    return {} if parts is None else {"margin": parts}


def work(planned: Planned) -> float:
    """Seconds that a request takes at the plan's rates: only its proportions matter."""
    # What takes time of an API is that it is one more request.
    return 1.0 if isinstance(planned.request, ChatRequest) else engine_work.work(planned.request)


def judging_work() -> float:
    """Seconds that a judgment takes at the plan's rates."""
    return JUDGE_TOKENS / engine_work.PROMPT_RATE
