"""``warmeng models``: list, fetch and verify the models that names stand for."""

from __future__ import annotations

import click

from warmeng.cli.options import json_option, print_json
from warmeng.common.cards import CARDS
from warmeng.common.log import say
from warmeng.common.terminal import echo


@click.group()
def models() -> None:
    """List, fetch and verify models.

    A model's NAME is a folder, a built-in name, or owner/name on the Hugging Face hub.

    \b
    Examples:
      warmeng models list
      warmeng models fetch smollm2-135m-instruct
      warmeng models verify ./my-checkpoint
      warmeng models plan llama-3.1-70b --gpu h100
    """


@models.command(name="list")
@json_option
def list_command(as_json: bool) -> None:
    """List the built-in models.

    \b
    Example:
      warmeng models list
    """
    from warmeng.engine.registry import list_models

    found = list_models()
    if as_json:
        print_json([vars(entry) | {"folder": str(entry.folder)} for entry in found])
        return
    for entry in found:
        state = str(entry.folder) if entry.fetched else "not fetched yet"
        echo(f"{entry.name}  {entry.license}  {entry.description}\n  {state}")


@models.command()
@click.argument("name")
@click.option("--revision", help="Branch, tag or commit of a hub repository.")
def fetch(name: str, revision: str | None) -> None:
    """Fetch model NAME unless it is here already, and print its folder.

    \b
    Examples:
      warmeng models fetch smollm2-135m-instruct
      warmeng models fetch Qwen/Qwen2.5-0.5B-Instruct --revision main
    """
    from warmeng.engine.config import read_config
    from warmeng.engine.registry import resolve_model

    source = resolve_model(name, revision, say)
    config = read_config(source.folder)
    echo(f"{source.folder}")
    echo(
        f"{source.origin}, {config.family}, {config.num_layers} layers, up to {config.max_seq_len} tokens"
        + (f", revision {source.revision}" if source.revision else "")
        + (f", {source.license}" if source.license else ""),
        err=True,
    )


@models.command()
@click.argument("name")
@click.option("--revision", help="Branch, tag or commit of a hub repository.")
@json_option
def verify(name: str, revision: str | None, as_json: bool) -> None:
    """Read all files of model NAME again and compare their hashes with those expected, where these are known.

    \b
    Examples:
      warmeng models verify smollm2-135m-instruct
      warmeng models verify ./my-checkpoint
    """
    from warmeng.engine.registry import verify_model

    found = verify_model(name, revision, say)
    if as_json:
        print_json(found)
    for file, digest in () if as_json else found.items():
        echo(f"{digest}  {file}")
    echo(f"{name}: no damage found", err=True)


@models.command()
@click.argument("name")
@click.option("--revision", help="Branch, tag or commit of a hub repository.")
@click.option("--gpu", type=click.Choice(sorted(CARDS)), default="h100", show_default=True, help="The card.")
@click.option("--gib", type=click.FloatRange(1), help="Its memory, where it is another card.")
@click.option(
    "--tokens", type=click.IntRange(1), default=512, show_default=True, help="Of a prompt and its answer together."
)
@json_option
def plan(name: str, revision: str | None, gpu: str, gib: float | None, tokens: int, as_json: bool) -> None:
    """Tell what model NAME takes on a GPU in each kind of weights, without its weights at hand.

    NAME is a model's, of which the configuration alone is fetched, or a known shape. The largest step is an estimate;
    a run divides what is really free. Adapters, at most 512 MiB, have room.

    \b
    Examples:
      warmeng models plan llama-3.1-70b --gpu h100
      warmeng models plan Qwen/Qwen2.5-32B-Instruct-AWQ --gpu l40s --tokens 900
    """
    from warmeng.engine.plan import plans
    from warmeng.engine.registry import read_shape

    config = read_shape(name, revision)
    memory = int(gib * 2**30) if gib else CARDS[gpu] * 2**20
    if as_json:
        print_json(list(plans(config, memory, tokens)))
        return
    echo(f"{name} on {f'{gib:g} GiB' if gib else gpu} ({memory / 2**30:.1f} GiB), {tokens} tokens a sequence")
    echo("kind       weights GiB   cache GiB   sequences   with --kv-dtype fp8")
    for found in plans(config, memory, tokens):
        cache = f"{found.cache / 2**30:9.1f}" if found.sequences else "       no"
        room = f"{found.sequences:11,d} {found.fp8_sequences:21,d}"
        echo(f"{found.kind:<10} {found.weights / 2**30:11.1f} {cache:>11} {room}")
