"""``warmeng bench roofline``, ``kernels`` and ``finetune``: shares of the machine's ceilings, and a training step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from warmeng.cli.bench.options import device_option, finish, output_options, shape_option
from warmeng.common.errors import UsageError
from warmeng.common.log import say


@click.command()
@device_option()
@output_options
def roofline(device: str, save: Path | None, as_json: bool) -> None:
    """The two ceilings of this machine: a large copy in memory, and a large matrix product.

    On a CUDA device in bfloat16, on a CPU in single precision. Every other measurement is a share of these.

    \b
    Examples:
      warmeng bench roofline
      warmeng bench roofline --device cuda --save
    """
    from warmeng.bench.environment import pick_device
    from warmeng.bench.roofline import measure_roofline
    from warmeng.bench.tables import roofline_lines

    where = pick_device(device)
    peaks = measure_roofline(where, say=say)
    finish("roofline", where, roofline_lines(peaks), vars(peaks), save, as_json)


@click.command()
@shape_option()
@click.option("--only", multiple=True, help="Kernels or shapes that contain this text; may be given again.")
@click.option("--budget", type=click.FloatRange(0.01), default=0.25, show_default=True, help="Seconds of each timing.")
@click.option("--seconds", type=click.IntRange(1), default=540, show_default=True, help="Begin no kernel after this.")
@click.option("--interpret", is_flag=True, help="Check results at tiny shapes in Triton's interpreter; times nothing.")
@device_option()
@output_options
def kernels(
    shape: str,
    only: tuple[str, ...],
    budget: float,
    seconds: int,
    interpret: bool,
    device: str,
    save: Path | None,
    as_json: bool,
) -> None:
    """Every Triton kernel: right, at which share of its roofline, beside what one would call instead.

    Each is compared with its twin in double precision first, with outputs that were filled with NaN; a wrong one is not
    timed. Inputs are rotated so that none comes from the cache.

    \b
    Examples:
      warmeng bench kernels --device cuda --save
      warmeng bench kernels --only "decode attention" --only silu_mul
      warmeng bench kernels --interpret
    """
    import torch

    from warmeng.bench.environment import Partial
    from warmeng.bench.tables import kernel_lines, left_out_lines
    from warmeng.bench.timing import seconds_left

    if interpret:
        if save is not None or device == "cuda":
            raise UsageError("--interpret runs on the CPU and times nothing: leave out --save and --device cuda")
        from warmeng.bench.interpret import check_interpreted

        results = check_interpreted(shape, only, say)
        fields: dict[str, Any] = {"shape": shape, "interpreted": True, "results": results}
        finish("kernels", torch.device("cpu"), kernel_lines(results), fields, None, as_json)
    else:
        if device == "cpu" or not torch.cuda.is_available():
            raise UsageError(
                "the kernels are timed on a CUDA device, and none was asked for or found: --interpret checks their "
                "results here, and 'warmeng bench roofline' and 'warmeng bench workload' measure a CPU"
            )
        from warmeng.bench.kernels import measure_kernels

        where = torch.device("cuda")
        partial = Partial("kernels", where, save)
        fields = measure_kernels(
            shape, where, only=only, budget=budget, say=say, left=seconds_left(seconds), keep=partial.keep
        )
        results = fields["results"]
        finish("kernels", where, [*kernel_lines(results), *left_out_lines(fields["left_out"])], fields, save, as_json)
        partial.remove()
    wrong = [f"{result.kernel}, {result.shape}" for result in results if not result.correct]
    if wrong:
        raise click.ClickException(f"wrong results: {'; '.join(wrong)}")


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="Folder, built-in name or hub name.")
@click.option("--pairs", type=click.IntRange(1), default=3, show_default=True, help="Steps, each made by all in turn.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Conversations of a step.")
@click.option("--micro-batch", type=click.IntRange(1), default=None, help="Fix the others'; default: their best.")
@click.option("--threads", type=click.IntRange(1), default=None, help="CPU threads of all; default: PyTorch's choice.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--trl/--no-trl", default=True, show_default=True, help="Run TRL's trainer too where it is installed.")
@output_options
def finetune(
    model: str, pairs: int, batch: int, micro_batch: int | None, threads: int | None, device: str, trl: bool,
    save: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Training tokens a second, two personas on the embedded texts, beside PEFT and TRL, each at its best batch.

    Prints a table, then one JSON line with everything that was measured.

    \b
    Examples:
      warmeng bench finetune
      warmeng bench finetune --no-trl --pairs 1 --micro-batch 4
    """
    from warmeng.bench.environment import pick_device
    from warmeng.bench.finetune import compare_training
    from warmeng.bench.tables import training_lines

    result = compare_training(
        model, pairs=pairs, batch=batch, micro_batch=micro_batch, threads=threads, device=device, trl=trl, say=say
    )
    finish("finetune", pick_device(device), training_lines(result), vars(result), save, as_json)
