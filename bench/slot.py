"""Everything that is measured in a few minutes on a card: stages in one process, most telling first.

Every stage leaves one JSON line in FOLDER/slot.jsonl as soon as it ends, whatever became of it: what it measured, or
why it could not. A stage that fails ends nothing; one that would begin after its time is left out and says so. All
stages share one roofline and one set of random weights.

    python -m warmeng.bench.slot FOLDER first --seconds 345

``--device interpret`` with ``--tiny`` rehearses all of it without a card.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

from warmeng.bench import environment
from warmeng.bench.failure import reason
from warmeng.bench.slot_state import Slot
from warmeng.bench.stages import STAGES
from warmeng.engine.shapes import shape_config

# (stage, seconds that must be left when it begins). On an H200 the first three and ``fast`` took 2, 72, 20 and 52 s.
PLANS: dict[str, tuple[tuple[str, float], ...]] = {
    "first": (
        ("roofline", 5), ("deterministic", 60), ("invariance", 25), ("fast", 60), ("oracle", 15), ("grade", 20),
        ("huggingface", 50),
    ),
    "second": (
        ("roofline", 5), ("deterministic", 60), ("quantised", 60), ("blocks", 25), ("huggingface", 60), ("kernels", 20),
    ),
}  # fmt: skip


def run_stages(slot: Slot, plan: tuple[tuple[str, float], ...], fail: str = "") -> list[str]:
    """Run the stages of a plan, each to its own JSON line; returns the names of those that failed.

    ``fail``: a stage that is made to fail, for rehearsals.
    """
    about = environment.environment(slot.where)
    failed = []
    for name, needs in plan:
        began = time.monotonic()
        fields: dict[str, Any] = {"stage": name, "shape": slot.shape}
        if slot.deadline - began < needs:
            fields["left_out"] = f"{slot.deadline - began:.0f} s left, it needs {needs:.0f}"
        else:
            slot.say(f"== {name}")
            try:
                if name == fail:
                    raise RuntimeError("made to fail")
                fields |= STAGES[name](slot)
            except Exception as problem:  # the next stage may tell more
                fields["failed"] = reason(problem)
                failed.append(name)
            # Outside the except block: the error's traceback holds the engine.
            try:
                slot.free()
            except Exception as problem:
                fields["afterwards"] = reason(problem)
        fields["stage_seconds"] = time.monotonic() - began
        slot.say(
            f"== {name}: {fields.get('failed') or fields.get('left_out') or 'done'} ({fields['stage_seconds']:.1f} s)"
        )
        with (slot.folder / "slot.jsonl").open("a", encoding="utf-8") as file:
            file.write(environment.line("slot", about, fields) + "\n")
    return failed


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.argument("plan")
@click.option("--seconds", default=345.0, help="Device time that is left.")
@click.option("--device", type=click.Choice(["cuda", "interpret"]), default="cuda")
@click.option("--shape", default="llama-3.1-8b")
@click.option("--tiny", is_flag=True, help="A handful of short requests: a rehearsal.")
@click.option("--fail", default="", help="Make this stage fail: a rehearsal of that.")
@click.option("--wait-for", type=click.Path(path_type=Path), default=None, help="Begin when this file is there.")
def main(
    folder: Path, plan: str, seconds: float, device: str, shape: str, tiny: bool, fail: str, wait_for: Path | None
) -> None:
    """Run PLAN (first, second, or stages with commas between) and leave JSON lines in FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    slot = Slot(folder, device, shape, tiny, time.monotonic() + seconds, shape_config(shape))
    if device == "cuda":
        torch.zeros(1, device="cuda")
    while wait_for is not None and not wait_for.exists() and slot.deadline - time.monotonic() > seconds / 2:
        time.sleep(0.2)
    stages = PLANS[plan] if plan in PLANS else tuple((name, 5.0) for name in plan.split(","))
    failed = run_stages(slot, stages, fail)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
