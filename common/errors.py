"""What a user is told as one line: every error of ours has one base, with the exit code of the command line.

Every message is a single line that says what was got, what was expected and what to do. Whatever other software said
goes into one through ``one_line``, which leaves secrets of the environment out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import ClassVar

_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|AUTH(?!OR)", re.IGNORECASE)  # in the names of variables
_LOGIN = re.compile(r"(?<=://)[^\s/@]{1,200}:[^\s/@]{1,200}(?=@)")  # user:password of an address
# Characters that a secret has: shorter values are settings.
_LEAST = 8


class WarmengError(Exception):
    """What ends a command with one line instead of a traceback, and with ``exit_code``."""

    exit_code: ClassVar[int] = 70


class InputError(WarmengError, ValueError):
    """Data that can't be used: a file, a model, an adapter, a record."""

    exit_code = 65


class NotLowRank(InputError):
    """A checkpoint that is no low-rank change of the base: it can only run as a model of its own."""


class UsageError(WarmengError, ValueError):
    """A command or call that makes no sense, whatever the data."""

    exit_code = 2


class Stopped(WarmengError):
    """Nothing is wrong with what was asked, and what was answered is kept: the same again goes on."""

    # EX_TEMPFAIL of sysexits.h.
    exit_code = 75


class FolderLocked(WarmengError):
    """Another process writes the folder."""

    exit_code = 73


class StorageError(WarmengError):
    """The disk does not take what is written; what was finished before is intact."""

    exit_code = 74


def name_some(names: Iterable[str], limit: int = 4) -> str:
    """The first ``limit`` names in order and how many more there are, for use in a one-line message."""
    ordered = sorted(names)
    shown = ", ".join(one_line(name, 120) for name in ordered[:limit])
    return shown if len(ordered) <= limit else f"{shown} and {len(ordered) - limit} more"


def one_line(text: object, limit: int = 300) -> str:
    """``text`` with control characters and line breaks made blanks, no secret, cut to ``limit`` characters."""
    whole = without_secrets(str(text))
    flat = " ".join("".join(c if c.isprintable() else " " for c in whole[: 20 * limit]).split())
    return flat if len(flat) <= limit and len(whole) <= 20 * limit else flat[: limit - 3] + "..."


def show(value: object, limit: int = 80) -> str:
    """``value`` as a Python literal on one line, for what a message says was got."""
    if isinstance(value, str | bytes):
        value = value[: limit + 1]
    try:
        return one_line(repr(value), limit)
    except (ValueError, RecursionError):
        # An int of thousands of digits, lists in lists in lists.
        return f"a {type(value).__name__} too large to show"


def without_secrets(text: str) -> str:
    """``text`` with three dots for each value of an environment variable whose name says that it is secret.

    Libraries put such values into their errors: an HTTP client that finds a line break in a token shows the header.
    """
    for name, value in os.environ.items():
        if _SECRET.search(name):
            for part in value.split():
                if len(part) >= _LEAST and part in text:
                    text = text.replace(part, "...")
    return _LOGIN.sub("...", text) if "@" in text else text
