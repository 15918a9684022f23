"""The built-in model, loaded once."""

from __future__ import annotations

import pytest

from warmeng.engine.engine import Engine


@pytest.fixture(scope="session")
def built_in() -> Engine:
    """An engine with the built-in model, which tests share: none may add adapters to it."""
    return Engine.load("smollm2-135m-instruct")
