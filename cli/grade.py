"""``warmeng grade``: grade answers with a judge model."""

from __future__ import annotations

from pathlib import Path

import click

from warmeng.study.settings import StudySettings


@click.command(
    epilog="""\b
Examples:
  warmeng grade answers.csv --model Qwen/Qwen2.5-7B-Instruct
  warmeng grade answers.jsonl --labels mine --table
"""
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", default=StudySettings.model, show_default=True, help="The judge.")
@click.option("--revision", help="Revision of a Hugging Face repository.")
@click.option("--labels", metavar="COLUMN", help="Column with people's grades: prints the judge's agreement with them.")
@click.option("--table", is_flag=True, help="Sum the grades up; refused where the judge's agreement is too low.")
@click.option("--format", "form", type=click.Choice(["text", "jsonl"]), default="text", show_default=True)
@click.option("--device", default=StudySettings.device, show_default=True, help="auto or cpu.")
def grade(file: Path, model: str, revision: str | None, labels: str | None, table: bool, form: str, device: str) -> int:
    """Grade the answers of FILE, JSON lines or CSV with question, answer (or output), right (or correct_answer).

    Prints each label's probability: correct, incorrect, refusal, unclear. Without --labels, --table measures the
    judge on embedded labelled examples.
    """
    from warmeng.study.grade_file import grade_file

    settings = StudySettings(model=model, revision=revision, device=device)
    for line in grade_file(settings, file, labels, table, form):
        click.echo(line)
    return 0
