"""A short run of a sample of the plan, and what the whole plan will take at the speeds it shows.

Answers are generated many at once, so the first and the last of them come at other speeds than those between: the rate
is taken from the middle half of the sample, and the beginning and the end are counted once. Likelihoods have no such
tail: their rate is that of prompt tokens which no earlier prompt shared.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from warmeng.engine.request import GenerateRequest, GenerateResult, Request, Result, ScoreRequest
from warmeng.fleet.shards import MOST as SHARD
from warmeng.study.estimate import Estimate
from warmeng.study.grading.judge import Judge
from warmeng.study.grading.rows import row_of
from warmeng.study.plan import Planner, Study
from warmeng.study.run.energy import EnergyMeter

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine

# Generated answers of the sample: the engine runs about a hundred at once.
ANSWERS = 240
SCORES = 160  # likelihoods of the sample
# Requests asked first: a slow machine gets no further than these.
WAVES = (8, 32)
# Of the sample's time: results whose middle half took less were asked together.
ONE_BATCH = 0.1
# That a further wave of requests must not be expected to exceed.
SECONDS = 45.0


@dataclass(frozen=True)
class Probe:
    """What a sample showed. Rates are a second; ``None`` where the sample had nothing of the kind."""

    seconds: float  # that the probe took
    answers: int
    answer_seconds: float  # of the sampled answers, first to last
    answer_rate: float | None  # finished answers in steady state
    output_tokens: float  # mean of an answer
    prompt_rate: float | None  # unshared prompt tokens of likelihoods
    # Judgments by the base, which the run asks for where it is a judge.
    judge_rate: float | None
    joules: float | None

    def predict(self, plan: Estimate, judged: int = 0, workers: int = 1) -> float:
        """Return the seconds that a plan's requests, and so many judgments by the base, take; loading excluded.

        ``workers``, each as fast as this machine, divide all between them. Their first and last answers take as long
        as those of one.
        """
        total = 0.0
        if plan.generations and self.answer_rate:
            total += self.answer_seconds + max(0.0, plan.generations / workers - self.answers) / self.answer_rate
        if plan.scores and self.prompt_rate:
            total += plan.new_score_tokens / workers / self.prompt_rate
        if judged and self.judge_rate:
            total += judged / workers / self.judge_rate
        return total

    def useful(self, plan: Estimate, judged: int = 0) -> int:
        """Return how many workers help, a power of two: twice as many would save less than a tenth of the time, or have
        less than a shard each.
        """
        workers = 1
        while 2 * workers * SHARD <= plan.generations + plan.scores:
            if self.predict(plan, judged, 2 * workers) > 0.9 * self.predict(plan, judged, workers):
                break
            workers *= 2
        return workers

    def energy(self, seconds: float) -> float | None:
        """Return the joules of so many seconds at the power that the probe drew."""
        return None if self.joules is None else self.joules / self.seconds * seconds


def sample(study: Study, answers: int = ANSWERS, scores: int = SCORES) -> Study:
    """Return the study with so few items that about so many requests remain: whole items, all their cells and personas.

    What an item's prompts share, they share in the sample too.
    """
    parts = {task.name: replace(study, tasks=(task,)) for task in study.tasks}
    # A choice that is asked alone has scores and no answers.
    sizes = {name: part.size or part.scores_beside for name, part in parts.items()}
    written = {task.name: task.generated and study.samples(task) > 0 for task in study.tasks}
    kept = []
    for task in study.tasks:
        alike = sum(size for name, size in sizes.items() if written[name] == written[task.name])
        wanted = (answers if written[task.name] else scores) * sizes[task.name] / alike
        each = sizes[task.name] / len(task.items)
        kept.append(task.sample(max(1, round(wanted / each)), study.settings.seed + 1))
    return replace(study, tasks=tuple(kept))


def run_probe(
    engine: Engine, study: Study, *, judge: bool = False, device: str = "cpu", seconds: float = SECONDS
) -> Probe:
    """Answer a sample of a study, judge it where asked to, and return the speeds. The engine ends with nothing left."""
    meter = EnergyMeter(device)
    began = time.monotonic()
    small = list(Planner(sample(study), engine.tokenizer, engine.config.stop_token_ids, {}, {}))
    scored = _answer(engine, [p.request for p in small if isinstance(p.request, ScoreRequest)], seconds)
    generated = {p.key: p for p in small if isinstance(p.request, GenerateRequest)}
    answered = _answer(engine, [cast(Request, p.request) for p in generated.values()], seconds)
    answers = [r for r in answered.results if isinstance(r, GenerateResult)]
    judged = _Wave()
    if judge and answers:
        judges = Judge(engine.tokenizer)
        rows = [row_of(r.id, generated[r.id].item, r.text, generated[r.id].cell.belief) for r in answers]
        judged = _answer(engine, [judges.request(f"judge-{row.where}", row) for row in rows], seconds)
    return Probe(
        seconds=time.monotonic() - began,
        answers=len(answers),
        answer_seconds=answered.times[-1] if answered.times else 0.0,
        answer_rate=_steady(answered.times),
        output_tokens=sum(len(r.token_ids) for r in answers) / len(answers) if answers else 0.0,
        prompt_rate=scored.new_tokens / scored.times[-1] if scored.times else None,
        judge_rate=len(judged.times) / judged.times[-1] if judged.times else None,
        joules=meter.joules(),
    )


@dataclass(frozen=True)
class _Wave:
    """Results of requests that were asked together, when each came in seconds, and their unshared prompt tokens."""

    times: Sequence[float] = ()
    results: Sequence[Result] = ()
    new_tokens: int = 0


def _answer(engine: Engine, requests: Sequence[Request], seconds: float) -> _Wave:
    """Ask the requests in growing waves, each to its end, for as long as a wave promises to take no more than
    ``seconds``; return the last one, which is the largest.
    """
    last = _Wave()
    start = 0
    for size in (*WAVES, len(requests)):
        wave = requests[start : start + size]
        expected = last.times[-1] / len(last.times) * len(wave) if last.times else 0.0
        if not wave or expected > seconds:
            break
        start += len(wave)
        began, before = time.monotonic(), _new_tokens(engine)
        for request in wave:
            engine.add(request)
        times: list[float] = []
        results: list[Result] = []
        for result in engine.results():
            times.append(time.monotonic() - began)
            results.append(result)
        last = _Wave(times, results, _new_tokens(engine) - before)
    return last


def _steady(times: Sequence[float]) -> float | None:
    """Return the rate over the middle half of the results, or over all where they are few or came in one batch.

    Answers of one batch that reach the token limit end in the same step: the time between them tells nothing.
    """
    n = len(times)
    if not n or times[-1] <= 0:
        return None
    low, high = n // 4, (3 * n) // 4
    span = times[high] - times[low]
    return (high - low) / span if n >= 16 and span > ONE_BATCH * times[-1] else n / times[-1]


def _new_tokens(engine: Engine) -> int:
    return engine.stats.prompt_tokens - engine.stats.cached_tokens
