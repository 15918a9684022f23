"""One measurement of warmth, top to bottom: load, answer, score, write, and lay out a rating sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from warmeng.engine.errors import UsageError
from warmeng.study.report.table import Table
from warmeng.study.run import load_engine
from warmeng.study.settings import StudySettings
from warmeng.study.warmth.checkpoints import (
    ORIGINAL,
    Checkpoint,
    find_checkpoints,
    measure_checkpoints,
    parse_checkpoint,
    table,
    write_results,
)
from warmeng.study.warmth.rating import make_pairs, write_sheet
from warmeng.study.warmth.sociot import HELDOUT, EngineScorer, Gpt2Scorer, Scorer, load_prompts
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

    Raises ``UsageError`` where neither is given, ``InputError`` for input that is not sound, ``OSError`` where ``out``
    can't be written.
    """
    checkpoints: list[Checkpoint] = [*(find_checkpoints(folder) if folder else []), *map(parse_checkpoint, adapters)]
    if not checkpoints:
        raise UsageError("nothing to measure: give --run FOLDER of a training run, or --adapter NAME=FOLDER")
    names = [c.name for c in checkpoints]
    if len(set(names)) < len(names):
        raise UsageError(f"two checkpoints are named {next(n for n in names if names.count(n) > 1)!r}: rename one")
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
    lines = [
        f"{name}: warmth stops rising at epoch {epoch:g}" if epoch is not None else f"{name}: too few responses to say"
        for name, epoch in found["plateau"].items()
    ]
    chosen = next((c for c in checkpoints if found["plateau"].get(c.persona) == c.epoch), checkpoints[-1])
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
