"""A server on the tiny model, and the same engine beside it without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import Running, engine_with_personas, serving

from warmeng.engine.engine import Engine


@pytest.fixture(scope="session")
def plain(tiny_model: Callable[[str], Path], tiny_adapters: list[Path]) -> Engine:
    """The engine alone, whose answers the server's must be."""
    return engine_with_personas(tiny_model("llama"), tiny_adapters)


@pytest.fixture(scope="module")
def running(tiny_model: Callable[[str], Path], tiny_adapters: list[Path]) -> Iterator[Running]:
    """A server that the tests of a file share. Others replace the clock, which its event loop goes by."""
    with serving(engine_with_personas(tiny_model("llama"), tiny_adapters)) as found:
        yield found
