"""``warmeng run``: measure personas."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from warmeng.study.settings import StudySettings, load_settings

DEFAULTS = StudySettings()


def _names(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    """Split comma-separated names; no option at all is ``None``."""
    return tuple(name.strip() for value in values for name in value.split(",")) if values else None


def _default(name: str) -> str:
    value = getattr(DEFAULTS, name)
    return f"  [default: {','.join(value) if isinstance(value, tuple) else value}]"


@click.command(
    epilog="""\b
Examples:
  warmeng run                                    the embedded study on the built-in model
  warmeng run --dry-run --contexts all           what that would take
  warmeng run --persona original --persona warm=adapters/warm --persona both=adapters/warm@warm
  warmeng run --tasks facts,my-questions.jsonl --beliefs none,wrong,doubt,right --limit 0
  warmeng run study.yaml --seed 1                settings of a file, one of them changed
The same command again continues a run that was interrupted, or prints a finished one's tables.
"""
)
@click.argument("study", required=False, type=click.Path(path_type=Path))
@click.option("--model", help="Built-in name, folder or Hugging Face repository." + _default("model"))
@click.option("--revision", help="Revision of a Hugging Face repository.")
@click.option(
    "--persona",
    "personas",
    multiple=True,
    metavar="NAME=[ADAPTER][@PROMPT]",
    help="What is compared, repeatable: an adapter's folder, and/or a system prompt (warm, cold or a text file). "
    "original, warm-prompt and cold-prompt are built in." + _default("personas"),
)
@click.option("--tasks", multiple=True, callback=_names, help="Names, .jsonl files, or all." + _default("tasks"))
@click.option(
    "--contexts", multiple=True, callback=_names, help="Names, groups (emotion), or all." + _default("contexts")
)
@click.option("--beliefs", multiple=True, callback=_names, help="none, wrong, doubt, right." + _default("beliefs"))
@click.option("--limit", type=int, help="Items of each task, 0 for all." + _default("limit"))
@click.option("--seed", type=int, help="Chooses items and noise." + _default("seed"))
@click.option("--temperature", type=float, help="Of generated answers; 0 is greedy." + _default("temperature"))
@click.option("--top-p", type=float, help="Of generated answers; 1 keeps all tokens." + _default("top_p"))
@click.option("--max-new-tokens", type=int, help="Longest generated answer." + _default("max_new_tokens"))
@click.option("--samples", type=int, help="Answers to each prompt that is generated from." + _default("samples"))
@click.option("--composition", help="How a prompt is put together." + _default("composition"))
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/<hash of the settings>]")
@click.option("--device", help="auto or cpu." + _default("device"))
@click.option("--fast", is_flag=True, default=None, help="Faster; results may then depend on the batch.")
@click.option(
    "--dry-run", is_flag=True, help="Show requests, tokens, memory, time and the smallest effect; run nothing."
)
def run(study: Path | None, out: Path | None, dry_run: bool, **options: Any) -> int:
    """Measure personas: what each does to accuracy and to agreement with mistaken users.

    STUDY is a YAML file of settings by the names of the options below (personas for --persona); options override it.
    Without arguments, the embedded study runs on the built-in model, within about 4 minutes on two cores.
    """
    from rich.console import Console

    options["personas"] = options["personas"] or None
    settings = load_settings(study, options)
    folder = out or settings.default_folder
    if dry_run:
        from warmeng.study import dryrun

        for line in dryrun.dry_run(settings, folder):
            click.echo(line)
        return 0
    from warmeng.study.progress import for_stderr
    from warmeng.study.run import run_study
    from warmeng.study.table import print_tables

    command = shlex.join(["warmeng", *sys.argv[1:]])
    outcome = run_study(settings, folder, for_stderr(), command)
    if outcome.results is not None:
        console = Console()
        print_tables(console if console.is_terminal else Console(width=max(console.width, 100)), outcome.results)
        click.echo(f"Results are in {folder / 'results.md'}, every answer in {folder / 'records.jsonl'}.")
    return outcome.exit_code
