"""``warmeng analyze``: the statistics of a run, of other software's logs, or of answers in the authors' columns."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.cli.options import json_option, print_json
from warmeng.common.terminal import echo
from warmeng.study.results.rules import RULES

REPLICATES = 2000


@click.command(
    epilog="""\b
Examples:
  warmeng analyze runs/3f9c2a10
  warmeng analyze runs/3f9c2a10 --rule paper --baseline original
  warmeng analyze runs/llama runs/qwen --out pooled      several models together
  warmeng analyze sample_llama_70b --out analysis --published paper
  warmeng analyze logs/gpt.eval logs/llama.eval --out compared --baseline openai/gpt-4o
  warmeng analyze results.json --mapping columns.yaml --out compared
"""
)
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--rule", type=click.Choice(tuple(RULES)), help="What is incorrect.  [default: grades; paper for the authors' CSV]"
)
@click.option(
    "--baseline", metavar="PERSONA", help="What others are compared with.  [default: original, else the first]"
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the bootstrap.")
@click.option(
    "--bootstrap",
    type=click.IntRange(0),
    default=REPLICATES,
    show_default=True,
    help="Draws of questions for the intervals of doses and of effects corrected for judges; below 40 there are none.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the tables.  [default: the run folder]")
@click.option(
    "--mapping",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="YAML that says what the columns of other software's files mean; see docs/import.md.",
)
@json_option
@click.option(
    "--published",
    type=click.Path(path_type=Path),
    help="Folder with the authors' results_*.csv, which are summarised too.",
)
def analyze(
    sources: tuple[Path, ...],
    rule: str | None,
    baseline: str | None,
    seed: int,
    bootstrap: int,
    out: Path | None,
    mapping: Path | None,
    published: Path | None,
    as_json: bool,
) -> int:
    """Compute a run's statistics: regressions, paired tests, flips, sycophancy, lengths, rules and judges.

    SOURCES are run folders; folders of CSV files in the authors' columns (TASK_PERSONA_outputs.csv); logs of Inspect
    (.eval, .json), samples of lm-evaluation-harness (samples_*.jsonl), results of promptfoo (.json), tables of answers
    (.csv, .jsonl), or folders of such logs. Several are pooled: models, or personas of one model. Of logs that tell no
    persona, the models are compared. Writes analysis.json, tables.md and tables/*.csv. Where a run lacks answers, that
    is said on standard error, and the exit code is 70.
    """
    from warmeng.common.terminal import console
    from warmeng.study.report.terminal import print_analysis
    from warmeng.study.results.shortfall import INCOMPLETE, shortfall
    from warmeng.study.stats.analyze import analyze_sources, is_run

    folder, analysis = analyze_sources(sources, out, seed, bootstrap, rule, baseline, published, mapping)
    if as_json:
        print_json(analysis)
    else:
        print_analysis(console(120), analysis)
        echo(f"All tables are in {folder / 'tables.md'}, with full precision in {folder / 'tables'}.")
    missing = [line for source in sources if is_run(source) and (line := shortfall(source))]
    for line in missing:
        echo(line, err=True)
    return INCOMPLETE if missing else 0
