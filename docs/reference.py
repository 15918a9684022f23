"""Writes ``docs/cli.md`` from the commands and ``docs/api.md`` from the package's public names.

    python docs/reference.py        after a change of either

Both pages come from what the code says of itself, and ``tests/test_documents.py`` holds them to it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from itertools import groupby, zip_longest
from pathlib import Path

import click

import warmeng
from warmeng.cli.main import warmeng as command_line

HERE = Path(__file__).parent
MADE = "<!-- Written by docs/reference.py: change the code's own texts, and run it again. -->"


def pages() -> dict[str, str]:
    """The generated pages, by their names in this folder."""
    return {"cli.md": "\n".join(cli_lines()) + "\n", "api.md": "\n".join(api_lines()) + "\n"}


def cli_lines() -> Iterator[str]:
    """Every command with its help, arguments and options, as Markdown."""
    yield from ("# Commands", "", MADE, "")
    root = click.Context(command_line, info_name="warmeng")
    yield from command_lines(root, 2)


def command_lines(context: click.Context, level: int) -> Iterator[str]:
    command = context.command
    yield from (f"{'#' * level} {context.command_path}", "")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from ("```text", usage, "```", "")
    yield from prose(command.help or "")
    options = [param for param in command.params if isinstance(param, click.Option)]
    for name, text in filter(None, (option.get_help_record(context) for option in options)):
        yield f"- `{name}`: {escaped(' '.join(text.split()))}"
    if options:
        yield ""
    yield from prose(command.epilog or "")
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from command_lines(click.Context(found, context, name), level + 1)


def prose(text: str) -> Iterator[str]:
    """A help text's or docstring's paragraphs; what keeps its lines (``\\b``, ``>>>``) as code."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.splitlines()
        if lines and lines[0] == "\b":
            for code, some in groupby(lines[1:], lambda line: line.startswith(" ")):
                kept = textwrap.dedent("\n".join(some)).splitlines()
                yield from ("```text", *kept, "```", "") if code else (escaped(" ".join(kept)), "")
        elif lines and lines[0].startswith(">>> "):
            yield from ("```pycon", *lines, "```", "")
        elif lines:
            yield from (escaped(" ".join(lines)), "")


def escaped(text: str) -> str:
    """Text whose signs are no Markdown, but for what stands between backticks."""
    parts = re.split(r"(`+[^`]+`+)", text)
    plain = (re.sub(r"([*_\[])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2])
    return "".join(part for both in zip_longest(plain, parts[1::2], fillvalue="") for part in both)


def api_lines() -> Iterator[str]:
    """Every public name with its signature, fields and docstring, as Markdown."""
    yield from ("# Python", "", MADE, "", *prose(warmeng.__doc__ or ""))
    yield from ("`warmeng.__version__` is the version, as text.", "")
    for name in warmeng.__all__:
        if name == "__version__":
            continue
        module = importlib.import_module(getattr(warmeng, name).__module__)
        source = Path(inspect.getfile(module)).read_text(encoding="utf-8")
        node = next(n for n in ast.parse(source).body if getattr(n, "name", "") == name)
        yield from (f"## {name}", "")
        if isinstance(node, ast.FunctionDef):
            yield from signature(node, source)
        yield from prose(docstring(node))
        if isinstance(node, ast.ClassDef):
            yield from members(node, source)


def members(node: ast.ClassDef, source: str) -> Iterator[str]:
    """A class's fields with their comments, and its public methods."""
    fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
    if fields:
        lines = source.splitlines()
        first = fields[0].lineno - 1
        while lines[first - 1].lstrip().startswith("#"):
            first -= 1
        lines = lines[first : fields[-1].end_lineno]
        yield from ("```python", *textwrap.dedent("\n".join(lines)).splitlines(), "```", "")
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and not one.name.startswith("_"):
            yield from (f"### {node.name}.{one.name}", "", *signature(one, source), *prose(docstring(one)))


def signature(node: ast.FunctionDef, source: str) -> Iterator[str]:
    """A function's decorators and its line of ``def``, as they are written."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = source.splitlines()[first - 1 : node.body[0].lineno - 1]
    text = textwrap.dedent("\n".join(lines)).replace("  # fmt: skip", "").rstrip().removesuffix(":")
    yield from ("```python", *text.splitlines(), "```", "")


def docstring(node: ast.ClassDef | ast.FunctionDef) -> str:
    return ast.get_docstring(node) or ""


if __name__ == "__main__":
    for page, text in pages().items():
        (HERE / page).write_text(text, encoding="utf-8")
