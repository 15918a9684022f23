"""``warmeng merge``: an adapter into its base's checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.common.log import say
from warmeng.common.terminal import echo


@click.command(
    epilog="""\b
Examples:
  warmeng merge runs/demo/warm/epoch-2 --out merged/warm
  warmeng merge adapters/warm --model meta-llama/Llama-3.1-8B-Instruct --out merged/warm-8b --shard-gb 5
"""
)
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="Folder, built-in name or hub name.")
@click.option("--revision", help="Revision of a Hugging Face repository.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder of the merged checkpoint.")
@click.option(
    "--shard-gb", type=click.FloatRange(0, min_open=True), default=4.0, show_default=True, help="Of one file."
)
def merge(adapter: Path, model: str, revision: str | None, out: Path, shard_gb: float) -> None:
    """Write the PEFT adapter in folder ADAPTER into its base, as a safetensors checkpoint.

    Weights are computed in float32 and rounded once to the dtype of the base. Rounding loses changes that are
    small compared with a weight: `warmeng recover` finds them again as far as possible.
    """
    from warmeng.finetune import merge as merging

    done = merging.merge(
        model, adapter, out, revision=revision, shard_bytes=int(shard_gb * 1e9),
        log=say,
    )  # fmt: skip
    echo(f"{done.folder}: {done.shards} files, {done.changed} weights changed")
    echo(f"{done.moved:.1%} of their numbers differ from the base's after rounding", err=True)
