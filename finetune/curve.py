"""The loss curve as a PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warmeng.common.storage import write_atomic

_COLOURS = ("#b5482f", "#2f6db5", "#5b8c3a", "#7a5aa6", "#a68a2f")


def draw(path: Path, records: Sequence[Mapping[str, Any]], marks: Mapping[str, Mapping[float, int]]) -> None:
    """Draw each persona's loss (faint: each step; strong: the mean of an epoch's fraction) and gradient norm.

    ``marks``: by persona, the steps after which an epoch's adapter was kept. Raises StorageError.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for index, (name, kept) in enumerate(marks.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        mine = [record for record in records if name in record["personas"]]
        if not mine:
            continue
        epochs = [record["personas"][name]["epoch"] for record in mine]
        losses = [record["personas"][name]["loss"] for record in mine]
        upper.plot(epochs, losses, color=colour, alpha=0.25, linewidth=0.8)
        width = max(1, len(mine) // 60)
        means = [sum(losses[max(0, i - width + 1) : i + 1]) / min(i + 1, width) for i in range(len(losses))]
        upper.plot(epochs, means, color=colour, linewidth=1.6, label=name)
        done = {record["step"]: mean for record, mean in zip(mine, means, strict=True)}
        points = [(epoch, done[step]) for epoch, step in kept.items() if step in done]
        if points:
            upper.plot(*zip(*points, strict=True), "o", color=colour, markersize=4)
        held = [r["personas"][name] for r in mine if "held_out_loss" in r["personas"][name]]
        if held:
            points = [(one["epoch"], one["held_out_loss"]) for one in held]
            upper.plot(*zip(*points, strict=True), "s--", color=colour, markersize=4)
        norms = [record["personas"][name]["grad_norm"] for record in mine]
        lower.plot(epochs, norms, color=colour, alpha=0.8, linewidth=0.8)
    upper.set_ylabel("loss of a response token (nats)")
    upper.legend(title="persona; dots: adapters kept, squares: held out", frameon=False)
    lower.set_ylabel("gradient norm")
    lower.set_xlabel("epoch")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120, metadata={"Software": None})
    write_atomic(path, image.getvalue())
