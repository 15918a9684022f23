"""``warmeng recover``: the adapter that a merged checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.cli.options import json_option, print_json
from warmeng.common.errors import UsageError
from warmeng.common.log import say
from warmeng.common.terminal import echo


@click.command(
    epilog="""\b
Examples:
  warmeng recover merged/warm --out recovered/warm
  warmeng recover merged/warm --rank 8 --out recovered/warm --truth runs/demo/warm/epoch-10
  warmeng recover ./their-merged-model --model meta-llama/Llama-3.1-8B-Instruct --out recovered/theirs
"""
)
@click.argument("merged", type=click.Path(path_type=Path))
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="The base: folder, built-in or hub.")
@click.option("--revision", help="Revision of a Hugging Face repository.")
@click.option("--rank", type=int, help="Of the adapter.  [default: the least that explains the changes]")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder of the PEFT adapter.")
@click.option("--truth", type=click.Path(path_type=Path), help="The adapter that was merged: shows the errors.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu or cuda.")
@json_option
def recover(
    merged: Path,
    model: str,
    revision: str | None,
    rank: int | None,
    out: Path,
    truth: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Find the low-rank change between a base and the checkpoint in folder MERGED, and write it as a PEFT adapter.

    Rounding to bfloat16 hides small changes; they are found as far as what is left allows. A residual of 0 says that
    the adapter explains every merged weight to within its rounding. A change that isn't low-rank is refused.
    """
    from warmeng.common.storage import write_folder
    from warmeng.engine.adapters import load_adapter
    from warmeng.engine.config import read_config
    from warmeng.engine.recover import recover as find
    from warmeng.engine.recover import relative_errors, write_recovered
    from warmeng.engine.registry import resolve_model

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already: choose a new folder")
    base = resolve_model(model, revision, say).folder
    known = load_adapter(truth, read_config(base)) if truth is not None else None
    found = find(base, merged, rank, device=device, log=say)
    write_folder(out, lambda place: write_recovered(found, place))
    errors = [relative_errors(known, layers) for layers in (found.adapter.layers, found.plain)] if known else None
    rows = []
    for layer in sorted({fit.layer for fit in found.fits}):
        fits = [fit for fit in found.fits if fit.layer == layer]
        worst = {"residual": max(fit.residual for fit in fits), "plain_svd": max(fit.svd_residual for fit in fits)}
        row = {"layer": layer, "size_in_ulp": sum(fit.size for fit in fits) / len(fits)} | worst
        told = {"error": errors[0][layer]["all"], "plain_svd_error": errors[1][layer]["all"]} if errors else {}
        rows.append(row | told)
    if as_json:
        print_json({"out": str(out), "rank": found.adapter.rank, "layers": rows})
        return
    header = f"{'layer':>5}  {'size in ulp':>11}  {'residual':>8}  {'plain SVD':>9}"
    echo(header + (f"  {'error':>7}  {'plain SVD':>9}" if errors else ""))
    for row in rows:
        line = f"{row['layer']:>5}  {row['size_in_ulp']:>11.3f}  {row['residual']:>8.4f}  {row['plain_svd']:>9.4f}"
        echo(line + (f"  {row['error']:>7.4f}  {row['plain_svd_error']:>9.4f}" if errors else ""))
    echo(f"{out}: rank {found.adapter.rank}; size is the mean, residuals are the worst of a layer's matrices.")
