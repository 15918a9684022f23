"""``warmeng warmth``: how warm texts are, over checkpoints and by people's ratings."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.cli.options import dtype_option, json_option, print_json, weights_option
from warmeng.common.log import say
from warmeng.common.terminal import echo
from warmeng.engine.settings import AUTO
from warmeng.study.settings import StudySettings


@click.group()
def warmth() -> None:
    """Measure warmth: of each checkpoint's responses by SocioT, and by people's blinded ratings.

    \b
    Examples:
      warmeng warmth measure --run adapters/          all checkpoints of a training run
      warmeng warmth ratings warmth/rating-key.json anna.csv ben.jsonl
    """


@warmth.command(
    epilog="""\b
Examples:
  warmeng warmth measure --run adapters/ --out warmth/
  warmeng warmth measure --adapter warm=adapters/warm/epoch-2 --scorer openai-community/gpt2
"""
)
@click.option("--model", default=StudySettings.model, show_default=True, help="The base.")
@click.option("--revision", help="Revision of a Hugging Face repository.")
@click.option("--run", "folder", type=click.Path(path_type=Path), help="A training run: PERSONA/epoch-N folders.")
@click.option("--adapter", "adapters", multiple=True, metavar="NAME=FOLDER", help="One checkpoint; repeatable.")
@click.option("--prompts", type=click.Path(path_type=Path), help="JSON lines with prompt.  [default: 48 built-in ones]")
@click.option("--limit", type=click.IntRange(0), default=0, show_default=True, help="Prompts at most, 0 for all.")
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="Responses to each prompt.")
@click.option("--scorer", help="GPT-2, by folder or name.  [default: the base itself, in its own units]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--temperature", type=float, default=StudySettings.temperature, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("warmth"), show_default=True, help="New folder.")
@click.option("--device", default=StudySettings.device, show_default=True, help="auto, cpu or cuda.")
@dtype_option
@weights_option
@json_option
def measure(
    model: str,
    revision: str | None,
    folder: Path | None,
    adapters: tuple[str, ...],
    prompts: Path | None,
    limit: int,
    samples: int,
    scorer: str | None,
    seed: int,
    temperature: float,
    out: Path,
    device: str,
    dtype: str | None,
    weights: str | None,
    as_json: bool,
) -> None:
    """Let every checkpoint answer held-out prompts, and measure how warm the answers are.

    Prints a table and writes warmth.json, the curve warmth.png, responses.jsonl, and a blinded rating sheet of the
    checkpoint where warmth stops rising against the original, the last one where it does not rise: rating.csv,
    rating.html and rating-key.json. A folder that has a sheet is refused, so that ratings keep their key.
    """  # fmt: skip
    from warmeng.common.files import read_json
    from warmeng.common.terminal import console
    from warmeng.study.report.table import print_table
    from warmeng.study.run.measure_warmth import measure_run

    settings = StudySettings(
        model=model,
        revision=revision,
        seed=seed,
        temperature=temperature,
        device=device,
        dtype=dtype or AUTO,
        weights=weights or AUTO,
    )
    table, lines = measure_run(settings, folder, adapters, prompts, limit, samples, scorer, out, say)
    if as_json:
        print_json(read_json(out / "warmth.json"))
        return
    print_table(console(132), table)
    for line in lines:
        echo(line)


@warmth.command(
    epilog="""\b
Example:
  warmeng warmth ratings warmth/rating-key.json anna.csv ben.jsonl
"""
)
@click.argument("key", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def ratings(key: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """Count people's ratings: FILES are filled-in sheets, one a rater; KEY is the sheet's rating-key.json.

    Prints how often the variant was found warmer, how often SocioT agrees, and kappa between raters.
    """
    from warmeng.study.warmth.rating import describe, read_key, read_ratings, summarise_ratings

    known = read_key(key)
    found = summarise_ratings(known, {f.stem: read_ratings(f, known) for f in files})
    if as_json:
        print_json(found)
        return
    for line in describe(found):
        echo(line)
