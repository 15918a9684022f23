"""Cells of CSV files that a spreadsheet shows and does not run.

A spreadsheet runs a cell that begins as a formula does, and models, data sets and other people's runs write such cells.
They get an apostrophe in front.
"""

from __future__ import annotations

import re
from typing import Any

# Apostrophes too, so that taking one away gives the text back.
FORMULA = re.compile(r"'*[=+\-@\t\r]")
_QUOTED = re.compile(r"'+[=+\-@\t\r]")
NUMBER = re.compile(r"[+-]?\d[\d.,]*(e[+-]?\d+)?%?", re.IGNORECASE)


def as_cell(value: Any) -> Any:
    """Return a value as a CSV cell that no spreadsheet runs: flags are 0 and 1, numbers stay, also where they are text.

    A text that begins like a formula gets an apostrophe in front; so does one that begins with apostrophes before that.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def from_cell(text: str) -> str:
    """Return the text that ``as_cell`` made a cell of."""
    return text[1:] if _QUOTED.match(text) else text
