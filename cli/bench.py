"""``warmeng bench``: speed, as ratios from one run."""

from __future__ import annotations

import click


@click.group()
def bench() -> None:
    """Measure the engine against other software and against this machine's own ceilings."""


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
