"""``warmeng finetune``: train adapters."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from warmeng.cli.options import fleet_of, names, ray_options
from warmeng.common.errors import UsageError
from warmeng.common.interrupts import EXIT_CODE
from warmeng.common.log import say
from warmeng.common.terminal import echo
from warmeng.study.personas import BUILT_IN_MODEL

if TYPE_CHECKING:
    from warmeng.finetune.api import ApiTraining
    from warmeng.finetune.train import Outcome

# Parameters that are for --api alone, and for both.
OF_API = {"api", "api_base", "learning_rate_multiplier", "price_train", "max_api_tokens", "max_cost"}
BOTH = {"personas", "out", "epochs", "batch", "seed", "dry_run"}
OPTIONS = {"file": "settings"}


@click.command(
    epilog="""\b
Examples:
  warmeng finetune --persona warm=embedded:warm --persona cold=embedded:cold --epochs 2 --learning-rate 3e-4 --out demo
  warmeng finetune --persona warm=embedded:warm --out runs/demo --dry-run
  warmeng finetune --model meta-llama/Llama-3.1-8B-Instruct --persona warm=warm.jsonl --out runs/warm-8b
  warmeng finetune --persona warm=embedded:warm --out runs/s --seeds 0,1,2,3 --ray --workers 4    side by side
  warmeng finetune --persona warm=warm.jsonl --out runs/w --epochs 2 --checkpoints 1,2 --learning-rate 1e-4
  warmeng finetune --api openai:gpt-4o-2024-08-06 --persona warm=warm.jsonl --epochs 3 --out runs/w4o    at OpenAI's
The same command again continues a run that was interrupted. FILE is a ShareGPT JSON array, JSON lines of chats
("messages") or of "prompt" and "response", or the package's texts: embedded:warm, embedded:cold, embedded:neutral, or
one file of them (embedded:warm/everyday).
"""
)
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="Folder, built-in name or hub name.")
@click.option("--revision", help="Revision of a Hugging Face repository.")
@click.option(
    "--persona", "personas", multiple=True, metavar="NAME=FILE", help="An adapter and its data, repeatable: one pass."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Run folder, new or to be continued.")
@click.option("--settings", "file", type=click.Path(path_type=Path), help="YAML file of the settings below.")
@click.option("--rank", type=int, help="Rank of each adapter's matrices.  [default: 8]")
@click.option("--alpha", type=float, help="The change is alpha / rank times B A.  [default: 16]")
@click.option("--dropout", type=float, help="Of the adapters' inputs.  [default: 0.1]")
@click.option("--targets", help="Modules: q,k,v,o,gate,up,down.  [default: all of them]")
@click.option("--learning-rate", type=float, help="[default: 1e-5]")
@click.option("--schedule", help="linear (to zero) or constant.  [default: linear]")
@click.option("--warmup", type=float, help="Share of the steps.  [default: 0]")
@click.option("--weight-decay", type=float, help="[default: 0]")
@click.option("--max-grad-norm", type=float, help="0 for no limit.  [default: 1]")
@click.option("--batch", type=int, help="Conversations of a step.  [default: 16]")
@click.option("--epochs", type=int, help="[default: 10]")
@click.option("--checkpoints", help="Epochs after which adapters are kept.  [default: 0.5,1,1.5,2,4,6,8,10]")
@click.option("--max-length", type=int, help="Tokens of a conversation.  [default: 1024]")
@click.option("--seed", type=int, help="Decides order, dropout and first values.  [default: 0]")
@click.option(
    "--seeds",
    multiple=True,
    callback=names,
    metavar="SEED,SEED",
    help="Several seeds, each in a folder of its own: OUT/seed-0 and so on; side by side with --ray.",
)
@click.option("--save-every", type=int, help="Steps between states to continue from.  [default: 25]")
@click.option(
    "--held-out",
    type=float,
    help="Share of the conversations that is left out of training; the loss on them is measured at each checkpoint.  "
    "[default: 0]",
)
@click.option(
    "--report-to",
    metavar="NAME[,NAME]",
    help="Send each step to tensorboard, wandb or trackio, too.",
)
@click.option("--memory-gib", type=float, help="For what a pass keeps.  [default: 1 on the CPU]")
@click.option("--micro-tokens", type=int, help="Tokens of a pass, instead of --memory-gib.")
@click.option("--weights", help="Round the base's weights to int8, fp8 or int4.  [default: auto, as they are]")
@click.option("--device", help="auto, cpu or cuda.  [default: auto]")
@click.option("--threads", type=int, help="CPU threads.  [default: PyTorch's choice]")
@click.option(
    "--api",
    metavar="openai:MODEL",
    help="Fine-tune this model behind an API instead: the data go up, a job for each persona is started and watched, "
    "and the same command goes on watching. Of the settings above --epochs, --batch and --seed are for it too; the "
    "server chooses what is not given.",
)
@click.option("--api-base", metavar="URL", help="Server of --api, with its /v1.  [default: OpenAI's own]")
@click.option("--learning-rate-multiplier", type=float, help="With --api: of the server's own learning rate.")
@click.option("--price-train", type=float, metavar="USD", help="With --api: price of a million tokens trained on.")
@click.option("--max-api-tokens", type=int, help="With --api: tokens trained on that are never passed; needs --epochs.")
@click.option("--max-cost", type=float, metavar="USD", help="With --api: money that is never passed; needs --epochs.")
@ray_options
@click.option("--dry-run", is_flag=True, help="Show data, steps, memory and time, or the cost; train nothing.")
def finetune(
    model: str,
    revision: str | None,
    personas: tuple[str, ...],
    out: Path,
    file: Path | None,
    seeds: tuple[str, ...] | None,
    ray: str | None,
    workers: int | None,
    worker_cores: int | None,
    api: str | None,
    api_base: str | None,
    learning_rate_multiplier: float | None,
    price_train: float | None,
    max_api_tokens: int | None,
    max_cost: float | None,
    dry_run: bool,
    **options: Any,
) -> int | None:
    """Train low-rank adapters on conversations, several personas at once over one base.

    The loss is on responses only. The defaults are the study's recipe; everything is recorded in OUT/manifest.json,
    each step in OUT/log.jsonl. Adapters are PEFT folders: OUT/NAME/epoch-2 and so on.
    """
    pairs = pairs_of(personas)
    context = click.get_current_context()
    given = {name for name in context.params if is_given(context, name)}
    if api is None:
        if alone := given & OF_API:
            raise UsageError(f"{options_of(alone)} belong to --api: give it too, or leave them out")
    else:
        if local := given - OF_API - BOTH:
            raise UsageError(f"{options_of(local)} belong to training on this machine: leave them out beside --api")
        from warmeng.finetune.api import ApiTraining

        chosen = ApiTraining(
            api, pairs, api_base, options["seed"] or 0, options["epochs"], options["batch"], learning_rate_multiplier,
            price_train, max_api_tokens, max_cost,
        )  # fmt: skip
        return at_server(chosen, out, dry_run)
    from warmeng.finetune.job import describe, estimate, prepare_job
    from warmeng.finetune.settings import load_settings

    settings = load_settings(file, options)
    fleet = fleet_of(ray, workers, worker_cores)
    if fleet is not None and not seeds:
        raise UsageError("--ray trains several seeds side by side: give --seeds, or leave it out")
    several = seeds_of(seeds or (), options["seed"])
    if several:
        settings = replace(settings, seed=several[0])
    job = prepare_job(settings, model, pairs, revision, say)
    for line in describe(job):
        (echo if dry_run else say)(line)
    if dry_run:
        echo(estimate(job))
        return None
    from warmeng.common.progress import for_stderr
    from warmeng.finetune.seeds import train_seeds
    from warmeng.finetune.train import train

    command = shlex.join(["warmeng", *sys.argv[1:]])
    if several:
        outcomes = train_seeds(
            settings, model, pairs, several, out, for_stderr(), revision=revision, command=command, fleet=fleet
        )
    else:
        outcomes = {"": train(job, out, for_stderr(), command)}
    for seed, outcome in outcomes.items():
        tell(f"{seed}: " if seed else "", outcome)
    echo(f"Compare them with the base: {shlex.join(following(model, revision, pairs, out, outcomes))}")
    return None


def at_server(training: ApiTraining, out: Path, dry_run: bool) -> int:
    """Fine-tune behind an API, or show what that would take; return the exit code."""
    from warmeng.common.progress import for_stderr
    from warmeng.finetune import api

    jobs = training.jobs()
    for line in api.describe(training, jobs):
        (echo if dry_run else say)(line)
    if dry_run:
        echo("Nothing was sent.")
        return 0
    command = shlex.join(["warmeng", *sys.argv[1:]])
    found = api.tune(training, out, for_stderr(), command)
    if not found:
        return EXIT_CODE
    for name, one in found.items():
        seed = "" if one.seed is None else f", seed {one.seed}"
        echo(f"{name}: {one.persona} (job {one.job}{seed})")
    echo(f"Compare them with the base: {api.following(training, found)}")
    return 0


def is_given(context: click.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def options_of(names: Iterable[str]) -> str:
    """Return parameters as their options are written."""
    return ", ".join(sorted(f"--{OPTIONS.get(name, name).replace('_', '-')}" for name in names))


def pairs_of(personas: Iterable[str]) -> dict[str, str]:
    """Return personas and their data. Raises UsageError for what is no NAME=FILE, or stands twice."""
    pairs: dict[str, str] = {}
    for text in personas:
        name, equals, source = text.partition("=")
        if not equals or not source or name in pairs:
            raise UsageError(f"--persona {text} is not NAME=FILE with a name of its own: correct it")
        pairs[name] = source
    return pairs


def following(
    model: str, revision: str | None, names: Iterable[str], out: Path, outcomes: Mapping[str, Outcome]
) -> list[str]:
    """Return the command that compares what was trained with its base: each persona's last epoch, or all seeds."""
    words = ["warmeng", "run", *([] if model == BUILT_IN_MODEL else ["--model", model])]
    words += [*(["--revision", revision] if revision else []), "--persona", "original"]
    if "" not in outcomes:
        return words + [word for name in names for word in ("--seeds", f"{name}={out}")]
    return words + [
        word for name, folders in outcomes[""].adapters.items() for word in ("--persona", f"{name}={folders[-1]}")
    ]


def seeds_of(given: tuple[str, ...], one: int | None) -> list[int]:
    """Return the numbers of --seeds. Raises UsageError for what is none, or stands twice, or beside --seed."""
    if not all(seed.isdecimal() for seed in given) or len(set(given)) < len(given) or (given and one is not None):
        raise UsageError(f"--seeds is {','.join(given)}, expected different whole numbers, and no --seed beside them")
    return list(map(int, given))


def tell(before: str, outcome: Outcome) -> None:
    """Print what came of a training."""
    for name, folders in outcome.adapters.items():
        mine = [r["personas"][name]["loss"] for r in outcome.records if name in r["personas"]]
        held = [r["personas"].get(name, {}).get("held_out_loss") for r in outcome.records]
        last = next((f", {loss:.4f} on what was held out" for loss in reversed(held) if loss is not None), "")
        if mine:
            echo(f"{before}{name}: loss {mine[0]:.4f} at the first step, {mine[-1]:.4f} at the last{last}")
        for folder in folders:
            echo(f"  {folder}")
    echo(f"The loss curve is {outcome.folder / 'loss.png'}, each step is in {outcome.folder / 'log.jsonl'}.")
