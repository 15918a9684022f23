"""Tables for a terminal: numbers are never folded, whatever its width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from warmeng.study.report.results import notes
from warmeng.study.report.table import Table, print_table

COLUMNS = ("persona", "context", "%", "95 % interval", "n", "s.e. clustered", "drop", "95 % interval")
ROWS = tuple(
    (persona, "relation:hierarchical_down", "61.2", "50.5 to 70.8", "1234", "-0.0251", "+9.3", "+1.6 to +16.9")
    for persona in ("original", "warm[b]")
)


def printed(width: int) -> list[str]:
    """Return the lines of the table as a terminal of this width shows them."""
    console = Console(width=width, file=io.StringIO())
    print_table(console, Table("Rates", "", COLUMNS, ROWS, 2))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_numbers_stay_whole_and_names_stand_before_them(width) -> None:
    lines = printed(width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for value in ROWS[0][2:]:
        assert text.count(value) >= 2, value
    parts = text.count("persona")
    assert text.count("warm[b]") == text.count("original") == parts
    assert parts == {40: 4, 60: 2}.get(width, 1)


def test_an_interval_stays_beside_its_value() -> None:
    for line in printed(60):
        assert ("61.2" in line) is ("50.5 to 70.8" in line)
        assert ("+9.3" in line) is ("+1.6 to +16.9" in line)


def test_names_fold_only_where_they_must() -> None:
    assert any("relation:hierarchical_down" in line for line in printed(120))
    assert not any("relation:hierarchical_down" in line for line in printed(80))


def test_disputed_grades_are_told_below_the_tables() -> None:
    run = {
        "planned": 3,
        "missing": 0,
        "model": "m",
        "seed": 0,
        "deterministic": True,
        "default_system": None,
        "gates": {},
    }
    results = {"grades": {"correct": 3}, "run": run | {"disputed": {"original": 0, "warm": 2}}}
    assert notes(results)[-1].endswith("counts: warm 2.")
    assert not any("isputed" in line for line in notes({**results, "run": run}))
