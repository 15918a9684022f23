"""A short run of a sample of the plan, and what the whole plan will take at the speeds it shows.

Answers are generated many at once, so the first and the last of them come at other speeds than those between: the rate
is taken from the middle half of the sample, and the beginning and the end are counted once. Likelihoods have no such
tail: their rate is that of prompt tokens which no earlier prompt shared.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from warmeng.engine.request import GenerateRequest, GenerateResult, Request, Result, ScoreRequest
from warmeng.study.backend import EngineLike
from warmeng.study.energy import EnergyMeter
from warmeng.study.grading.judge import Judge
from warmeng.study.grading.rows import row_of
from warmeng.study.plan import Estimate, Planner, Study

ANSWERS = 240  # generated answers of the sample: the engine runs about a hundred at once
SCORES = 160  # likelihoods of the sample
SECONDS = 45.0  # after which each half of the probe is cut short


@dataclass(frozen=True)
class Probe:
    """What a sample showed. Rates are a second; ``None`` where the sample had nothing of the kind."""

    seconds: float  # that the probe took
    answers: int
    answer_seconds: float  # of the sampled answers, first to last
    answer_rate: float | None  # finished answers in steady state
    output_tokens: float  # mean of an answer
    prompt_rate: float | None  # unshared prompt tokens of likelihoods
    judge_rate: float | None  # judgments by the base, which the run asks for where it is a judge
    joules: float | None

    def predict(self, plan: Estimate, judged: int = 0) -> float:
        """Return the seconds that a plan's requests, and so many judgments by the base, take; loading excluded."""
        total = 0.0
        if plan.generations and self.answer_rate:
            total += self.answer_seconds + max(0, plan.generations - self.answers) / self.answer_rate
        if plan.scores and self.prompt_rate:
            total += plan.new_score_tokens / self.prompt_rate
        if judged and self.judge_rate:
            total += judged / self.judge_rate
        return total

    def energy(self, seconds: float) -> float | None:
        """Return the joules of so many seconds at the power that the probe drew."""
        return None if self.joules is None else self.joules / self.seconds * seconds


def sample(study: Study, answers: int = ANSWERS, scores: int = SCORES) -> Study:
    """Return the study with so few items that about so many requests remain: whole items, all their cells and personas.

    What an item's prompts share, they share in the sample too.
    """
    sizes = {task.name: replace(study, tasks=(task,)).size for task in study.tasks}
    kept = []
    for task in study.tasks:
        alike = sum(sizes[t.name] for t in study.tasks if t.generated == task.generated)
        wanted = (answers if task.generated else scores) * sizes[task.name] / alike
        each = sizes[task.name] / len(task.items)
        kept.append(task.sample(max(1, round(wanted / each)), study.settings.seed + 1))
    return replace(study, tasks=tuple(kept))


def run_probe(
    engine: EngineLike, study: Study, *, judge: bool = False, device: str = "cpu", seconds: float = SECONDS
) -> Probe:
    """Answer a sample of a study, judge it where asked to, and return the speeds.

    An engine whose probe was cut short has requests left in it: it is of no further use.
    """
    meter = EnergyMeter(device)
    began = time.monotonic()
    small = list(Planner(sample(study), engine.tokenizer, engine.config.stop_token_ids, {}, {}))
    before = _new_tokens(engine)
    times, _ = _answer(engine, [p.request for p in small if isinstance(p.request, ScoreRequest)], seconds)
    rate = (_new_tokens(engine) - before) / times[-1] if times else None
    generated = {p.key: p for p in small if isinstance(p.request, GenerateRequest)}
    answer_times, results = _answer(engine, [p.request for p in generated.values()], seconds)
    answers = [r for r in results if isinstance(r, GenerateResult)]
    judge_times: list[float] = []
    if judge and len(answers) == len(generated):
        judges = Judge(engine.tokenizer)
        rows = [row_of(r.id, generated[r.id].item, r.text, generated[r.id].cell.belief) for r in answers]
        judge_times, _ = _answer(engine, [judges.request(f"judge-{row.where}", row) for row in rows], seconds)
    return Probe(
        seconds=time.monotonic() - began,
        answers=len(answers),
        answer_seconds=answer_times[-1] if answer_times else 0.0,
        answer_rate=_steady(answer_times),
        output_tokens=sum(len(r.token_ids) for r in answers) / len(answers) if answers else 0.0,
        prompt_rate=rate,
        judge_rate=len(judge_times) / judge_times[-1] if judge_times else None,
        joules=meter.joules(),
    )


def _answer(engine: EngineLike, requests: Sequence[Request], seconds: float) -> tuple[list[float], list[Result]]:
    """Return when each result came, in seconds from the start, and the results."""
    began = time.monotonic()
    for request in requests:
        engine.add(request)
    times: list[float] = []
    results: list[Result] = []
    for result in engine.results() if requests else ():
        times.append(time.monotonic() - began)
        results.append(result)
        if times[-1] > seconds:
            break
    return times, results


def _steady(times: Sequence[float]) -> float | None:
    """Return the rate over the middle half of the results, or over all where they are few."""
    n = len(times)
    if n < 16:
        return n / times[-1] if n and times[-1] > 0 else None
    low, high = n // 4, (3 * n) // 4
    span = times[high] - times[low]
    return (high - low) / span if span > 0 else n / max(times[-1], 1e-9)


def _new_tokens(engine: EngineLike) -> int:
    return int(engine.stats.prompt_tokens) - int(getattr(engine.stats, "cached_tokens", 0))
