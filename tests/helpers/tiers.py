"""Which parameters the quick tier leaves out."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """Return parameters that are marked slow; a tuple is a value for each of several names."""
    return _marked(pytest.mark.slow, values)


def full(*values: Any) -> list[Any]:
    """Return parameters that are marked full, as ``slow`` does."""
    return _marked(pytest.mark.full, values)


def _marked(mark: pytest.MarkDecorator, values: tuple[Any, ...]) -> list[Any]:
    return [pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=mark) for v in values]
