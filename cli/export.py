"""``warmeng export``: a run's answers for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.common.terminal import echo

FORMATS = ("authors", "csv", "margins", "parquet", "lm-eval")


@click.command(
    epilog="""\b
Examples:
  warmeng export runs/3f9c2a10 --format csv
  warmeng export runs/3f9c2a10 --format authors --out llama_70b     for scripts that read the authors' files
  warmeng export runs/3f9c2a10 --format margins                     log-probabilities of right and wrong answers
  warmeng export runs/3f9c2a10 --format lm-eval
  warmeng export runs/3f9c2a10 --format parquet --out answers.parquet
"""
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), default="csv", show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A file (csv, margins, parquet) or a folder (authors, lm-eval).  [default: RUN/exports/...]",
)
def export(run: Path, form: str, out: Path | None) -> int:
    """Write the answers of RUN in another format.

    authors: the columns of the paper's files, PERSONA/TASK_PERSONA_outputs.csv. csv and parquet: every answer with its
    grades, one a row. margins: CSV, a row for each score of a right and a wrong answer, in nats. lm-eval:
    results_TIME.json and samples_TASK_TIME.jsonl for each persona, as lm-evaluation-harness writes.
    Where the run lacks answers, the others are written, how many are missing is said on standard error, and the exit
    code is 70.
    """
    from warmeng.study.export.export import export_run
    from warmeng.study.results.shortfall import INCOMPLETE, shortfall

    for line in export_run(run, form, out):
        echo(line)
    if missing := shortfall(run):
        echo(missing, err=True)
    return INCOMPLETE if missing else 0
