"""``warmeng new``: a study file to begin with."""

from __future__ import annotations

import re
from pathlib import Path

import click

from warmeng.common.terminal import echo


@click.command(
    epilog="""\b
Examples:
  warmeng new study.yaml && warmeng run study.yaml --dry-run
  warmeng new --schema          for editors that check YAML
"""
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--schema", "as_schema", is_flag=True, help="Print the JSON schema of study files instead.")
def new(file: Path | None, as_schema: bool) -> int:
    """Write FILE, a study file for `warmeng run` with every setting, its meaning and its default.

    Without FILE it is printed. A file that is there already is refused.
    """
    import orjson

    from warmeng.cli.run import run
    from warmeng.common.errors import UsageError, one_line
    from warmeng.common.files import write_atomic
    from warmeng.study.study_file import schema, study_file

    helps = {
        str(option.name): re.sub(r"\s*\[default: .*\]\s*$", "", option.help or "", flags=re.DOTALL)
        for option in run.params
        if isinstance(option, click.Option)
    }
    if as_schema:
        echo(orjson.dumps(schema(helps), option=orjson.OPT_INDENT_2).decode())
    elif file is None:
        echo(study_file(helps).rstrip("\n"))
    elif file.exists() or file.is_symlink():
        raise UsageError(f"{one_line(file)} is there already: choose another name")
    else:
        write_atomic(file, study_file(helps).encode())
        echo(f"{file} is written; see what it would take: warmeng run {file} --dry-run")
    return 0
