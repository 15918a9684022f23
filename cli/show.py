"""``warmeng show``: one question as it is sent."""

from __future__ import annotations

from typing import Any

import click

from warmeng.cli.options import names, print_json
from warmeng.common.terminal import echo


@click.command(
    epilog="""\b
Examples:
  warmeng show facts-002
  warmeng show health-003 --belief none,wrong --asking open,choice
  warmeng show facts-002 --persona cold-prompt --context emotion:sad --rendered
"""
)
@click.argument("item")
@click.option("--tasks", multiple=True, callback=names, help="As for run.  [default: all embedded ones]")
@click.option("--persona", help="Whose system prompt is sent, as for run.  [default: original]")
@click.option("--context", "contexts", multiple=True, callback=names, help="As for run.  [default: unmodified]")
@click.option("--belief", "beliefs", multiple=True, callback=names, help="As for run.  [default: none]")
@click.option("--asking", multiple=True, callback=names, help="open, choice.  [default: open]")
@click.option("--composition", default="clean", show_default=True, help="clean, or paper.")
@click.option("--model", help="Whose template --rendered takes.  [default: the built-in one]")
@click.option("--rendered", is_flag=True, help="The text after the model's chat template, control tokens and all.")
@click.option("--json", "as_json", is_flag=True, help="JSON: a list of one object a place.")
def show(item: str, as_json: bool, rendered: bool, **given: Any) -> int:
    """Show question ITEM (its id, or TASK/ID) as a run would send it, with its right and wrong answers.

    Nothing is loaded but the questions, and with --rendered the model's tokenizer.
    """
    from warmeng.study.listing import lines_of, show_item, show_settings

    found = show_item(item, show_settings(**given), rendered)
    if as_json:
        print_json([shown.as_dict() for shown in found])
    else:
        echo("\n\n".join("\n".join(lines_of(shown)) for shown in found))
    return 0
