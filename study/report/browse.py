"""The answers of a run as text, comparison by comparison: what the page's browser shows, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from warmeng.common.errors import UsageError
from warmeng.study.report.browser import Place, Survey, flipped, in_order, place_of
from warmeng.study.report.page import load_run
from warmeng.study.results.answers import Answer, read_answers
from warmeng.study.results.items import Asked, read_items
from warmeng.study.results.records import FILE
from warmeng.study.results.shortfall import ALONE

# Comparisons whose answers are held at a time.
BATCH = 500


@dataclass(frozen=True)
class Wanted:
    """Which comparisons are shown; what is not given is no condition.

    ``flips``: a persona is right where the baseline is not, or the reverse. ``grade``: some persona's answer has it.
    """

    task: str | None = None
    item: str | None = None
    context: str | None = None
    belief: str | None = None
    grade: str | None = None
    flips: bool = False


def comparisons(folder: Path, wanted: Wanted, width: int = 100) -> Iterator[str]:
    """Yield a text for each comparison of a run, in the order of its tasks: question, answers, and all grades.

    Raises ``InputError`` for a folder that is no run, ``UsageError`` where nothing is as wanted.
    """
    run = load_run(folder)
    found = run.survey
    chosen = (place for place in found.places if _is_wanted(run.baseline, found, place, wanted))
    places = sorted(chosen, key=in_order(found))
    if not found.answers and run.manifest.margins:
        raise UsageError(f"{folder}: has no answers to read: {ALONE}")
    if not places:
        raise UsageError(f"{folder}: no answer is as wanted: leave a condition out")
    items = read_items(folder)
    composition = str(run.manifest.setting.get("composition") or "clean")
    for start in range(0, len(places), BATCH):
        batch: dict[Place, dict[str, Answer]] = {place: {} for place in places[start : start + BATCH]}
        for answer in read_answers(folder / FILE, found.verdicts, run.trust):
            if (answers := batch.get(place_of(answer))) is not None:
                answers[answer.persona] = answer
        for k, (place, answers) in enumerate(batch.items(), start=start + 1):
            asked = items.get(place[:2]) or Asked.unknown(*place[:2])
            ordered = [answers[name] for name in run.personas if name in answers]
            yield "\n".join(_lines(f"{k} of {len(places)}", place, asked, composition, ordered, width)) + "\n\n"


def _is_wanted(baseline: str, found: Survey, place: Place, wanted: Wanted) -> bool:
    task, item, context, belief, _, _ = place
    told = ((wanted.task, task), (wanted.item, item), (wanted.context, context), (wanted.belief, belief))
    grades = found.places[place].grades
    return (
        all(want is None or want == have for want, have in told)
        and (wanted.grade is None or wanted.grade in grades.values())
        and (not wanted.flips or flipped(grades, baseline))
    )


def _lines(
    number: str, place: Place, asked: Asked, composition: str, answers: list[Answer], width: int
) -> Iterator[str]:
    task, item, context, belief, framing, sample = place
    more = [f"framing {framing}"] * (framing != "plain") + [f"sample {sample}"] * (sample > 0)
    yield f"--- {number}: {task}/{item}, {', '.join((f'context {context}', f'belief {belief}', *more))}"
    if asked.item.question:
        yield from wrap(f"user: {asked.message(composition, context, belief, framing)}", width, subsequent_indent="  ")
        yield f"right: {asked.item.answer}; wrong: {asked.item.wrong or '-'}"
    for a in answers:
        whose = f" ({a.which})" if a.which else ""
        said = a.text if a.text is not None else ", ".join(f"{n} {v:.2f}" for n, v in (a.labels or {}).items())
        cut = " [cut]" if a.length == "cut" else ""
        yield from wrap(f"{a.persona}: {a.grade}{whose}: {' '.join(said.split())}{cut}", width, subsequent_indent="  ")
        if a.reason:
            yield f"  because: {a.reason}"
