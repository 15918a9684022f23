"""What several commands' options share."""

from __future__ import annotations

import click


def names(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    """Split comma-separated names; no option at all is ``None``."""
    return tuple(name.strip() for value in values for name in value.split(",")) if values else None
