"""Options that several benchmarks share, and how each ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from warmeng.cli.options import json_option
from warmeng.common.errors import UsageError
from warmeng.common.log import say
from warmeng.common.terminal import echo

F = TypeVar("F", bound=Callable[..., Any])
SAVE_HERE = "bench/results"


def device_option(default: str = "auto") -> Callable[[F], F]:
    choices = click.Choice(["auto", "cpu", "cuda"])
    return click.option("--device", type=choices, default=default, show_default=True)


def output_options(command: F) -> F:
    """Give a command ``--save`` and ``--json``, which ``finish`` takes."""
    save = click.option(
        "--save", is_flag=False, flag_value=SAVE_HERE, default=None, type=click.Path(file_okay=False, path_type=Path),
        help=f"Add the JSON line to a file of the device in this folder; {SAVE_HERE} where none is named.",
    )  # fmt: skip
    return save(json_option(command))


def shape_option() -> Callable[[F], F]:
    from warmeng.engine.shapes import SHAPES

    return click.option(
        "--shape", default="llama-3.1-8b", show_default=True,
        help=f"Folder with a config.json, or one of {', '.join(SHAPES)}.",
    )  # fmt: skip


def numbers(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    """Read positive whole numbers with commas between."""
    words = [word for word in value.split(",") if word]
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"{option.opts[0]} is {value!r}, expected numbers of sequences as 32,64,128")
    return tuple(map(int, words))


def finish(
    bench: str, device: Any, lines: Sequence[str], fields: Mapping[str, Any], save: Path | None, as_json: bool
) -> None:
    """Print a table and the JSON line, or with ``as_json`` the line alone, and keep it where that is asked for."""
    from warmeng.bench import environment

    where = environment.environment(device)
    text = environment.line(bench, where, fields)
    for line in () if as_json else lines:
        echo(line)
    echo(text)
    if save is not None:
        say(f"saved in {environment.save(bench, where, text, save)}")
