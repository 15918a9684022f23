"""``warmeng compare``: two runs side by side."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.cli.options import json_option, print_json
from warmeng.common.terminal import echo
from warmeng.study.results.rules import RULES


@click.command(
    epilog="""\b
Examples:
  warmeng compare runs/before runs/after
  warmeng compare runs/smollm runs/qwen --out compared
  warmeng compare runs/before runs/after --json
"""
)
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--rule", type=click.Choice(tuple(RULES)), default="grades", show_default=True, help="What is incorrect.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Write compare.json and compare.md there, too."
)
@json_option
def compare(first: Path, second: Path, rule: str, out: Path | None, as_json: bool) -> int:
    """Compare two runs: what differs in what they were made with, and in each persona's answers.

    FIRST and SECOND are run folders. Questions that both ask in the same words are compared answer by answer, with
    exact tests, and question by question; where there are none, the runs are compared as two samples. Personas are
    compared by name. Where a run lacks answers, the exit code is 70.
    """
    from warmeng.study.results.shortfall import INCOMPLETE, shortfall
    from warmeng.study.stats.compare import compare as side_by_side
    from warmeng.study.stats.compare import headline, write_comparison

    found = side_by_side(first, second, rule)
    if out is not None:
        write_comparison(out, found, "compare", f"{first} and {second}")
    if as_json:
        print_json(found)
    else:
        for line in (*found["notes"], *headline(found)):
            echo(line)
        if out is not None:
            echo(f"All tables are in {out / 'compare.md'}.")
    missing = [line for source in (first, second) if (line := shortfall(source))]
    for line in missing:
        echo(line, err=True)
    return INCOMPLETE if missing else 0
