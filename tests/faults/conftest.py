"""The figures that ``docs/reliability.md`` reports of the full tier."""

from __future__ import annotations

import pytest

FIGURES = {}


@pytest.fixture
def tally(request):
    """Counts of one test's faults, shown at the end of the session."""
    from studies import Tally

    return FIGURES.setdefault(f"{request.node.path.name}::{request.node.name}", Tally())


def pytest_terminal_summary(terminalreporter):
    """Print the figures that ``docs/reliability.md`` reports."""
    if FIGURES:
        terminalreporter.section("faults")
        columns = ("injected", "expected", "lost", "duplicated")
        terminalreporter.write_line(f"{'test':<90}" + "".join(f"{name:>11}" for name in columns))
        for name, found in FIGURES.items():
            more = "".join(f"  {key} {value}" for key, value in found.others.items())
            terminalreporter.write_line(f"{name:<90}" + "".join(f"{getattr(found, c):>11}" for c in columns) + more)
