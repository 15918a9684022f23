"""Memory does not grow with the number of records, nor with the time that an engine works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "helpers" / "res_memory.py"
# Bytes for each record beyond the requests that are open. Asking keeps the keys of what is done: 81 for a string of 32
# characters, 30 to 60 for its place in a set. The tables after it keep each answer's place and grade, to pair them,
# and reading back keeps the keys as 16 bytes. An answer's text or prompt, kept anywhere, would be a thousand and more.
ASKING, RESULTS = 300, 800
NOISE = 6 * 2**20  # bytes by which two processes that do the same were seen to differ, and some


def measured(*arguments, seconds, **environment):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True, text=True, timeout=seconds, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(" ".join(map(str, arguments)), found)
    return found


@pytest.mark.slow
def test_memory_does_not_grow_with_the_records(count):
    most = count(512, 16384)  # what is open at once, which bounds the requests in memory; the product's own in full
    few, many = (measured("records", n, most, seconds=1200) for n in (count(2000, 20_000), count(9000, 200_000)))
    more = many["records"] - few["records"]
    assert more >= count(6500, 180_000)
    for stage, bound in (("asking", ASKING), ("results", RESULTS)):
        growth = many["peaks"][stage] - few["peaks"][stage]
        print(f"{stage}: {growth / more:.0f} bytes for each record")
        assert growth < bound * more + NOISE


@pytest.mark.full
def test_soak(tier, count):
    """Generations with and without adapters and constraints, likelihoods and preemption, over and over.

    After the warm-up, the most memory of the second half stays within that of the first and a slack. In CI little is
    warm: there the slack is for what is kept up to a bound, which the full setting fills before it begins.
    """
    seconds, slack = count(12, 1800), count(64, 16) * 2**20
    found = measured("soak", seconds, seconds=3 * seconds + 300, OMP_NUM_THREADS="1")
    assert found["preemptions"] > 0
    assert found["cached_tokens"] > 0
    assert found["answers"] >= count(13, 500)
    assert found["end"] - found["warm"] < slack
    if tier == "full":
        assert found["slope_per_hour"] < 16 * 2**20
