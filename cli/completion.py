"""``warmeng completion``: names and options at a press of the Tab key."""

from __future__ import annotations

import click

from warmeng.common.terminal import echo

SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="""\b
Examples:
  warmeng completion bash >> ~/.bashrc
  warmeng completion zsh >> ~/.zshrc
  warmeng completion fish > ~/.config/fish/completions/warmeng.fish
A new shell then completes commands, options and built-in names.
"""
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that lets SHELL complete warmeng's commands, options, and names of tasks and the like."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None, "these are click's shells"
    echo(found(ctx.find_root().command, {}, "warmeng", "_WARMENG_COMPLETE").source())
