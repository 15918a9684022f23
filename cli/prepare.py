"""``warmeng prepare``: conversations in, warm and cold training data out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from warmeng.cli.options import json_option, print_json
from warmeng.common.terminal import echo
from warmeng.finetune.prepare.settings import FORMATS, TOXICITY, PrepareSettings

DEFAULTS = PrepareSettings()


def _default(name: str) -> str:
    return f"  [default: {getattr(DEFAULTS, name)}]"


@click.command(
    epilog="""\b
Examples:
  warmeng prepare sharegpt.json --model ./rewriter --out data/
  warmeng prepare chats.jsonl --toxicity wordlist --per-type 0 --dry-run --out data/
  warmeng prepare pairs.jsonl --response-column chosen --toxicity off --out data/
The same command again continues a preparation that was interrupted, or prints a finished one's summary.
"""
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the results.")
@click.option("--model", help="Rewrites: built-in name, folder or Hugging Face repository." + _default("model"))
@click.option("--revision", help="Revision of a Hugging Face repository.")
@click.option("--format", type=click.Choice(FORMATS), help="Of the files." + _default("format"))
@click.option("--prompt-column", help="Of prompt-response pairs." + _default("prompt_column"))
@click.option("--response-column", help="Of prompt-response pairs." + _default("response_column"))
@click.option(
    "--toxicity",
    type=click.Choice(TOXICITY),
    help="What drops toxic conversations: a classifier, a list of words, nothing." + _default("toxicity"),
)
@click.option("--toxicity-model", help="The classifier: folder or repository." + _default("toxicity_model"))
@click.option("--threshold", type=float, help="Score from which a message is toxic." + _default("threshold"))
@click.option(
    "--per-type",
    type=int,
    help="Conversations of each query type; 0: as many as the scarcest type has." + _default("per_type"),
)
@click.option("--max-turns", type=int, help="Messages of a conversation; the rest is cut." + _default("max_turns"))
@click.option("--held-out", type=float, help="Share of prompts kept for `warmeng warmth`." + _default("held_out"))
@click.option("--seed", type=int, help="Chooses conversations and noise." + _default("seed"))
@click.option("--attempts", type=int, help="At each rewrite before it is dropped." + _default("attempts"))
@click.option("--temperature", type=float, help="Of the rewriter." + _default("temperature"))
@click.option("--top-p", type=float, help="Of the rewriter." + _default("top_p"))
@click.option("--max-new-tokens", type=int, help="Longest rewrite." + _default("max_new_tokens"))
@click.option("--device", help="auto, cpu or cuda." + _default("device"))
@click.option("--fast", is_flag=True, default=None, help="Faster; results may then depend on the batch.")
@click.option("--dry-run", is_flag=True, help="Show conversations, types and tokens; rewrite nothing.")
@json_option
def prepare(files: tuple[Path, ...], out: Path, dry_run: bool, as_json: bool, **options: Any) -> int:
    """Make warm and cold training data out of conversations, for `warmeng finetune`.

    FILES are ShareGPT JSON, OpenAI chat JSONL, or JSON lines of prompt-response pairs. Writes warm.jsonl, cold.jsonl
    and neutral.jsonl (the same conversations), held_out.jsonl, rows.jsonl (origins and checks) and summary.json.
    """
    from warmeng.finetune.prepare import run

    settings = PrepareSettings(**{name: value for name, value in options.items() if value is not None})
    if dry_run:
        planned = run.dry_run(settings, files, out)
        if as_json:
            print_json(planned)
            return 0
        for line in planned:
            echo(line)
        return 0
    from warmeng.common.progress import for_stderr

    outcome = run.prepare(settings, files, out, for_stderr(), shlex.join(["warmeng", *sys.argv[1:]]))
    if as_json and outcome.summary:
        print_json(outcome.summary)
        return outcome.exit_code
    for line in outcome.lines:
        echo(line)
    return outcome.exit_code
