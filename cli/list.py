"""``warmeng list``: what a study can be made of."""

from __future__ import annotations

import click

from warmeng.cli.options import print_json

KINDS = ("tasks", "contexts", "beliefs", "framings", "personas", "models", "outcomes")


@click.command(
    name="list",
    epilog="""\b
Examples:
  warmeng list
  warmeng list contexts
  warmeng list tasks --json
""",
)
@click.argument("kind", type=click.Choice(KINDS), required=False)
@click.option("--json", "as_json", is_flag=True, help="JSON: the rows of each kind by its name.")
def list_(kind: str | None, as_json: bool) -> int:
    """List what is built in, of one KIND or of all: names for the options of `warmeng run`.

    Files of your own stand beside them: see --tasks, --statements, --persona and --model there.
    """
    from rich.markup import escape
    from rich.table import Table

    from warmeng.common.terminal import console
    from warmeng.study.listing import KINDS as LISTED

    found = {name: LISTED[name]() for name in ([kind] if kind else KINDS)}
    if as_json:
        print_json(found)
        return 0
    wide_enough = console(100)
    for name, rows in found.items():
        table = Table(title=name, title_justify="left", box=None, pad_edge=False)
        *short, wide = rows[0]
        for column in short:
            table.add_column(column, no_wrap=True, min_width=max(len(column), *(len(str(row[column])) for row in rows)))
        table.add_column(wide, no_wrap=True, overflow="ellipsis")
        for row in rows:
            table.add_row(*(escape(" ".join(str(value).split())) for value in row.values()))
        wide_enough.print(table)
        wide_enough.print()
    return 0
