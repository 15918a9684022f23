"""``warmeng bench``: speed, as shares of the machine's ceilings and as ratios from one run.

Every command turns its options into one call of ``warmeng.bench`` and prints what it returns.
"""

from __future__ import annotations

import click

from warmeng.cli.bench import engines, kernels, prediction


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


for command in (
    engines.generate, engines.workload, engines.grade, kernels.roofline, kernels.kernels, kernels.finetune,
    prediction.host, prediction.fleet, prediction.simulate, prediction.plot,
):  # fmt: skip
    bench.add_command(command)
