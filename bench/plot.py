"""Saved measurements as pictures: output tokens a second over batch size, and kernels' shares of their rooflines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from warmeng.bench.environment import read, slug


def draw_all(folder: Path) -> list[Path]:
    """Draw the newest line of each device into ``folder`` and return the pictures: none where nothing was saved."""
    found: list[Path] = []
    for bench, draw in (("workload", draw_rates), ("kernels", draw_shares)):
        newest: dict[tuple[str, str], dict[str, Any]] = {}
        for record in read(folder, bench):
            if record.get("curve") or record.get("results"):
                newest[record["device"], record["shape"]] = record
        for (device, shape), record in newest.items():
            path = folder / f"{bench}-{slug(device)}-{slug_of(shape)}.png"
            draw(record, path)
            found.append(path)
    return found


def slug_of(shape: str) -> str:
    """Return a shape's name for a file name."""
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in Path(shape).name)


def _axes(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _finish(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def draw_rates(record: dict[str, Any], path: Path) -> None:
    """Draw output tokens a second over the number of sequences at once."""
    figure, axes = _axes(7, 4.2)
    for mode in dict.fromkeys(run["mode"] for run in record["curve"]):
        runs = sorted((r for r in record["curve"] if r["mode"] == mode), key=lambda r: r["batch"])
        batches = [r["batch"] for r in runs]
        middle = [sorted(r["rates"])[len(r["rates"]) // 2] for r in runs]
        axes.plot(batches, middle, marker="o", label=f"warmeng, {mode}")
        if mode == record["curve"][0]["mode"]:
            floors = [r["tokens"] / r["floor_seconds"] for r in runs]
            axes.plot(batches, floors, color="gray", linestyle="--", label="computed from the two measured ceilings")
    static = sorted((int(b), r) for b, r in record["hf_by_batch"].items() if isinstance(r, float))
    if static:
        axes.plot(*zip(*static, strict=True), marker="s", label="transformers generate")
    if isinstance(record.get("hf_continuous"), float):
        name = record.get("hf_continuous_name") or "continuous batching"
        axes.axhline(record["hf_continuous"], color="tab:brown", linestyle=":", label=f"transformers, {name}")
    axes.set_xscale("log", base=2)
    ticks = sorted({*(r["batch"] for r in record["curve"]), *(batch for batch, _ in static)})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("sequences at once")
    axes.set_ylabel("output tokens a second")
    axes.set_title(f"{record['shape']}, random weights, {record['device']}", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    _finish(figure, path)


def draw_shares(record: dict[str, Any], path: Path) -> None:
    """Draw each kernel's share of its roofline, with the best of what stands beside it."""
    results = [r for r in record["results"] if r.get("share") is not None]
    figure, axes = _axes(8, 1.2 + 0.24 * len(results))
    names = [f"{r['kernel']}, {r['shape']}" for r in results]
    places = list(range(len(results)))
    axes.barh(places, [100 * r["share"] for r in results], color="tab:blue", label="warmeng")
    best = [
        (place, 100 * r["floor_seconds"] / min(times))
        for place, r in zip(places, results, strict=True)
        if (times := [b["seconds"] for b in r["others"].values() if b["seconds"] is not None])
    ]
    if best:
        axes.plot(*reversed(list(zip(*best, strict=True))), "d", color="tab:orange", label="the best beside it")
    axes.set_yticks(places, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 105)
    axes.set_xlabel("share of the roofline measured in the same run, %")
    axes.set_title(f"{record['shape']}, {record['device']}", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    _finish(figure, path)
