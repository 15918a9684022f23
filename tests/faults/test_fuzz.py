"""Damaged inputs, seeded: every one is accepted or refused in one line, none ends in a traceback or not at all.

The full run is also one command: ``python tests/helpers/fuzz.py --seconds 600``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "helpers" / "fuzz.py"
KINDS = 7


@pytest.mark.slow
def test_no_damage_ends_in_anything_but_a_line(count: Callable[..., int]) -> None:
    seconds = count(3, 600)  # in which each kind has its turn at least once
    command = [sys.executable, str(SCRIPT), "--seconds", str(seconds), "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 240)
    found = json.loads(done.stdout) if done.stdout else {}
    print(json.dumps(found, indent=1))
    assert done.returncode == 0, (found.get("failures"), done.stderr[-2000:])
    assert found["failures"] == []
    assert len(found["counts"]) == KINDS
    for kind, outcomes in found["counts"].items():
        assert outcomes["accepted"] > 0, kind  # so the cases are near enough to what is sound
        assert outcomes["InputError"] > 0, kind
    assert found["peak_mib"] < 1024
