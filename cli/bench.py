"""``warmeng bench``: speed, as shares of the machine's ceilings and as ratios from one run.

Every command turns its options into one call of ``warmeng.bench`` and prints what it returns.
"""

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
_SAVE_HERE = "bench/results"


def _device_option(default: str = "auto") -> Callable[[F], F]:
    choices = click.Choice(["auto", "cpu", "cuda"])
    return click.option("--device", type=choices, default=default, show_default=True)


def _output_options(command: F) -> F:
    """Give a command ``--save`` and ``--json``, which ``_finish`` takes."""
    save = click.option(
        "--save", is_flag=False, flag_value=_SAVE_HERE, default=None, type=click.Path(file_okay=False, path_type=Path),
        help=f"Add the JSON line to a file of the device in this folder; {_SAVE_HERE} where none is named.",
    )  # fmt: skip
    return save(json_option(command))


def _shape_option() -> Callable[[F], F]:
    from warmeng.engine.shapes import SHAPES

    return click.option(
        "--shape", default="llama-3.1-8b", show_default=True,
        help=f"Folder with a config.json, or one of {', '.join(SHAPES)}.",
    )  # fmt: skip


def _numbers(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    """Read positive whole numbers with commas between."""
    words = [word for word in value.split(",") if word]
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"{option.opts[0]} is {value!r}, expected numbers of sequences as 32,64,128")
    return tuple(map(int, words))


def _adapter_folders(named: Sequence[str]) -> dict[str, str]:
    """Return the folders of adapters that are given as ``NAME[=FOLDER]``."""
    from warmeng.study.personas import ADAPTERS

    found: dict[str, str] = {}
    for word in named:
        name, given, folder = word.partition("=")
        path = Path(folder) if given else ADAPTERS / name
        if not name or name in found or not (path / "adapter_config.json").is_file():
            raise UsageError(f"--adapter is {word!r}, expected a new NAME=FOLDER of a PEFT adapter, or warm or cold")
        found[name] = str(path)
    return found


def _finish(
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


@click.group()
def bench() -> None:
    """Measure the engine and the trainer against other software and against this machine's own ceilings.

    Every measurement prints a table, then one JSON line with everything that was measured, the device, the versions and
    the commit; --json prints the line alone, --save keeps it.

    \b
    Examples:
      warmeng bench generate
      warmeng bench finetune
      warmeng bench roofline
      warmeng bench kernels --device cuda --save
      warmeng bench workload --device cuda --save
    """


@bench.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="Folder, built-in name or hub name.")
@click.option(
    "--against",
    default="hf",
    show_default=True,
    metavar="NAME[:PRECISION],...",
    help="What to run beside warmeng: hf, openvino, ctranslate2, llama.cpp, vllm, with f32, bf16 or int8 where they "
    "have it, or none. warmeng itself may be named, once for each precision; the first of them is what ratios are "
    "taken over.",
)
@click.option(
    "--pairs", type=click.IntRange(1), default=5, show_default=True, help="Rounds of one pass of each engine in turn."
)
@click.option("--max-new-tokens", type=click.IntRange(1), default=96, show_default=True)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=None,
    help="Fix the batch of hf, ctranslate2 and llama.cpp; default: the best of 16, 32, 64 and 96.",
)
@click.option("--threads", type=click.IntRange(1), default=None, help="CPU threads of each; default: PyTorch's choice.")
@click.option("--fast", is_flag=True, help="Give up batch invariance in warmeng.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="NAME[=FOLDER]",
    help="A PEFT adapter, or warm or cold for those of the built-in model; may be given again. Engines that "
    "can mix adapters in one batch make a second pass, with the base and the adapters in turn.",
)
@_output_options
def generate(
    model: str,
    against: str,
    pairs: int,
    max_new_tokens: int,
    batch: int | None,
    threads: int | None,
    fast: bool,
    adapters: tuple[str, ...],
    save: Path | None,
    as_json: bool,
) -> None:
    """Output tokens a second of a model on the CPU, beside other engines on the same prompts.

    Answers 96 chat prompts greedily. Every engine has a process of its own, which loads the model once; they make one
    pass at a time, in turn, after one that isn't counted. Each row has the rate, its ratio to warmeng's in the same
    round, how many texts are those of transformers in float32, and the process's peak of memory. 'warmeng bench
    workload' measures random weights of any shape, on a CPU or a GPU.

    \b
    Examples:
      warmeng bench generate
      warmeng bench generate --against none --pairs 3
      warmeng bench generate --against warmeng:bf16,hf:bf16
      warmeng bench generate --against hf,openvino,ctranslate2 --save
      warmeng bench generate --against hf,openvino --adapter warm --adapter cold
    """
    import torch

    from warmeng.bench.generate import compare
    from warmeng.bench.rivals.registry import parse
    from warmeng.bench.tables import comparison_lines

    result = compare(
        model,
        parse(against),
        max_new=max_new_tokens,
        rounds=pairs,
        batch=batch,
        fast=fast,
        threads=threads,
        adapters=_adapter_folders(adapters),
        say=say,
    )
    _finish("generate-model", torch.device("cpu"), comparison_lines(result), vars(result), save, as_json)
    if result.failed:
        raise click.ClickException(f"{', '.join(result.failed)}: the lines above say why")


@bench.command()
@_shape_option()
@click.option(
    "--baseline", type=click.Choice(["hf", "none"]), default="hf", show_default=True, help="What to run beside it."
)
@click.option("--fast", is_flag=True, help="Give up batch invariance in the engine.")
@click.option("--both", is_flag=True, help="Measure the deterministic mode, then the fast one.")
@click.option("--personas", type=click.IntRange(1, 8), default=3, show_default=True, help="The base and adapters.")
@click.option("--rank", type=click.IntRange(1, 256), default=8, show_default=True, help="Of the adapters.")
@click.option("--requests", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=2, show_default=True, help="Of each mix.")
@click.option("--curve", callback=_numbers, default="", help="Batch sizes to measure the base at, as 32,64,128.")
@click.option("--max-num-seqs", type=click.IntRange(1), default=None, help="Default: the engine's.")
@click.option("--max-batched-tokens", type=click.IntRange(1), default=None, help="Default: the engine's.")
@click.option("--threads", type=click.IntRange(1), default=None, help="CPU threads; default: PyTorch's choice.")
@click.option("--seconds", type=click.IntRange(1), default=540, show_default=True,
              help="Begin no measurement after this time.")  # fmt: skip
@_device_option()
@_output_options
def workload(
    shape: str, baseline: str, fast: bool, both: bool, personas: int, rank: int, requests: int, repeats: int,
    curve: tuple[int, ...], max_num_seqs: int | None, max_batched_tokens: int | None, threads: int | None,
    seconds: int, device: str, save: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Output tokens a second on random weights and this project's workload, beside transformers.

    Prompts of 60 to 400 tokens, answers of 150 to 300: all personas in one batch, the base alone, and transformers in
    static batches and with its continuous batching.

    \b
    Examples:
      warmeng bench workload --device cuda --both --curve 32,128,512
      warmeng bench workload --shape smollm2-135m --requests 48 --repeats 1 --baseline none
    """
    import torch

    from warmeng.bench.environment import Partial, pick_device
    from warmeng.bench.record import Options
    from warmeng.bench.tables import workload_lines
    from warmeng.bench.timing import seconds_left
    from warmeng.bench.workload import measure_workload
    from warmeng.engine.settings import EngineSettings

    where = pick_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    modes = ("deterministic", "fast") if both else ("fast",) if fast else ("deterministic",)
    settings = EngineSettings(max_num_seqs=max_num_seqs, max_batched_tokens=max_batched_tokens, threads=threads)
    options = Options(
        shape, where.type, personas, rank, requests, repeats, modes, curve, baseline == "hf", settings=settings
    )  # fmt: skip
    partial = Partial("workload", where, save)
    result = measure_workload(
        options, say=say, left=seconds_left(seconds), keep=lambda result: partial.keep(vars(result))
    )  # fmt: skip
    _finish("workload", where, workload_lines(result), vars(result), save, as_json)
    partial.remove()
    if result.failed:
        raise click.ClickException(f"the engine failed, {', '.join(result.failed)}: the lines above say why")


@bench.command()
@_device_option()
@_output_options
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
    _finish("roofline", where, roofline_lines(peaks), vars(peaks), save, as_json)


@bench.command()
@_shape_option()
@click.option("--only", multiple=True, help="Kernels or shapes that contain this text; may be given again.")
@click.option("--budget", type=click.FloatRange(0.01), default=0.25, show_default=True, help="Seconds of each timing.")
@click.option("--seconds", type=click.IntRange(1), default=540, show_default=True, help="Begin no kernel after this.")
@click.option("--interpret", is_flag=True, help="Check results at tiny shapes in Triton's interpreter; times nothing.")
@_device_option()
@_output_options
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
        _finish("kernels", torch.device("cpu"), kernel_lines(results), fields, None, as_json)
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
        _finish("kernels", where, [*kernel_lines(results), *left_out_lines(fields["left_out"])], fields, save, as_json)
        partial.remove()
    wrong = [f"{result.kernel}, {result.shape}" for result in results if not result.correct]
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
@_output_options
def grade(
    shape: str,
    requests: int,
    repeats: int,
    prefix: int,
    new: int,
    fast: bool,
    device: str,
    save: Path | None,
    as_json: bool,
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
    result = measure_grades(
        shape, device=where.type, count=requests, repeats=repeats, prefix=prefix, new=new,
        settings=EngineSettings(fast=fast), say=say,
    )  # fmt: skip
    _finish("grade", where, grade_lines(result), vars(result), save, as_json)


@bench.command()
@click.option("--sequences", callback=_numbers, default="512,1024", show_default=True,
              help="Numbers of sequences that run at once.")  # fmt: skip
@click.option("--adapters", type=click.IntRange(0, 7), default=2, show_default=True)
@click.option("--temperature", type=click.FloatRange(0.0, 100.0), default=0.8, show_default=True)
@_output_options
def host(sequences: tuple[int, ...], adapters: int, temperature: float, save: Path | None, as_json: bool) -> None:
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

    results = [measure_host(count, adapters=adapters, temperature=temperature, say=say) for count in sequences]
    _finish("host", torch.device("cpu"), host_lines(results), {"results": results}, save, as_json)


@bench.command()
@click.option("--workers", callback=_numbers, default="8,64", show_default=True, help="Numbers of workers.")
@click.option("--requests", type=click.IntRange(1), default=None, help="Answers.  [default: 133,125]")
@click.option("--rate", type=click.FloatRange(1.0), default=None,
              help="Output tokens/s of each worker.  [default: of Llama-3.1-8B's shape on one H200]")  # fmt: skip
@_output_options
def fleet(workers: tuple[int, ...], requests: int | None, rate: float | None, save: Path | None, as_json: bool) -> None:
    """What many workers lose to dealing, Ray and the driver: engines that take a known time and compute nothing.

    All workers run on this machine, beside the driver. Needs warmeng[ray].

    \b
    Examples:
      warmeng bench fleet
      warmeng bench fleet --workers 4 --requests 5000
    """
    import torch

    from warmeng.bench.fleet import RATE, REQUESTS, measure_fleet
    from warmeng.bench.tables import fleet_lines

    results = [measure_fleet(count, requests or REQUESTS, rate or RATE, say) for count in workers]
    _finish("fleet", torch.device("cpu"), fleet_lines(results), {"results": results}, save, as_json)


@bench.command()
@click.option("--shape", "shapes", multiple=True, help="As of 'bench workload'; may be given again; default: three.")
@click.option("--card", type=click.Choice(["h100", "h200"]), default="h100", show_default=True)
@click.option("--timings", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="JSON with measured values in place of the assumed ones.")  # fmt: skip
@click.option("--personas", type=click.IntRange(1, 8), default=3, show_default=True, help="The base and adapters.")
@click.option("--rank", type=click.IntRange(1, 256), default=8, show_default=True, help="Of the adapters.")
@click.option("--requests", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--max-num-seqs", type=click.IntRange(1), default=None, help="Default: the engine's.")
@click.option("--cache-slots", type=click.IntRange(1024), default=None, help="Default: what the card's memory leaves.")
@_output_options
def simulate(
    shapes: tuple[str, ...], card: str, timings: Path | None, personas: int, rank: int, requests: int,
    max_num_seqs: int | None, cache_slots: int | None, save: Path | None, as_json: bool,
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

    from warmeng.bench.simulate import simulate_shapes
    from warmeng.bench.tables import simulated_lines

    assumed, results = simulate_shapes(
        shapes, card, timings, personas=personas, rank=rank, requests=requests, max_num_seqs=max_num_seqs,
        slots=cache_slots, say=say,
    )  # fmt: skip
    fields = {"card": card, "timings": assumed, "results": results}
    _finish("simulate", torch.device("cpu"), simulated_lines(results, card), fields, save, as_json)


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

    pictures = draw_all(results)
    if not pictures:
        raise UsageError(
            f"{results} has no saved kernels, and no workload with a curve: "
            "run 'warmeng bench kernels --save' or 'warmeng bench workload --curve ... --save' first"
        )
    for path in pictures:
        echo(path)


@bench.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="Folder, built-in name or hub name.")
@click.option("--pairs", type=click.IntRange(1), default=3, show_default=True, help="Steps, each made by all in turn.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Conversations of a step.")
@click.option("--micro-batch", type=click.IntRange(1), default=None, help="Fix the others'; default: their best.")
@click.option("--threads", type=click.IntRange(1), default=None, help="CPU threads of all; default: PyTorch's choice.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--trl/--no-trl", default=True, show_default=True, help="Run TRL's trainer too where it is installed.")
@_output_options
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
    _finish("finetune", pick_device(device), training_lines(result), vars(result), save, as_json)
