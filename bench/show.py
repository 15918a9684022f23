"""Benchmark results as tables for the terminal."""

from __future__ import annotations

import statistics

from rich.console import Console
from rich.table import Table

from warmeng.bench.generate import Comparison


def comparison_table(result: Comparison) -> None:
    """Print what ``compare`` measured."""
    console = Console()
    table = Table(title=f"{result.model}: {result.prompts} prompts, {result.output_tokens} output tokens")
    table.add_column("")
    table.add_column("output tokens/s, median", justify="right")
    table.add_column("least to most", justify="right")
    rows = [("warmeng engine" + (" (fast)" if result.fast else ""), result.engine_rates)]
    if result.hf_rates:
        rows.append((f"transformers generate, batch {result.hf_batch}", result.hf_rates))
    for name, rates in rows:
        table.add_row(name, f"{statistics.median(rates):.1f}", f"{min(rates):.1f} to {max(rates):.1f}")
    console.print(table)
    if result.ratio is not None:
        console.print(
            f"median ratio of {len(result.hf_rates)} pairs: {result.ratio:.2f}; identical tokens on "
            f"{result.identical} of {result.prompts} prompts"
        )
    console.print(
        f"matrix products alone, at the fastest orientation measured now: {result.floor_seconds:.1f} s; "
        f"share of the roofline: {result.roofline_share:.0%}"
    )
    for product in result.ceilings:
        console.print(
            f"  {product['name']:8s} {product['rows']} x {product['in_features']} x {product['out_features']}: "
            f"{product['gflops']:.0f} GFLOP/s ({product['orientation']})"
        )
