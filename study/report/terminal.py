"""The main tables of a run and of an analysis for a terminal; the rest is in the files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from warmeng.study.prompts import OWN_BELIEFS
from warmeng.study.report.headline import claim_line
from warmeng.study.report.results import found_lines, notes
from warmeng.study.report.table import laid_out
from warmeng.study.stats.belief_margins import SHIFT
from warmeng.study.stats.tables import shown

if TYPE_CHECKING:
    from rich.console import Console

Row = Mapping[str, Any]


def _pooled(row: Row) -> bool:
    return bool(row["task"] == "all" and row["context"] == "all")


def _asked(row: Row) -> bool:
    """Whether a row is of one context and one belief of the user, over all tasks."""
    return bool(row["task"] == "all" and row["context"] != "all" and row["belief"] in OWN_BELIEFS)


def _contrasted(row: Row) -> bool:
    """Whether a contrast of margins is a main one: pooled, and no shift, which has its own table."""
    return _pooled(row) and not str(row["measure"]).startswith(SHIFT)


def _main_scope(row: Row) -> bool:
    return bool(row["scope"] == "all" or row["number"] == 1)


Selection = Mapping[str, tuple[tuple[str, ...], Callable[[Row], bool]]]  # table -> columns, rows that are printed

MARGINS: Selection = {
    "margins": (
        ("model", "persona", "asking", "belief", "value", "low", "high", "shift", "shift_low", "shift_high", "n"),
        _pooled,
    ),
    "susceptibility": (("model", "persona", "asking", "measure", "value", "low", "high", "n"), _pooled),
    "agreement": (
        (
            "model", "persona", "against", "asking", "raw", "raw_low", "raw_high", "control", "control_low",
            "control_high", "value", "low", "high", "n",
        ),
        _pooled,
    ),
    "margin_contrasts": (
        ("model", "persona", "against", "asking", "measure", "value", "low", "high", "p", "n"),
        _contrasted,
    ),
}  # fmt: skip
_SEEDS: Selection = {
    "seeds": (
        ("recipe", "outcome", "seeds", "n", "value", "low", "high", "least", "most", "between_seeds"), lambda r: True
    ),
}  # fmt: skip
# What a run prints of answers and margins: what the user believes, and agreement beside its control.
RESULTS: Selection = {
    "error_rates": (
        ("model", "persona", "context", "belief", "error", "low", "high", "n", "refusal", "unclear", "unscored"),
        _asked,
    ),
    "framings": (("model", "persona", "framing", "error", "low", "high", "n"), lambda r: True),
    "differences": (
        ("model", "persona", "context", "belief", "value", "low", "high", "n"),
        _asked,
    ),
    "rises": (
        ("model", "persona", "against", "context", "belief", "unasked", "claimed", "value", "low", "high", "n"),
        lambda r: r["task"] == "all" and r["context"] != "all",
    ),
    "sycophancy": (("model", "persona", "context", "value", "low", "high", "n"), lambda r: r["task"] == "all"),
    "agreement": MARGINS["agreement"],
    **_SEEDS,
}
MAIN: Selection = {
    "error_rates": (
        ("model", "persona", "belief", "n", "error", "low", "high", "refusal", "unclear", "unscored"),
        _pooled,
    ),
    "differences": (("model", "persona", "belief", "value", "low", "high", "n"), _pooled),
    **_SEEDS,
    "belief_effects": (("model", "persona", "belief", "value", "low", "high", "n"), _pooled),
    "regressions": (
        (
            "number", "scope", "variant", "group", "n", "effect", "effect_se", "effect_se_clustered", "low", "high",
            "relative", "published", "raw",
        ),
        _main_scope,
    ),
    "did": (
        ("kind", "variant", "against", "context", "belief", "n", "value", "low", "high"),
        lambda r: r["context"] == "all" or (r["kind"] == "context" and r["belief"] == "none"),
    ),
    "rises": (
        ("model", "persona", "against", "belief", "unasked", "claimed", "value", "low", "high", "p_family", "n"),
        _pooled,
    ),
    "sycophancy": (("model", "persona", "context", "n", "value", "low", "high"), _pooled),
    "flips": (
        ("model", "variant", "belief", "from", "to", "n", "total", "share"),
        lambda r: _pooled(r) and r["belief"] != "all" and r["from"] == "correct",
    ),
    "length": (
        (
            "variant", "mean_chars", "mean_chars_baseline", "effect_without", "effect_with", "published_without",
            "published_with",
        ),
        lambda r: True,
    ),
    "refusal_rules": (("rule", "variant", "n", "effect", "low", "high", "raw"), lambda r: True),
    "raters": (("first", "second", "n", "equal", "kappa", "low", "high"), lambda r: True),
    "disputed": (("judge", "persona", "n", "disputed", "share", "to_incorrect", "to_correct"), lambda r: True),
    "judge_error": (("judge", "persona", "n", "sensitivity", "specificity"), lambda r: True),
    "corrected": (("judge", "variant", "group", "n", "effect_raw", "effect", "low", "high"), lambda r: True),
    **MARGINS,
    "published_summary": (
        ("file", "model", "belief", "n", "low", "mean", "high", "worse", "significant", "significant_fdr"),
        lambda r: r["task"] == "all" and "all" in (r["model"], r["belief"]),
    ),
    "published_claims": (("claim", "paper", "tables", "holds"), lambda r: True),
}  # fmt: skip


def print_results(console: Console, results: Mapping[str, Any]) -> None:
    """Print a run's first tables over all tasks, its counts, and what was found."""
    _print_tables(console, results["tables"], RESULTS)
    _print_lines(console, notes(results))
    if found := found_lines(results):
        console.print("[bold]What was found[/bold]")
        _print_lines(console, found)


def print_analysis(console: Console, analysis: Mapping[str, Any]) -> None:
    """Print the main tables' main rows, one line for tests, and the notes."""
    _print_tables(console, analysis["tables"], MAIN)
    alone = [f"Model {name}." for name in analysis["models"]] if len(analysis["models"]) == 1 else []
    first = filter(None, [claim_line(analysis["tables"])])
    _print_lines(console, (*first, *alone, *tests(analysis), *analysis["notes"]))


def _print_tables(console: Console, tables: Mapping[str, Any], selection: Selection) -> None:
    """Print rows of tables. Columns without a value are left out, and the model's where all rows have the same."""
    from rich.markup import escape

    for name, (keys, wanted) in selection.items():
        if name not in tables:
            continue
        table = tables[name]
        rows = [row for row in table["rows"] if wanted(row)]
        if not rows:
            continue
        kinds = {c["key"]: c for c in table["columns"]}
        used = [key for key in keys if any(row[key] not in (None, "") for row in rows)]
        used = [key for key in used if key != "model" or len({row[key] for row in rows}) > 1]
        console.print(f"[bold]{escape(table['title'])}[/bold]\n{escape(table['note'])}", highlight=False)
        body = [[shown(row[key], kinds[key]["kind"]) for key in used] for row in rows]
        numeric = [kinds[key]["kind"] != "text" for key in used]
        for part in laid_out(console.width, [kinds[key]["label"] for key in used], numeric, body):
            console.print(part)
        _print_lines(console, refusals(rows))


def _print_lines(console: Console, lines: Iterable[str]) -> None:
    from rich.markup import escape

    for line in lines:
        console.print(escape(line), soft_wrap=True, highlight=False)


def refusals(rows: Sequence[Row]) -> list[str]:
    """Return a line for each fit in which something has no finite estimate, or that there is not."""
    lines = []
    for row in rows:
        if row.get("limits"):
            what = str(row.get("rule", "length"))
            if "number" in row:
                what = f"regression {row['number']} ({row['regression']}; {row['scope']})"
            lines.append(f"{what[:1].upper()}{what[1:]} for {row['variant']}: {row['limits']}.")
    return list(dict.fromkeys(lines))


def tests(analysis: Mapping[str, Any]) -> list[str]:
    """Return a line for each variant: how many paired tests find more and fewer errors after correction.

    None without answers, so without tests.
    """
    rows = analysis["tables"]["mcnemar"]["rows"]
    lines = []
    for variant in analysis["variants"] if rows else ():
        mine = [r for r in rows if r["variant"] == variant and r["p_fdr"] is not None]
        found = [r for r in mine if r["p_fdr"] < 0.05]
        worse = sum(r["difference"] < 0 for r in found)
        untested = sum(r["variant"] == variant for r in rows) - len(mine)
        lines.append(
            f"Paired tests of {variant}: {len(mine)} conditions tested, {worse} with more errors and "
            f"{len(found) - worse} with fewer (false-discovery rate 5 % over all of the table); {untested} had no pair "
            "that differed."
        )
    return lines
