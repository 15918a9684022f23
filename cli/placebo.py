"""``warmeng placebo``: adapters of random directions at a real adapter's distance from the base."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.cli.options import dtype_option, json_option, print_json, weights_option
from warmeng.common.errors import UsageError
from warmeng.common.log import say
from warmeng.common.terminal import echo
from warmeng.engine.settings import AUTO
from warmeng.study.settings import StudySettings


@click.command(
    epilog="""\b
Examples:
  warmeng placebo --like adapters/warm/epoch-2 --out placebo/
  warmeng placebo --like adapters/warm/epoch-2 --out placebo/ --seeds 0,1,2,3 --dry-run
  warmeng run --persona original --persona warm --persona placebo=placebo/seed-0
"""
)
@click.option("--like", required=True, type=click.Path(path_type=Path), help="The PEFT adapter that is imitated.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder: seed-0, seed-1, ... in it.")
@click.option("--seeds", default="0,1,2", show_default=True, metavar="N,N,...", help="One placebo each.")
@click.option("--model", default=StudySettings.model, show_default=True, help="The base.")
@click.option("--revision", help="Revision of a Hugging Face repository.")
@click.option("--prompts", type=click.Path(path_type=Path), help="JSON lines with prompt.  [default: 48 built-in ones]")
@click.option("--limit", type=click.IntRange(0), default=0, show_default=True, help="Prompts at most, 0 for all.")
@click.option("--noise-seed", type=click.IntRange(0), default=0, show_default=True, help="Of the responses.")
@click.option("--device", default=StudySettings.device, show_default=True, help="auto, cpu or cuda.")
@dtype_option
@weights_option
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@json_option
def placebo(
    like: Path,
    out: Path,
    seeds: str,
    model: str,
    revision: str | None,
    prompts: Path | None,
    limit: int,
    noise_seed: int,
    device: str,
    dtype: str | None,
    weights: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write adapters of random directions that are as far from the base as a real one is.

    Each has the rank, the targets and, module by module, the norm of the adapter --like. Its coefficient is then
    measured: the KL from the base on held-out prompts is the adapter's within 10 %. What a placebo does too is no
    effect of warmth. A placebo is a PEFT folder, with what was measured in its warmeng.json.
    """
    from warmeng.study.run.placebo import lines, make_placebos, plan

    chosen = _numbers(seeds)
    settings = StudySettings(
        model=model, revision=revision, seed=noise_seed, device=device, dtype=dtype or AUTO, weights=weights or AUTO
    )
    if dry_run:
        planned = plan(settings, like, chosen, out, prompts, limit)
        if as_json:
            print_json(dict(planned))
            return
        for what, told in planned:
            echo(f"{what:>10}: {told}")
        return
    made = make_placebos(settings, like, chosen, out, prompts, limit, say)
    if as_json:
        print_json(made)
        return
    for line in lines(made):
        echo(line)


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 9 for part in parts):
        raise UsageError(f"--seeds is {text!r}, expected whole numbers from 0 with commas between: 0,1,2")
    return [int(part) for part in parts]
