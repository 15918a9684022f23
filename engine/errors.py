"""The two errors that a user sees as one line: wrong data and wrong usage.

Every message is a single line that says what was got, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """Data that can't be used: a file, a model, an adapter, a record. The command line exits with 65."""


class UsageError(ValueError):
    """A command or call that makes no sense, whatever the data. The command line exits with 2."""


def name_some(names: Iterable[str], limit: int = 4) -> str:
    """The first ``limit`` names in order and how many more there are, for use in a one-line message."""
    ordered = sorted(names)
    shown = ", ".join(one_line(name, 120) for name in ordered[:limit])
    return shown if len(ordered) <= limit else f"{shown} and {len(ordered) - limit} more"


def one_line(text: object, limit: int = 300) -> str:
    """``text`` with control characters and line breaks made blanks, cut to ``limit`` characters."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


def show(value: object, limit: int = 80) -> str:
    """``value`` as a Python literal on one line, for what a message says was got."""
    return one_line(repr(value), limit)
