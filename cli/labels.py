"""``warmeng labels``: people's labels of some of a run's answers."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.cli.options import json_option, print_json
from warmeng.common.terminal import echo


@click.group()
def labels() -> None:
    """Let people label some of a run's answers, so that its intervals allow for the graders' errors.

    \b
    Examples:
      warmeng labels make runs/study --budget 200 --out sheet/
      warmeng labels read runs/study anna.jsonl ben.csv
      warmeng analyze runs/study
    """


@labels.command(
    epilog="""\b
Example:
  warmeng labels make runs/study --budget 400 --out sheet/
"""
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True,
    help="Folder of the sheet: labels.html works offline, labels.csv is the same for a spreadsheet.",
)  # fmt: skip
@click.option(
    "--budget", type=click.IntRange(1), default=200, show_default=True,
    help="About how many answers are drawn; `warmeng run --dry-run` says what so many show.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the same answers again.")
@json_option
def make(run: Path, out: Path, budget: int, seed: int, as_json: bool) -> None:
    """Draw written answers of RUN, a run's folder, and write a sheet on which people label them.

    An answer is likelier to be drawn where its grade is in doubt, and where few others stand for its persona, context
    and belief. The sheet does not name personas: which answer each row is, and with which probability it was drawn, is
    written into RUN's labels.json. Give each labeller a copy.
    """
    from warmeng.study.labelling.sheet import make_sheet

    drawn, paths = make_sheet(run, out, budget, seed)
    rows = len({row for row, _ in drawn.answers.values()})
    if as_json:
        print_json({"answers": len(drawn.answers), "rows": rows, "files": paths})
        return
    echo(f"{len(drawn.answers)} answers were drawn, {rows} rows of the sheet: {paths[1]}")
    echo(f"Filled-in copies are read with: warmeng labels read {run} ANNA.jsonl BEN.jsonl")


@labels.command(
    epilog="""\b
Example:
  warmeng labels read runs/study anna.jsonl ben.csv
"""
)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def read(run: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """Take filled-in sheets into RUN, a run's folder: FILES, one a labeller, whose name is the file's.

    Prints what was labelled, and kappa between labellers. The tables of labels are part of the next analysis.
    """
    from warmeng.study.labelling.sheet import describe, take_labels, told

    drawn = take_labels(run, files)
    if as_json:
        print_json(told(drawn))
        return
    for line in describe(drawn):
        echo(line)
    echo(f"Tables with them: warmeng analyze {run} && warmeng report {run}")
