"""``warmeng models``: list, fetch and verify the models that names stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from warmeng.cli.options import json_option, print_json
from warmeng.common.cards import CARDS
from warmeng.common.errors import UsageError
from warmeng.common.log import say
from warmeng.common.terminal import echo

if TYPE_CHECKING:
    from warmeng.engine.plan import Plan


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
    "--tokens", type=click.IntRange(2), default=512, show_default=True, help="Of a prompt and its answer together."
)
@click.option("--answers", type=click.IntRange(1), default=10_000, show_default=True, help="Whose hours are predicted.")
@click.option("--new-tokens", type=click.IntRange(1), default=192, show_default=True, help="Of each answer.")
@json_option
def plan(
    name: str, revision: str | None, gpu: str, gib: float | None, tokens: int, answers: int, new_tokens: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Tell what model NAME takes on a GPU in each kind of weights, without its weights at hand.

    NAME is a model's, of which the configuration alone is fetched, or a known shape. The largest step is an estimate;
    a run divides what is really free. Adapters, at most 512 MiB, have room. Hours are a prediction from bytes and
    operations at assumed shares of the card's ceilings, not measured on a card: the scheduler runs 2,048 of the
    answers at most on a device that only keeps time. They are told of an H100 and an H200.

    \b
    Examples:
      warmeng models plan llama-3.1-70b --gpu h100
      warmeng models plan Qwen/Qwen2.5-32B-Instruct-AWQ --gpu l40s --tokens 900
      warmeng models plan llama-3.1-8b --gpu h200 --answers 60000 --new-tokens 250
    """
    from dataclasses import asdict

    from warmeng.engine.plan import plans
    from warmeng.engine.prediction.card import CARDS as PREDICTED
    from warmeng.engine.prediction.clock import Precision
    from warmeng.engine.prediction.predict import WORDS, alike, predict
    from warmeng.engine.registry import read_shape

    if new_tokens >= tokens:
        raise UsageError(
            f"--new-tokens is {new_tokens} of --tokens {tokens}, expected fewer: the prompt has the others"
        )
    config = read_shape(name, revision)
    memory = int(gib * 2**30) if gib else CARDS[gpu] * 2**20
    timings = None if gib else PREDICTED.get(gpu)

    def hours(one: Plan) -> float | None:
        if timings is None or not one.sequences:
            return None
        some = alike(config, tokens - new_tokens, new_tokens)
        return predict(config, timings, Precision(one.kind), some, answers, new_tokens).hours

    found = plans(config, memory, tokens)
    if as_json:
        print_json([asdict(one) | {"answers": answers, "hours": hours(one)} for one in found])
        return
    echo(f"{name} on {f'{gib:g} GiB' if gib else gpu} ({memory / 2**30:.1f} GiB), {tokens} tokens a sequence")
    last = f"hours for {answers:,} answers"
    echo(f"kind       weights GiB   cache GiB   sequences   with --kv-dtype fp8   {last}")
    for one in found:
        cache = f"{one.cache / 2**30:9.1f}" if one.sequences else "       no"
        room = f"{one.sequences:11,d} {one.fp8_sequences:21,d}"
        took = hours(one)
        told = "-" if took is None else f"{took:.2f}"
        echo(f"{one.kind:<10} {one.weights / 2**30:11.1f} {cache:>11} {room} {told:>{len(last) + 2}}")
    if timings is None:
        echo(f"Hours are predicted for {' and '.join(sorted(PREDICTED))} alone: of others the ceilings are not known.")
    else:
        echo(f"Hours are predicted {WORDS}; each answer has {new_tokens} tokens, and no prompt shares another's.")
