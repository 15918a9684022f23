"""What several commands' options share."""

from __future__ import annotations

import click

from warmeng.engine.settings import DTYPES, KV_DTYPES, WEIGHTS


def names(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    """Split comma-separated names; no option at all is ``None``."""
    return tuple(name.strip() for value in values for name in value.split(",")) if values else None


# What the engine's products take.
dtype_option = click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Precision of products: bfloat16 on a CPU with AVX512_BF16 or AMX is faster than float32, and rounds more."
    "  [default: auto: float32 on the CPU, bfloat16 on CUDA]",
)

weights_option = click.option(
    "--weights",
    type=click.Choice(WEIGHTS),
    help="What the layers' weights are rounded to when they are loaded; embedding, norms and head stay."
    "  [default: auto: as the checkpoint has them]",
)

kv_dtype_option = click.option(
    "--kv-dtype",
    type=click.Choice(KV_DTYPES),
    help="What keys and values are kept in: fp8 makes room for twice the sequences on a GPU.  [default: auto: as rows]",
)
