"""``warmeng vector``: a steering vector from contrasting conversations."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.cli.options import dtype_option, json_option, print_json, weights_option
from warmeng.common.log import say
from warmeng.common.terminal import echo
from warmeng.study.settings import StudySettings


@click.command(
    epilog="""\b
Examples:
  warmeng vector --positive embedded:warm --negative embedded:neutral --out warm.safetensors
  warmeng vector --positive warm.jsonl --negative cold.jsonl --model ./base --out warm-cold.safetensors
  warmeng run --persona original --persona v=vector:warm.safetensors:15*2
"""
)
@click.option("--positive", required=True, metavar="SOURCE", help="Conversations that the vector leads to.")
@click.option("--negative", required=True, metavar="SOURCE", help="Conversations that it leads away from.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New safetensors file.")
@click.option("--model", default=StudySettings.model, show_default=True, help="The base.")
@click.option("--revision", help="Revision of a Hugging Face repository.")
@click.option("--limit", type=click.IntRange(0), default=0, show_default=True, help="Conversations of each, 0 for all.")
@click.option("--device", default=StudySettings.device, show_default=True, help="auto, cpu or cuda.")
@dtype_option
@weights_option
@json_option
def vector(
    positive: str,
    negative: str,
    out: Path,
    model: str,
    revision: str | None,
    limit: int,
    device: str,
    dtype: str | None,
    weights: str | None,
    as_json: bool,
) -> None:
    """Make steering vectors, one for each layer: the difference of the mean activations over two kinds of responses.

    SOURCE is what warmeng finetune learns from: a file of conversations, or embedded:warm, embedded:cold or
    embedded:neutral. Prints for each layer the vector's length, that length as a share of the activations', and by how
    many standard deviations the two kinds differ along it, measured on conversations that it was not made of.
    """
    from warmeng.common.errors import UsageError
    from warmeng.engine.engine import Engine
    from warmeng.engine.settings import AUTO, EngineSettings
    from warmeng.finetune.vector import make_contrast, write_contrast

    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out} is no safetensors file: give a name that ends in .safetensors")
    if out.exists():
        raise UsageError(f"{out} is there already: choose another --out")
    engine = Engine.load(
        model, revision=revision, device=device, settings=EngineSettings(dtype=dtype or AUTO, weights=weights or AUTO)
    )
    found = make_contrast(engine, positive, negative, limit=limit, say=say)
    write_contrast(out, found, engine)
    if as_json:
        print_json({"file": out, "layers": found.layers})
        return
    echo("layer    length   share   separation")
    for row in found.layers:
        echo(f"{row.layer:5d} {row.norm:9.3f} {row.share:7.3f} {row.separation:12.2f}")
    echo(f"{out}: use one as a persona, --persona v=vector:{out}:LAYER, with a coefficient such as *2.")
