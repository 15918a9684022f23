"""The fault suite's setting, and processes that start at once.

``WARMENG_FAULTS=full`` asks for the full counts that ``docs/reliability.md`` reports; without it the suite stays
within minutes.
"""

from __future__ import annotations

import os

import pytest

FULL = os.environ.get("WARMENG_FAULTS") == "full"


def _count(ci, full):
    return full if FULL else ci


@pytest.fixture(scope="session", name="FULL")
def full():
    """Whether the full counts are asked for."""
    return FULL


@pytest.fixture(scope="session")
def count():
    """A function from (count in CI, count in full) to the one that holds."""
    return _count


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
