"""The ``warmeng`` command: a group whose commands are imported only when they are used."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import shlex
import sys
from typing import TYPE_CHECKING

import click

from warmeng import __version__
from warmeng.common.errors import WarmengError, one_line, without_secrets
from warmeng.common.interrupts import (
    EXIT_CODE,
    convert_to_keyboard_interrupt,
    ignore_interrupts,
    install_signal_handlers,
)
from warmeng.common.terminal import echo, printable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

LONGEST = 4000  # characters of an error's line
# These go on where they were when they are called again.
CONTINUE = (["run"], ["prepare"], ["finetune"])

# Name -> (module, attribute, help): listed without importing anything.
COMMANDS = {
    "run": ("warmeng.cli.run", "run", "Measure personas: accuracy and sycophancy per context."),
    "analyze": (
        "warmeng.cli.analyze",
        "analyze",
        "Statistics of runs, other software's logs, the authors' files.",
    ),
    "compare": ("warmeng.cli.compare", "compare", "Compare two runs, answer by answer where both ask the same."),
    "fidelity": ("warmeng.cli.fidelity", "fidelity", "Compare two runs on weights of two precisions."),
    "audit": ("warmeng.cli.audit", "audit", "Make a run again in part: does anything differ?"),
    "report": ("warmeng.cli.report", "report", "Write a run's report page and its figures."),
    "browse": ("warmeng.cli.browse", "browse", "Read a run's answers in the terminal."),
    "export": ("warmeng.cli.export", "export", "Write a run's answers for other tools: CSV, Parquet, lm-eval."),
    "grade": ("warmeng.cli.grade", "grade", "Grade answers of a JSONL or CSV file with a judge model."),
    "labels": ("warmeng.cli.labels", "labels", "Let people label some of a run's answers, and take the labels in."),
    "serve": ("warmeng.cli.serve", "serve", "Serve a model and its personas to OpenAI's clients."),
    "lm-eval": ("warmeng.cli.lm_eval", "lm_eval", "Run lm-evaluation-harness on the engine in this process."),
    "finetune": ("warmeng.cli.finetune", "finetune", "Train warm and cold adapters on conversations."),
    "vector": ("warmeng.cli.vector", "vector", "Make steering vectors from contrasting conversations."),
    "merge": ("warmeng.cli.merge", "merge", "Write an adapter into its base's checkpoint."),
    "recover": ("warmeng.cli.recover", "recover", "Find the adapter that a merged checkpoint holds."),
    "list": ("warmeng.cli.list", "list_", "List tasks, contexts, beliefs, personas and models by name."),
    "show": ("warmeng.cli.show", "show", "Show one question as it is sent."),
    "new": ("warmeng.cli.new", "new", "Write a study file with every setting, to begin with."),
    "models": ("warmeng.cli.models", "models", "List, fetch and verify models."),
    "prepare": ("warmeng.cli.prepare", "prepare", "Make warm and cold training data out of conversations."),
    "warmth": ("warmeng.cli.warmth", "warmth", "Measure how warm checkpoints and texts sound; count ratings."),
    "placebo": ("warmeng.cli.placebo", "placebo", "Make adapters of random directions, at a real one's distance."),
    "completion": ("warmeng.cli.completion", "completion", "Print the script that completes commands in a shell."),
    "bench": ("warmeng.cli.bench.group", "bench", "Measure speed against the machine and other software."),
}


class LazyGroup(click.Group):
    """Loads a command's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return with_verbosity(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; name the nearest ones where there is none of that name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"use {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command is named {one_line(args[0], 60)!r}: {hint}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name from the table above, without importing any."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=text) for name, (*_, text) in COMMANDS.items() if name.startswith(incomplete)
        ]
        return found or click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


def _verbosity(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from warmeng.common import log

        ctx.with_resource(log.quiet() if param is QUIET else log.verbose())


QUIET = click.Option(
    ["-q", "--quiet"], is_flag=True, is_eager=True, expose_value=False, callback=_verbosity,
    help="Show no progress and no messages: results, missing answers and errors alone.",
)  # fmt: skip
VERBOSE = click.Option(
    ["-v", "--verbose"], is_flag=True, is_eager=True, expose_value=False, callback=_verbosity,
    help="Tell on standard error what is loaded and made, and how long each took.",
)  # fmt: skip


def with_verbosity(command: click.Command) -> click.Command:
    """Give a command, and those of a group, ``--quiet`` and ``--verbose``; it is returned."""
    if isinstance(command, click.Group):
        for one in command.commands.values():
            with_verbosity(one)
    elif not command.context_settings.get("ignore_unknown_options") and command.params[-1:] != [VERBOSE]:
        command.params += [QUIET, VERBOSE]
    return command


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        echo(f"warmeng {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def warmeng() -> None:
    """Measure how warm and cold personas change a language model's accuracy, and how far users move its answers.

    `warmeng run` alone measures a small built-in model on an embedded study, without a GPU.

    \b
    Examples:
      warmeng run --dry-run
      warmeng run
      warmeng COMMAND --help
    """


def main() -> None:
    """Run the command line; every expected error is one line on stderr and an exit code of its own.

    2 usage, 65 bad input, 70 a failure of ours, 73 locked, 74 storage, 75 stalled, 130 interrupted, 141 nobody reads.
    ``WARMENG_DEBUG=1`` shows tracebacks. Neither shows secrets of the environment, nor characters that would steer the
    terminal.
    """
    again = ", continue with: " + shlex.join(["warmeng", *sys.argv[1:]]) if sys.argv[1:2] in CONTINUE else ""
    try:
        try:
            for stream in (sys.stdout, sys.stderr):
                # What its encoding lacks is shown as an escape: a dash ends no command whose work is done.
                if isinstance(stream, io.TextIOWrapper):
                    stream.reconfigure(errors="backslashreplace")
            install_signal_handlers(f"warmeng: interrupted twice{again}\n".encode("utf-8", "replace"))
            with convert_to_keyboard_interrupt():
                code = warmeng.main(standalone_mode=False)
        finally:
            ignore_interrupts()
    except (KeyboardInterrupt, click.Abort) as error:
        _end(error, f"interrupted{again}", EXIT_CODE)
    except click.ClickException as error:
        _debug(error)
        # It is plain text that show() reads.
        error.message = printable(without_secrets(error.message))  # type: ignore[misc]
        error.show()
        sys.exit(error.exit_code)
    except WarmengError as error:
        _end(error, str(error), error.exit_code)
    except BrokenPipeError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (what is left in it has no reader)
        _end(error, "", 141)
    except OSError as error:
        from warmeng.common.files import storage_failure

        if (line := storage_failure(error)) is None:
            _end(error, _unexpected(error), 70)
        else:
            _end(error, line, 74)
    except BaseException as error:
        # Libraries written in Rust end their panics as one that is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        _end(error, _unexpected(error), 70)
    sys.exit(code if isinstance(code, int) else 0)


def _unexpected(error: BaseException) -> str:
    return f"{type(error).__name__}: {error} (WARMENG_DEBUG=1 shows where)"


def _end(error: BaseException, text: str, code: int) -> None:
    _debug(error)
    if text:
        # Where stderr takes nothing any more, the exit code tells.
        with contextlib.suppress(OSError):
            echo(f"warmeng: {one_line(text, LONGEST)}", err=True)
    sys.exit(code)


def _debug(error: BaseException) -> None:
    if os.environ.get("WARMENG_DEBUG") == "1":
        import traceback

        echo(without_secrets("".join(traceback.format_exception(error))), err=True, nl=False)
