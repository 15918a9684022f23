"""``warmeng bench generate``, ``workload`` and ``grade``: tokens and grades a second of whole engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from warmeng.cli.bench.options import device_option, finish, numbers, output_options, shape_option
from warmeng.common.errors import UsageError
from warmeng.common.log import say


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


@click.command()
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
@output_options
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
    finish("generate-model", torch.device("cpu"), comparison_lines(result), vars(result), save, as_json)
    if result.failed:
        raise click.ClickException(f"{', '.join(result.failed)}: the lines above say why")


@click.command()
@shape_option()
@click.option(
    "--baseline", type=click.Choice(["hf", "none"]), default="hf", show_default=True, help="What to run beside it."
)
@click.option("--fast", is_flag=True, help="Give up batch invariance in the engine.")
@click.option("--both", is_flag=True, help="Measure the deterministic mode, then the fast one.")
@click.option("--personas", type=click.IntRange(1, 8), default=3, show_default=True, help="The base and adapters.")
@click.option("--rank", type=click.IntRange(1, 256), default=8, show_default=True, help="Of the adapters.")
@click.option("--requests", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=2, show_default=True, help="Of each mix.")
@click.option("--curve", callback=numbers, default="", help="Batch sizes to measure the base at, as 32,64,128.")
@click.option("--max-num-seqs", type=click.IntRange(1), default=None, help="Default: the engine's.")
@click.option("--max-batched-tokens", type=click.IntRange(1), default=None, help="Default: the engine's.")
@click.option("--threads", type=click.IntRange(1), default=None, help="CPU threads; default: PyTorch's choice.")
@click.option("--seconds", type=click.IntRange(1), default=540, show_default=True,
              help="Begin no measurement after this time.")  # fmt: skip
@device_option()
@output_options
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
    finish("workload", where, workload_lines(result), vars(result), save, as_json)
    partial.remove()
    if result.failed:
        raise click.ClickException(f"the engine failed, {', '.join(result.failed)}: the lines above say why")


@click.command()
@shape_option()
@click.option("--requests", type=click.IntRange(1), default=512, show_default=True, help="Grades of a repetition.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--prefix", type=click.IntRange(1), default=800, show_default=True, help="Shared tokens.")
@click.option("--new", type=click.IntRange(1), default=480, show_default=True, help="Tokens of each request's own.")
@click.option("--fast", is_flag=True, help="Give up batch invariance.")
@device_option()
@output_options
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
    finish("grade", where, grade_lines(result), vars(result), save, as_json)
