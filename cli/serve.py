"""``warmeng serve``: the engine behind an OpenAI-compatible API."""

from __future__ import annotations

from typing import Any

import click

from warmeng.cli.options import dtype_option, kv_dtype_option, weights_option
from warmeng.common.log import say
from warmeng.serve.limits import Limits
from warmeng.study.settings import StudySettings

DEFAULTS, LIMITS = StudySettings(), Limits()


@click.command(
    epilog="""\b
Examples:
  warmeng serve                                  the built-in model and its personas, on this machine only
  warmeng serve --model Qwen/Qwen2.5-7B-Instruct --persona original --persona warm=adapters/warm
  warmeng serve --persona original --persona warm --doses warm=0.5,2 --port 8001
  WARMENG_API_KEY=... warmeng serve --host 0.0.0.0
"""
)
@click.option(
    "--model", default=DEFAULTS.model, show_default=True, help="Built-in name, folder or Hugging Face repository."
)
@click.option("--revision", help="Revision of a Hugging Face repository.")
@click.option(
    "--persona",
    "personas",
    multiple=True,
    metavar="NAME=[ADAPTER][@PROMPT]",
    help="Offered as MODEL:NAME, repeatable; as for `warmeng run`, but full: models.  [default: as `warmeng run`]",
)
@click.option("--doses", multiple=True, metavar="NAME=DOSE,DOSE", help="As for `warmeng run`.")
@click.option("--checkpoints", multiple=True, metavar="NAME=FOLDER", help="As for `warmeng run`.")
@click.option("--name", help="The base's id.  [default: the model's name; of a folder its last part]")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Beyond this machine the variable WARMENG_API_KEY must hold a key.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--device", default=DEFAULTS.device, show_default=True, help="auto, cpu or cuda.")
@dtype_option
@weights_option
@kv_dtype_option
@click.option("--fast", is_flag=True, help="Faster; answers may then depend on the batch.")
@click.option(
    "--max-seq-len",
    type=click.IntRange(1),
    default=8192,
    show_default=True,
    help="Tokens of prompt and answer together, where the model allows more.",
)
@click.option(
    "--max-open",
    type=click.IntRange(1),
    default=LIMITS.max_open,
    show_default=True,
    help="Answers that may wait or run; more requests get status 429.",
)
@click.option(
    "--drain-seconds",
    type=click.IntRange(1),
    default=int(LIMITS.drain_seconds),
    show_default=True,
    help="Time that open requests have to finish after SIGTERM or Ctrl-C.",
)
def serve(**options: Any) -> None:
    """Serve a model and its personas to OpenAI's clients, until Ctrl-C or SIGTERM.

    All clients' requests run in one batch; an answer has the same bits whatever the others ask. docs/serve.md lists the
    parts of the API that there are.
    """
    from warmeng.serve.start import start

    start(**options, say=say)
