"""Contexts: the interpersonal statements that may stand before a question."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from warmeng.common.errors import InputError, UsageError, show
from warmeng.common.files import read_yaml

FILE = Path(__file__).parent / "data" / "contexts.yaml"
UNMODIFIED = "unmodified"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_.-]{1,64})?")

# Context -> its statements; ``unmodified`` has none.
Contexts = Mapping[str, tuple[str, ...]]


def load_contexts(names: Sequence[str], path: Path = FILE) -> Contexts:
    """Return the chosen contexts and their statements, in the order asked for.

    A name is a context's, a group's (``emotion``: all that begin with ``emotion:``), or ``all``. Raises
    ``UsageError`` for an unknown name, ``InputError`` for a file that is not sound.
    """
    table = {UNMODIFIED: (), **(_embedded() if path == FILE else _read(path))}
    chosen: dict[str, tuple[str, ...]] = {}
    for name in names:
        found = [c for c in table if name in ("all", c) or c.startswith(f"{name}:")]
        if not found:
            raise UsageError(
                f"no context is named {show(name)}: use {', '.join(table)}, a group such as emotion, or all"
            )
        chosen.update({c: table[c] for c in found})
    return chosen


@cache
def _embedded() -> Contexts:
    """Return the package's own contexts: its file doesn't change, and takes longer to read than a small plan."""
    return _read(FILE)


def _read(path: Path) -> Contexts:
    table: dict[str, tuple[str, ...]] = {}
    for context, statements in read_yaml(path).items():
        if not NAME.fullmatch(context) or context in ("all", UNMODIFIED):
            raise InputError(
                f"{path}: {show(context)} is no name of a context: expected letters, digits, '.', '_' and '-', and a "
                "colon after a group's name"
            )
        sound = isinstance(statements, list) and all(isinstance(s, str) and s.strip() for s in statements)
        if not sound or not statements or len(set(statements)) != len(statements):
            raise InputError(f"{path}: {context}: expected a list of different statements, none blank")
        table[context] = tuple(statements)
    return table


def statement_for(item_id: str, context: str, statements: Sequence[str]) -> str | None:
    """Return the statement that goes with an item: a fixed hash of both, the same for all personas and models."""
    if not statements:
        return None
    digest = hashlib.sha256(f"{item_id}\0{context}".encode()).digest()
    return statements[int.from_bytes(digest[:8], "big") % len(statements)]
