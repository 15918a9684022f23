"""``warmeng report``: the page that tells a run."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.common.terminal import echo


@click.command(
    epilog="""\b
Examples:
  warmeng report runs/3f9c2a10
  warmeng analyze runs/3f9c2a10 --rule paper && warmeng report runs/3f9c2a10
  warmeng report /data/theirs/3f9c2a10 --out mine      a run whose folder can only be read
"""
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write into.  [default: the run folder]")
def report(run: Path, out: Path | None) -> int:
    """Write RUN/report.html, one file that opens offline, and its figures as PNG and SVG.

    It shows the latest analysis, in --out or of the run; a run that was not analysed yet is analysed first. Where the
    run lacks answers, that is said there and on standard error, and the exit code is 70.
    """
    from warmeng.study.report.page import write_report
    from warmeng.study.results.shortfall import INCOMPLETE, shortfall

    echo(write_report(run, out))
    if missing := shortfall(run):
        echo(missing, err=True)
    return INCOMPLETE if missing else 0
