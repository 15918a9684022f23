"""``warmeng report``: the page that tells a run."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  warmeng report runs/3f9c2a10
  warmeng analyze runs/3f9c2a10 --rule paper && warmeng report runs/3f9c2a10
"""
)
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> int:
    """Write RUN/report.html, one file that opens offline, and its figures as PNG and SVG.

    It shows the run's latest analysis; a run that was not analysed yet is analysed first.
    """
    from warmeng.study.report.page import write_report

    path = write_report(run)
    click.echo(f"{path}")
    return 0
