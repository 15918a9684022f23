"""``warmeng audit``: whether a run is what it says it is."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.cli.options import json_option, print_json
from warmeng.common.terminal import echo

DIFFERS = 1


@click.command(
    epilog="""\b
Examples:
  warmeng audit runs/study                make 459 answers again, and all tables
  warmeng audit runs/study --sample 0     the files and tables alone: needs no model
"""
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--sample", type=click.IntRange(min=0), default=459, show_default=True,
    help="How many answers are made again, drawn at random; with none of 459 different, fewer than 1 % differ with "
    "99 % confidence.",
)  # fmt: skip
@click.option("--seed", type=int, help="Draws the same answers again.  [default: others each time]")
@json_option
def audit(run: Path, sample: int, seed: int | None, as_json: bool) -> int:
    """Make a finished run again in part, and say where it differs from its files.

    RUN is a run's folder. Its files are compared with each other, its tables computed again from the records, and a
    sample of its answers made again by the same models, which are compared with the manifest first: weights, adapters,
    tokenizer, template, prompts and processor. Exit code 0: nothing differs; 1: something does, by place.
    """
    from warmeng.common.progress import for_stderr
    from warmeng.study.run.audit import MOST
    from warmeng.study.run.audit import audit as check

    found = check(run, sample, for_stderr(), seed)
    if as_json:
        print_json(found)
        return DIFFERS if found.differences else 0
    for line in found.compared:
        echo(f"compared: {line}")
    for line in found.differences[:MOST]:
        echo(f"differs: {line}")
    if len(found.differences) > MOST:
        echo(f"and {len(found.differences) - MOST} differences more")
    if found.differences:
        return DIFFERS
    most = found.most_differing
    told = "" if most is None else f"; with 99 % confidence fewer than {most:.2%} of all {found.of} do" if most else ""
    made = f"{found.answers} answers made again, none differs{told}" if found.answers else "no answer was made again"
    echo(f"nothing differs: {made}")
    return 0
