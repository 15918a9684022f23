"""``warmeng bench``: speed, as shares of the machine's ceilings and as ratios from one run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
_SAVE_HERE = "bench/results"


def _say(line: str) -> None:
    click.echo(line, err=True)


def _device_option(default: str = "auto") -> Callable[[F], F]:
    choices = click.Choice(["auto", "cpu", "cuda"])
    return click.option("--device", type=choices, default=default, show_default=True)


def _save_option() -> Callable[[F], F]:
    return click.option(
        "--save", is_flag=False, flag_value=_SAVE_HERE, default=None, type=click.Path(file_okay=False, path_type=Path),
        help=f"Add the JSON line to a file of the device in this folder; {_SAVE_HERE} where none is named.",
    )  # fmt: skip


def _shape_option() -> Callable[[F], F]:
    from warmeng.engine.shapes import SHAPES

    return click.option(
        "--shape", default="llama-3.1-8b", show_default=True,
        help=f"Folder with a config.json, or one of {', '.join(SHAPES)}.",
    )  # fmt: skip


def _finish(bench: str, device: Any, lines: Sequence[str], fields: Mapping[str, Any], save: Path | None) -> None:
    """Print a table and the JSON line, and keep the line where that is asked for."""
    from warmeng.bench import environment

    where = environment.environment(device)
    text = environment.line(bench, where, fields)
    for line in lines:
        click.echo(line)
    click.echo(text)
    if save is not None:
        _say(f"saved in {environment.save(bench, where, text, save)}")


@click.group()
def bench() -> None:
    """Measure the engine and the trainer against other software and against this machine's own ceilings.

    Every measurement prints a table, then one JSON line with everything that was measured, the device, the versions and
    the commit; --save keeps it.

    \b
    Examples:
      warmeng bench generate
      warmeng bench finetune
      warmeng bench roofline
      warmeng bench kernels --device cuda --save
      warmeng bench generate --shape llama-3.1-8b --random-weights --device cuda --save
    """


@bench.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="Folder, built-in name or hub name.")
@click.option(
    "--baseline", type=click.Choice(["hf", "none"]), default="hf", show_default=True, help="What to run beside it."
)
@click.option("--pairs", type=click.IntRange(1), default=5, show_default=True, help="Interleaved repetitions.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=96, show_default=True)
@click.option("--hf-batch", type=click.IntRange(1), default=None, help="Fix the baseline's batch; default: its best.")
@click.option("--threads", type=click.IntRange(1), default=None, help="CPU threads of both; default: PyTorch's choice.")
@click.option("--fast", is_flag=True, help="Give up batch invariance in the engine.")
@click.option("--shape", default=None, help="Random weights of this shape instead of a model: see the second example.")
@click.option("--random-weights", is_flag=True, help="Says that --shape has no trained weights.")
@click.option("--both", is_flag=True, help="With --shape: measure the deterministic mode, then the fast one.")
@click.option("--personas", type=click.IntRange(1, 8), default=3, show_default=True, help="The base and adapters.")
@click.option("--rank", type=click.IntRange(1, 256), default=8, show_default=True, help="Of the adapters.")
@click.option("--requests", type=click.IntRange(1), default=2048, show_default=True, help="With --shape.")
@click.option("--repeats", type=click.IntRange(1), default=2, show_default=True, help="With --shape: of each mix.")
@click.option("--curve", default="", help="With --shape: batch sizes to measure the base at, as 32,64,128.")
@click.option("--max-num-seqs", type=click.IntRange(1), default=None, help="With --shape; default: the engine's.")
@click.option("--max-batched-tokens", type=click.IntRange(1), default=None, help="With --shape; default: the engine's.")
@click.option("--seconds", type=click.IntRange(1), default=540, show_default=True,
              help="With --shape: begin no measurement after this time.")  # fmt: skip
@_device_option("cpu")
@_save_option()
@click.pass_context
def generate(
    context: click.Context, /, model: str, baseline: str, pairs: int, max_new_tokens: int, hf_batch: int | None,
    threads: int | None, fast: bool, shape: str | None, random_weights: bool, **workload: Any,
) -> None:  # fmt: skip
    """Output tokens a second beside transformers' generate at its best batch.

    Without --shape: 96 chat prompts on the CPU. With --shape: random weights and this project's workload (prompts of 60
    to 400 tokens, answers of 150 to 300), all personas in one batch, the base alone, and transformers in static batches
    and with its continuous batching.

    \b
    Examples:
      warmeng bench generate
      warmeng bench generate --shape llama-3.1-8b --random-weights --device cuda --both --curve 32,128,512
      warmeng bench generate --baseline none --pairs 3
      warmeng bench generate --shape smollm2-135m --random-weights --requests 48 --repeats 1 --baseline none
    """
    from warmeng.common.errors import UsageError

    if (shape is None) == random_weights:
        raise UsageError(
            "--shape and --random-weights belong together: give both, or neither for a model's own weights"
        )
    if shape is not None:
        _workload(shape, baseline == "hf", fast, threads, **workload)
        return
    for name in ("device", "both", "personas", "rank", "requests", "repeats", "curve", "max_num_seqs",
                 "max_batched_tokens", "seconds"):  # fmt: skip
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE and workload[name] != "cpu":
            raise UsageError(f"--{name.replace('_', '-')} goes with --shape and --random-weights: leave it out")
    import torch

    from warmeng.bench.generate import compare
    from warmeng.bench.tables import comparison_lines

    result = compare(
        model, baseline=baseline == "hf", max_new=max_new_tokens, pairs=pairs, hf_batch=hf_batch, fast=fast,
        threads=threads, say=_say,
    )  # fmt: skip
    _finish("generate-model", torch.device("cpu"), comparison_lines(result), vars(result), workload["save"])


def _workload(
    shape: str, baseline: bool, fast: bool, threads: int | None, *, both: bool, personas: int, rank: int, requests: int,
    repeats: int, curve: str, max_num_seqs: int | None, max_batched_tokens: int | None, seconds: int, device: str,
    save: Path | None,
) -> None:  # fmt: skip
    import torch

    from warmeng.bench.environment import Partial, pick_device
    from warmeng.bench.record import Options
    from warmeng.bench.tables import workload_lines
    from warmeng.bench.workload import measure_workload
    from warmeng.engine.settings import EngineSettings

    where = pick_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    sizes = _sizes("--curve", curve)
    modes = ("deterministic", "fast") if both else ("fast",) if fast else ("deterministic",)
    settings = EngineSettings(max_num_seqs=max_num_seqs, max_batched_tokens=max_batched_tokens, threads=threads)
    options = Options(
        shape, where.type, personas, rank, requests, repeats, modes, sizes, baseline, settings=settings
    )  # fmt: skip
    partial = Partial("generate", where, save)
    found = measure_workload(
        options, say=_say, left=_until(seconds), keep=lambda result: partial.keep(vars(result))
    )  # fmt: skip
    _finish("generate", where, workload_lines(found), vars(found), save)
    partial.remove()
    if found.failed:
        raise click.ClickException(f"the engine failed, {', '.join(found.failed)}: the lines above say why")


def _sizes(option: str, given: str) -> tuple[int, ...]:
    from warmeng.common.errors import UsageError

    try:
        sizes = tuple(int(size) for size in given.split(",") if size)
    except ValueError:
        sizes = (0,)
    if any(size < 1 for size in sizes):
        raise UsageError(f"{option} is {given!r}, expected numbers of sequences as 32,64,128")
    return sizes


def _until(seconds: float) -> Callable[[], float]:
    end = time.monotonic() + seconds
    return lambda: end - time.monotonic()


@bench.command()
@_device_option()
@_save_option()
def roofline(device: str, save: Path | None) -> None:
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
    found = measure_roofline(where, say=_say)
    _finish("roofline", where, roofline_lines(found), vars(found), save)


@bench.command()
@_shape_option()
@click.option("--only", multiple=True, help="Kernels or shapes that contain this text; may be given again.")
@click.option("--budget", type=click.FloatRange(0.01), default=0.25, show_default=True, help="Seconds of each timing.")
@click.option("--seconds", type=click.IntRange(1), default=540, show_default=True, help="Begin no kernel after this.")
@click.option("--interpret", is_flag=True, help="Check results at tiny shapes in Triton's interpreter; times nothing.")
@_device_option()
@_save_option()
def kernels(
    shape: str, only: tuple[str, ...], budget: float, seconds: int, interpret: bool, device: str, save: Path | None
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
    from warmeng.common.errors import UsageError

    if interpret:
        if save is not None or device == "cuda":
            raise UsageError("--interpret runs on the CPU and times nothing: leave out --save and --device cuda")
        _interpreted(shape, only)
        return
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        raise UsageError(
            "the kernels are timed on a CUDA device, and none was asked for or found: --interpret checks their results "
            "here, and 'warmeng bench roofline' and 'warmeng bench generate' measure a CPU"
        )
    from warmeng.bench.cases.case import workload
    from warmeng.bench.environment import Partial
    from warmeng.bench.kernels import run_all
    from warmeng.bench.roofline import measure_roofline
    from warmeng.bench.tables import kernel_lines, left_out_lines

    where = torch.device("cuda")
    ceilings = measure_roofline(where, say=_say)
    sizes = workload(shape, where)
    partial = Partial("kernels", where, save)
    about = {"shape": shape, "roofline": ceilings}
    found, left_out = run_all(
        sizes, ceilings, only=only, budget=budget, say=_say, left=_until(seconds),
        keep=lambda some: partial.keep({**about, "results": some}),
    )  # fmt: skip
    fields = {**about, "results": found, "left_out": left_out}
    _finish("kernels", where, [*kernel_lines(found), *left_out_lines(left_out)], fields, save)
    partial.remove()
    _fail_where_wrong(found)


def _interpreted(shape: str, only: tuple[str, ...]) -> None:
    """Check all kernels at sizes of a few dozen."""
    from warmeng.common.errors import UsageError

    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise UsageError("triton was imported before --interpret could choose its interpreter: set TRITON_INTERPRET=1")
    os.environ["TRITON_INTERPRET"] = "1"
    import torch

    from warmeng.bench.cases.case import tiny
    from warmeng.bench.kernels import run_all
    from warmeng.bench.tables import kernel_lines

    found, _ = run_all(tiny(shape, torch.float32), None, only=only, say=_say)
    fields = {"shape": shape, "interpreted": True, "results": found}
    _finish("kernels", torch.device("cpu"), kernel_lines(found), fields, None)
    _fail_where_wrong(found)


def _fail_where_wrong(found: Sequence[Any]) -> None:
    wrong = [f"{f.kernel}, {f.shape}" for f in found if not f.correct]
    if wrong:
        raise click.ClickException(f"wrong results: {'; '.join(wrong)}")


@bench.command()
@_shape_option()
@click.option("--requests", type=click.IntRange(1), default=512, show_default=True, help="Grades of a repetition.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--prefix", type=click.IntRange(1), default=800, show_default=True, help="Shared tokens.")
@click.option("--new", type=click.IntRange(1), default=480, show_default=True, help="Tokens of each request's own.")
@click.option("--fast", is_flag=True, help="Give up batch invariance.")
@_device_option()
@_save_option()
def grade(
    shape: str, requests: int, repeats: int, prefix: int, new: int, fast: bool, device: str, save: Path | None
) -> None:
    """Exact label grades a second, with a shared prefix from the cache, on random weights of a shape.

    \b
    Examples:
      warmeng bench grade --device cuda --save
      warmeng bench grade --shape smollm2-135m --requests 8 --repeats 1 --device cpu
    """
    from warmeng.bench.environment import pick_device
    from warmeng.bench.grade import measure_grades
    from warmeng.bench.tables import grade_lines
    from warmeng.engine.settings import EngineSettings

    where = pick_device(device)
    found = measure_grades(
        shape, device=where.type, count=requests, repeats=repeats, prefix=prefix, new=new,
        settings=EngineSettings(fast=fast), say=_say,
    )  # fmt: skip
    _finish("grade", where, grade_lines(found), vars(found), save)


@bench.command()
@click.option("--sequences", default="512,1024", show_default=True, help="Numbers of sequences that run at once.")
@click.option("--adapters", type=click.IntRange(0, 7), default=2, show_default=True)
@click.option("--temperature", type=click.FloatRange(0.0, 100.0), default=0.8, show_default=True)
@_save_option()
def host(sequences: str, adapters: int, temperature: float, save: Path | None) -> None:
    """The host's part of a step on a card: scheduling, arrays and outcomes, with the device's work left out.

    CPU time of the one thread that does it, beside a fixed loop of small NumPy calls timed between the steps.

    \b
    Examples:
      warmeng bench host
      warmeng bench host --sequences 64,256 --adapters 0 --temperature 0
    """
    import torch

    from warmeng.bench.host import measure_host
    from warmeng.bench.tables import host_lines

    found = []
    for count in _sizes("--sequences", sequences):
        _say(f"{count} sequences")
        found.append(measure_host(count, adapters=adapters, temperature=temperature))
    _finish("host", torch.device("cpu"), host_lines(found), {"results": found}, save)


@bench.command()
@click.option("--shape", "shapes", multiple=True, help="As of 'bench generate'; may be given again; default: three.")
@click.option("--card", type=click.Choice(["h100", "h200"]), default="h100", show_default=True)
@click.option("--timings", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="JSON with measured values in place of the assumed ones.")  # fmt: skip
@click.option("--personas", type=click.IntRange(1, 8), default=3, show_default=True, help="The base and adapters.")
@click.option("--rank", type=click.IntRange(1, 256), default=8, show_default=True, help="Of the adapters.")
@click.option("--requests", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--max-num-seqs", type=click.IntRange(1), default=None, help="Default: the engine's.")
@click.option("--cache-slots", type=click.IntRange(1024), default=None, help="Default: what the card's memory leaves.")
@_save_option()
def simulate(
    shapes: tuple[str, ...], card: str, timings: Path | None, personas: int, rank: int, requests: int,
    max_num_seqs: int | None, cache_slots: int | None, save: Path | None,
) -> None:  # fmt: skip
    """Output tokens a second on a card, predicted: the real scheduler on the workload, on a device that keeps time.

    Each kernel's time comes from the card's two ceilings and the share that it reaches of them. The shares are
    assumptions; --timings names a JSON file with what was measured: bytes_per_second, operations_per_second, memory,
    shares (of products, attention, head, choice, small: a number, or pairs of rows and share), gap, launch, and host
    (step, sequence, row). The host's cost is measured here where the file has none.

    \b
    Examples:
      warmeng bench simulate
      warmeng bench simulate --shape llama-3.1-8b --card h200 --max-num-seqs 512
      warmeng bench simulate --timings measured.json
    """
    import torch

    from warmeng.bench.host import measure_host
    from warmeng.bench.lengths import read_lengths
    from warmeng.bench.simulate import CARDS, read_timings
    from warmeng.bench.simulate import simulate as predict
    from warmeng.bench.tables import simulated_lines

    about = CARDS[card] if timings is None else read_timings(timings, CARDS[card])
    cost = about.host
    if cost is None:
        _say("measuring the host's part of a step")
        cost = measure_host(max_num_seqs or 1024, adapters=personas - 1).cost
    found = []
    for shape in shapes or ("llama-3.1-8b", "mistral-small-22b", "qwen2.5-32b"):
        _say(f"simulating {shape}")
        found.append(
            predict(
                shape, about, cost, personas=personas, rank=rank, max_num_seqs=max_num_seqs, slots=cache_slots,
                lengths=read_lengths(requests),
            )
        )  # fmt: skip
    fields = {"card": card, "timings": about, "results": found}
    _finish("simulate", torch.device("cpu"), simulated_lines(found, card), fields, save)


@bench.command()
@click.option(
    "--results", default=_SAVE_HERE, show_default=True, type=click.Path(file_okay=False, path_type=Path),
    help="Folder of saved lines; the pictures go there too.",
)  # fmt: skip
def plot(results: Path) -> None:
    """Pictures of saved measurements: output tokens a second over batch size, kernels' shares of their rooflines.

    \b
    Examples:
      warmeng bench plot
      warmeng bench plot --results measured
    """
    from warmeng.bench.plot import draw_all
    from warmeng.common.errors import UsageError

    pictures = draw_all(results)
    if not pictures:
        raise UsageError(
            f"{results} has no saved kernels, and no generation with a curve: "
            "run 'warmeng bench kernels --save' or 'warmeng bench generate --shape ... --curve ... --save' first"
        )
    for path in pictures:
        click.echo(path)


@bench.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="Folder, built-in name or hub name.")
@click.option("--pairs", type=click.IntRange(1), default=3, show_default=True, help="Steps, each made by all in turn.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Conversations of a step.")
@click.option("--micro-batch", type=click.IntRange(1), default=None, help="Fix the others'; default: their best.")
@click.option("--threads", type=click.IntRange(1), default=None, help="CPU threads of all; default: PyTorch's choice.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--trl/--no-trl", default=True, show_default=True, help="Run TRL's trainer too where it is installed.")
@_save_option()
def finetune(
    model: str, pairs: int, batch: int, micro_batch: int | None, threads: int | None, device: str, trl: bool,
    save: Path | None,
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

    found = compare_training(
        model, pairs=pairs, batch=batch, micro_batch=micro_batch, threads=threads, device=device, trl=trl, say=_say
    )
    _finish("finetune", pick_device(device), training_lines(found), vars(found), save)
