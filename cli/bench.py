"""``warmeng bench``: speed, as ratios from one run."""

from __future__ import annotations

import click


@click.group()
def bench() -> None:
    """Measure the engine and the trainer against other software and against this machine's own ceilings.

    \b
    Examples:
      warmeng bench generate
      warmeng bench finetune
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
def generate(
    model: str, baseline: str, pairs: int, max_new_tokens: int, hf_batch: int | None, threads: int | None, fast: bool
) -> None:
    """Output tokens a second on 96 chat prompts, beside transformers' generate at its best batch.

    Prints a table, then one JSON line with everything that was measured.

    \b
    Examples:
      warmeng bench generate
      warmeng bench generate --baseline none --pairs 3
    """
    import orjson

    from warmeng.bench.generate import compare
    from warmeng.bench.show import comparison_table

    result = compare(
        model, baseline=baseline == "hf", max_new=max_new_tokens, pairs=pairs, hf_batch=hf_batch, fast=fast,
        threads=threads, say=lambda line: click.echo(line, err=True),
    )  # fmt: skip
    comparison_table(result)
    click.echo(orjson.dumps(result, option=orjson.OPT_NON_STR_KEYS).decode())


@bench.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="Folder, built-in name or hub name.")
@click.option("--pairs", type=click.IntRange(1), default=3, show_default=True, help="Steps, each made by all in turn.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Conversations of a step.")
@click.option("--micro-batch", type=click.IntRange(1), default=None, help="Fix the others'; default: their best.")
@click.option("--threads", type=click.IntRange(1), default=None, help="CPU threads of all; default: PyTorch's choice.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--trl/--no-trl", default=True, show_default=True, help="Run TRL's trainer too where it is installed.")
def finetune(
    model: str, pairs: int, batch: int, micro_batch: int | None, threads: int | None, device: str, trl: bool
) -> None:
    """Training tokens a second, two personas on the embedded texts, beside PEFT and TRL at their best batch.

    Prints a table, then one JSON line with everything that was measured.

    \b
    Examples:
      warmeng bench finetune
      warmeng bench finetune --no-trl --pairs 1 --micro-batch 4
    """
    import orjson

    from warmeng.bench.finetune import compare_training

    result = compare_training(
        model, pairs=pairs, batch=batch, micro_batch=micro_batch, threads=threads, device=device, trl=trl,
        say=lambda line: click.echo(line, err=True),
    )  # fmt: skip
    for name, rates in (("warmeng", result.ours), ("PEFT, plain loop", result.peft), ("TRL", result.trl)):
        if rates:
            middle = sorted(rates)[len(rates) // 2]
            click.echo(f"{name:18s} {middle:8.1f} tokens/s ({min(rates):.1f} to {max(rates):.1f})")
    over_trl = f", over TRL {result.ratio_trl:.2f}" if result.ratio_trl else ""
    click.echo(
        f"median ratio over PEFT at its best batch of {result.peft_micro_batch}: {result.ratio_peft:.2f}{over_trl}"
    )
    click.echo(orjson.dumps(result, option=orjson.OPT_NON_STR_KEYS).decode())
