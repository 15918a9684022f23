"""What several commands' options share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from warmeng.common.errors import UsageError
from warmeng.common.terminal import echo
from warmeng.engine.settings import DTYPES, KV_DTYPES, WEIGHTS
from warmeng.fleet.settings import FleetSettings

F = TypeVar("F", bound=Callable[..., Any])


def names(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    """Split comma-separated names; no option at all is ``None``."""
    return tuple(name.strip() for value in values for name in value.split(",")) if values else None


# What is printed as tables, for programs.
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON in place of tables and lines.")


def print_json(value: object) -> None:
    """Print a value that is made of JSON's types, data classes and paths."""
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    echo(orjson.dumps(value, default=os.fspath, option=options).decode())


def completing(kind: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return what completes the last of several names with commas between, of a kind that `warmeng list` has."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        from warmeng.study.listing import KINDS

        before, comma, last = incomplete.rpartition(",")
        names = (str(next(iter(row.values()))) for row in KINDS[kind]())
        return [f"{before}{comma}{name}" for name in names if name.startswith(last)]

    return complete


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


def ray_options(command: F) -> F:
    """Give a command the options of a fleet, ``ray``, ``workers`` and ``worker_cores``, which ``fleet_of`` takes."""
    options = (
        click.option(
            "--ray",
            is_flag=False,
            flag_value="local",
            metavar="[ADDRESS]",
            help="Divide the work among workers, each its own process: on a Ray cluster (HOST:PORT, or auto for the "
            "one that this machine belongs to), or on one that is started here and ends with the command. The results "
            "have the bits of a single process. Needs warmeng[ray].",
        ),
        click.option(
            "--workers",
            type=int,
            help="Number of workers of --ray.  [default: one for each GPU; without GPUs one for each machine]",
        ),
        click.option(
            "--worker-cores",
            type=int,
            help="CPU cores of each worker.  [default: without GPUs its share of them; with a GPU 1]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def fleet_of(ray: str | None, workers: int | None, cores: int | None) -> FleetSettings | None:
    """Return the fleet that ``ray_options`` ask for, if any. Raises ``UsageError`` where there can be none."""
    if ray is None:
        if workers is not None or cores is not None:
            raise UsageError("--workers and --worker-cores are of --ray: give it too, or leave them out")
        return None
    from warmeng.fleet.cluster import require_ray

    settings = FleetSettings(ray, workers, cores)
    require_ray()
    return settings
