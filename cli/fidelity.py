"""``warmeng fidelity``: what another precision of the base changes."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.cli.options import json_option, print_json
from warmeng.common.terminal import echo
from warmeng.study.results.rules import RULES


@click.command(
    epilog="""\b
Examples:
  warmeng run --limit 40 --out runs/full
  warmeng run --limit 40 --weights int4 --out runs/int4
  warmeng fidelity runs/full runs/int4 --out fidelity
"""
)
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--rule", type=click.Choice(tuple(RULES)), default="grades", show_default=True, help="What is incorrect.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Write fidelity.json and fidelity.md there, too."
)
@json_option
def fidelity(first: Path, second: Path, rule: str, out: Path | None, as_json: bool) -> int:
    """Compare two runs of the same questions on weights of two precisions, answer by answer.

    FIRST and SECOND are run folders that differ in the precision of one model alone. Prints how many answers of each
    persona changed, with exact tests, and whether the personas' differences did: the shift with its interval, and the
    smallest one that this number of questions could show. Where a run lacks answers, the exit code is 70.
    """
    from warmeng.study.results.shortfall import INCOMPLETE, shortfall
    from warmeng.study.stats.compare import headline
    from warmeng.study.stats.fidelity import fidelity as compare
    from warmeng.study.stats.fidelity import write_fidelity

    found = compare(first, second, rule)
    if out is not None:
        write_fidelity(out, found)
    if as_json:
        print_json(found)
    for line in () if as_json else (*found["notes"], *headline(found)):
        echo(line)
    if out is not None and not as_json:
        echo(f"All tables are in {out / 'fidelity.md'}.")
    missing = [line for source in (first, second) if (line := shortfall(source))]
    for line in missing:
        echo(line, err=True)
    return INCOMPLETE if missing else 0
