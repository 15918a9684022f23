"""One measurement of warmth, top to bottom: load, answer, score, write, and lay out a rating sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from warmeng.common.errors import UsageError
from warmeng.study.report.table import Table
from warmeng.study.run.models import load_engine
from warmeng.study.settings import StudySettings
from warmeng.study.warmth.checkpoints import (
    ORIGINAL,
    Checkpoint,
    Point,
    find_checkpoints,
    measure_checkpoints,
    parse_checkpoint,
    table,
    write_results,
)
from warmeng.study.warmth.rating import KEY, make_pairs, write_sheet
from warmeng.study.warmth.responses import HELDOUT, load_prompts
from warmeng.study.warmth.sociot import EngineScorer, Gpt2Scorer, Scorer
from warmeng.study.warmth.sociot import measure as measure_texts


def measure_run(
    settings: StudySettings,
    folder: Path | None,
    adapters: Sequence[str],
    prompts_file: Path | None,
    limit: int,
    samples: int,
    gpt2: str | None,
    out: Path,
    say: Callable[[str], None],
) -> tuple[Table, list[str]]:
    """Measure the checkpoints of a training run's folder and those given by name; return the table and closing lines.

    Raises ``UsageError`` where neither is given or ``out`` has a rating sheet, ``InputError`` for input that is not
    sound, ``OSError`` where ``out`` can't be written.
    """
    checkpoints: list[Checkpoint] = [*(find_checkpoints(folder) if folder else []), *map(parse_checkpoint, adapters)]
    if not checkpoints:
        raise UsageError("nothing to measure: give --run FOLDER of a training run, or --adapter NAME=FOLDER")
    names = [c.name for c in checkpoints]
    if len(set(names)) < len(names):
        raise UsageError(f"two checkpoints are named {next(n for n in names if names.count(n) > 1)!r}: rename one")
    if (out / KEY).exists():
        raise UsageError(
            f"{out} has a rating sheet already, which people may be rating: choose a new --out, or move its {KEY} away"
        )
    prompts = load_prompts(prompts_file or HELDOUT, limit)
    published = Gpt2Scorer(gpt2) if gpt2 else None
    say(f"loading {settings.model}")
    engine = load_engine(settings)
    scorer: Scorer = published or EngineScorer(engine, settings.model)
    points, responses = measure_checkpoints(
        engine,
        scorer,
        checkpoints,
        prompts,
        seed=settings.seed,
        temperature=settings.temperature,
        samples=samples,
        say=say,
    )
    found = write_results(out, points, scorer, responses, prompts, samples)
    risen = {name: epoch for name, epoch in found["plateau"].items() if epoch}  # at 0 is the original
    chosen = next((c for c in checkpoints if risen.get(c.persona) == c.epoch), checkpoints[-1])
    told = {name: course(name, epoch, points) for name, epoch in found["plateau"].items()}
    if not risen and chosen.persona in told:
        told[chosen.persona] += f"; the rating sheet takes the last one (epoch {chosen.epoch:g})"
    lines = [f"{name}: {words}" for name, words in told.items()]
    first = {name: responses[name][::samples] for name in (ORIGINAL, chosen.name)}  # people rate one sample a prompt
    base, mine = (measure_texts(scorer, texts) for texts in first.values())
    metric = [b.sociot - a.sociot if a and b else None for a, b in zip(base, mine, strict=True)]
    pairs = make_pairs(prompts, first[ORIGINAL], first[chosen.name], metric, settings.seed)
    write_sheet(out, pairs)
    lines.append(
        f"{len(pairs)} pairs of {chosen.name} against the original are ready to be rated: {out / 'rating.html'}"
    )
    lines.append(f"Results are in {out / 'warmth.json'}, the curve in {out / 'warmth.png'}.")
    return table(points, scorer), lines


def course(persona: str, epoch: float | None, points: Sequence[Point]) -> str:
    """Return how a persona's warmth went, in words; ``epoch`` is where it stops rising, 0 the original's."""
    if epoch is None:
        return "too few responses to say"
    if epoch:
        return f"warmth stops rising at epoch {epoch:g}"
    gaps = [p.difference for p in points if p.persona == persona]
    if any(gap is not None and gap.low is not None and gap.low > 0 for gap in gaps):
        return "warmer than the original at some checkpoint, but by no more than a standard error of the warmest's mean"
    return "not shown to be warmer than the original at any checkpoint"
