"""``warmeng recover``: the adapter that a merged checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.common.errors import UsageError
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
def recover(
    merged: Path, model: str, revision: str | None, rank: int | None, out: Path, truth: Path | None, device: str
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

    def log(text: str) -> None:
        echo(text, err=True)

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already: choose a new folder")
    base = resolve_model(model, revision, log).folder
    known = load_adapter(truth, read_config(base)) if truth is not None else None
    found = find(base, merged, rank, device=device, log=log)
    write_folder(out, lambda place: write_recovered(found, place))
    errors = [relative_errors(known, layers) for layers in (found.adapter.layers, found.plain)] if known else None
    header = f"{'layer':>5}  {'size in ulp':>11}  {'residual':>8}  {'plain SVD':>9}"
    echo(header + (f"  {'error':>7}  {'plain SVD':>9}" if errors else ""))
    for layer in sorted({fit.layer for fit in found.fits}):
        fits = [fit for fit in found.fits if fit.layer == layer]
        count = len(fits)
        size = sum(fit.size for fit in fits) / count
        residual, plain = max(fit.residual for fit in fits), max(fit.svd_residual for fit in fits)
        line = f"{layer:>5}  {size:>11.3f}  {residual:>8.4f}  {plain:>9.4f}"
        if errors:
            line += f"  {errors[0][layer]['all']:>7.4f}  {errors[1][layer]['all']:>9.4f}"
        echo(line)
    echo(f"{out}: rank {found.adapter.rank}; size is the mean, residuals are the worst of a layer's matrices.")
