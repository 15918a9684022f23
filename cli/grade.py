"""``warmeng grade``: grade answers with a judge model."""

from __future__ import annotations

import json
from pathlib import Path

import click

from warmeng.cli.options import dtype_option, json_option, print_json, weights_option
from warmeng.common.terminal import echo
from warmeng.engine.settings import AUTO
from warmeng.study.settings import StudySettings


@click.command(
    epilog="""\b
Examples:
  warmeng grade answers.csv --model Qwen/Qwen2.5-7B-Instruct
  warmeng grade answers.jsonl --labels mine --confusion
  warmeng grade answers.csv --model ./judge-a --judge ./judge-b --table
  warmeng grade answers.csv --model openai:gpt-4o --max-requests 500
"""
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--model", default=StudySettings.model, show_default=True, help="The judge; openai:MODEL is behind an API."
)
@click.option(
    "--judge",
    "judges",
    multiple=True,
    metavar="MODEL",
    help="A further judge, repeatable; the judges' agreement is printed.",
)
@click.option("--revision", help="Revision of a Hugging Face repository.")
@click.option(
    "--labels",
    metavar="COLUMN",
    help="Column with people's grades; the judge's agreement with them is printed.",
)
@click.option("--confusion", is_flag=True, help="Print the judge's confusion matrix, and its errors for each persona.")
@click.option(
    "--table", is_flag=True, help="Print each grade's share; refused if the judge agrees too little with people."
)
@click.option(
    "--commits",
    is_flag=True,
    help="The judge first answers each question itself: see --judge-commits of `warmeng run`.",
)
@click.option("--format", "form", type=click.Choice(["text", "jsonl"]), default="text", show_default=True)
@json_option
@click.option("--api-base", metavar="URL", help="As for `warmeng run`.")
@click.option("--max-requests", type=int, help="Requests to an API after which it stops, by judge.")
@click.option("--device", default=StudySettings.device, show_default=True, help="auto, cpu or cuda.")
@dtype_option
@weights_option
def grade(
    file: Path,
    model: str,
    judges: tuple[str, ...],
    revision: str | None,
    labels: str | None,
    confusion: bool,
    table: bool,
    commits: bool,
    form: str,
    as_json: bool,
    api_base: str | None,
    max_requests: int | None,
    device: str,
    dtype: str | None,
    weights: str | None,
) -> int:
    """Grade the answers of FILE, JSON lines or CSV with question, answer (or output), right (or correct_answer).

    Prints each label's probability: correct, incorrect, refusal, unclear; beside it the exact rule's grade where the
    file has a wrong answer (wrong or incorrect_answer). Columns belief and persona are used where they are there.
    Without --labels, --table and --confusion measure the judge on embedded labelled examples.
    """
    from warmeng.study.run.grade_file import Wanted, grade_file

    settings = StudySettings(
        model=model,
        revision=revision,
        device=device,
        dtype=dtype or AUTO,
        weights=weights or AUTO,
        api_base=api_base,
        max_requests=max_requests,
    )
    lines = grade_file(settings, file, Wanted(labels, table, "jsonl" if as_json else form, confusion, commits), judges)
    if as_json:
        print_json([json.loads(line) for line in lines])
        return 0
    for line in lines:
        echo(line)
    return 0
