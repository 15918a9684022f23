"""``warmeng bench host``, ``fleet``, ``simulate`` and ``plot``: the host's cost, and what is predicted of it."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.cli.bench.options import SAVE_HERE, finish, numbers, output_options
from warmeng.common.errors import UsageError
from warmeng.common.log import say
from warmeng.common.terminal import echo


@click.command()
@click.option("--sequences", callback=numbers, default="512,1024", show_default=True,
              help="Numbers of sequences that run at once.")  # fmt: skip
@click.option("--adapters", type=click.IntRange(0, 7), default=2, show_default=True)
@click.option("--temperature", type=click.FloatRange(0.0, 100.0), default=0.8, show_default=True)
@output_options
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
    finish("host", torch.device("cpu"), host_lines(results), {"results": results}, save, as_json)


@click.command()
@click.option("--workers", callback=numbers, default="8,64", show_default=True, help="Numbers of workers.")
@click.option("--requests", type=click.IntRange(1), default=None, help="Answers.  [default: 133,125]")
@click.option("--rate", type=click.FloatRange(1.0), default=None,
              help="Output tokens/s of each worker.  [default: of Llama-3.1-8B's shape on one H200]")  # fmt: skip
@output_options
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
    finish("fleet", torch.device("cpu"), fleet_lines(results), {"results": results}, save, as_json)


@click.command()
@click.option("--shape", "shapes", multiple=True, help="As of 'bench workload'; may be given again; default: three.")
@click.option("--card", type=click.Choice(["h100", "h200"]), default="h100", show_default=True)
@click.option("--timings", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="JSON with measured values in place of the assumed ones.")  # fmt: skip
@click.option("--personas", type=click.IntRange(1, 8), default=3, show_default=True, help="The base and adapters.")
@click.option("--rank", type=click.IntRange(1, 256), default=8, show_default=True, help="Of the adapters.")
@click.option("--requests", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--max-num-seqs", type=click.IntRange(1), default=None, help="Default: the engine's.")
@click.option("--cache-slots", type=click.IntRange(1024), default=None, help="Default: what the card's memory leaves.")
@output_options
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
    finish("simulate", torch.device("cpu"), simulated_lines(results, card), fields, save, as_json)


@click.command()
@click.option(
    "--results", default=SAVE_HERE, show_default=True, type=click.Path(file_okay=False, path_type=Path),
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
