"""Fields of published files' rows (``engine/tables.py``): strict, with file and line in every error."""

from __future__ import annotations

from warmeng.common.errors import InputError, show
from warmeng.engine.tables import Row, read_rows

__all__ = ["Row", "read_rows", "text", "texts"]


def text(row: Row, key: str, where: str, blank: bool = False) -> str:
    """Return a text field; ``blank``: an empty one will do. Nothing is stripped."""
    value = row.get(key)
    if not isinstance(value, str) or not (blank or value.strip()):
        raise InputError(f"{where}: {key!r} is {show(value)}, expected text that is not blank")
    return value


def texts(row: Row, key: str, where: str) -> tuple[str, ...]:
    """Return a field that is a list of texts, blank ones left out."""
    value = row.get(key)
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise InputError(f"{where}: {key!r} is {show(value)}, expected a list of texts")
    return tuple(v for v in value if v.strip())
