"""``warmeng browse``: a run's answers in the terminal."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from warmeng.cli.options import completing
from warmeng.common.terminal import echo, printable
from warmeng.study.grading.grade import GRADES


@click.command(
    epilog="""\b
Examples:
  warmeng browse runs/3f9c2a10
  warmeng browse runs/3f9c2a10 --flips --belief wrong
  warmeng browse runs/3f9c2a10 --task facts --grade unclear
"""
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--task", help="One task's.")
@click.option("--item", help="One question's, by its id.")
@click.option("--context", shell_complete=completing("contexts"), help="Those in one context.")
@click.option("--belief", shell_complete=completing("beliefs"), help="Those under one belief.")
@click.option("--grade", type=click.Choice(GRADES), help="Those where some persona has this grade.")
@click.option("--flips", is_flag=True, help="Those where a persona is right and the baseline isn't, or the reverse.")
def browse(
    run: Path,
    task: str | None,
    item: str | None,
    context: str | None,
    belief: str | None,
    grade: str | None,
    flips: bool,
) -> None:
    """Read the answers of RUN in the terminal: each question with what every persona answered, and the grades.

    On a terminal through the pager of $PAGER (less, where nothing is set: / searches, q ends), else as plain text. The
    report's page has the same with filters.
    """
    from warmeng.study.report.browse import Wanted, comparisons

    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    texts = comparisons(run, Wanted(task, item, context, belief, grade, flips), width)
    if sys.stdout.isatty():
        # The first one before the pager: what is refused is told in one line.
        first = next(texts)
        click.echo_via_pager(printable(text) for part in ((first,), texts) for text in part)
    else:
        for text in texts:
            echo(text, nl=False)
