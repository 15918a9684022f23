"""Feed damaged inputs to the product for so many seconds and count what comes of them, by kind.

``python tests/helpers/fuzz.py --seconds 600`` prints one JSON object and ends with 0 where every case was accepted or
refused as it should be. A case that takes more than ``CASE_SECONDS``, or memory beyond ``MEMORY``, fails.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz_inputs import Cases
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

CASE_SECONDS = 20.0
MEMORY = 1536 * 2**20  # bytes that a case may take beyond what is there before the first
ROUND = 40  # cases of a kind before the next kind's turn


class Hang(BaseException):
    """A case took too long. No Exception, so that nothing takes it for a refusal."""


def _hang(number: int, frame: FrameType | None) -> None:
    raise Hang(f"no end within {CASE_SECONDS} s")


class Tally:
    """What came of the cases so far."""

    def __init__(self, end: float) -> None:
        """Take the time at which to stop."""
        self.end = end
        self.counts: dict[str, Counter[str]] = {}
        self.failures: list[str] = []
        self.longest = 0.0

    def round(self, cases: Cases, kind: str, seed: int) -> None:
        """Do ``ROUND`` cases of one kind; one that fails ends the round."""
        counts = self.counts.setdefault(kind, Counter())

        def case(data: st.DataObject) -> None:
            started = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
            faulthandler.dump_traceback_later(3 * CASE_SECONDS, exit=True)
            try:
                counts[cases.run(kind, data.draw)] += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                faulthandler.cancel_dump_traceback_later()
                self.longest = max(self.longest, time.monotonic() - started)

        rules = settings(
            max_examples=ROUND,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        try:
            rules(seeded(seed)(given(st.data())(case)))()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            counts["failed"] += 1
            told = _told(kind, error, cases.folder)
            if not any(other.partition(" with ")[0] == told.partition(" with ")[0] for other in self.failures):
                self.failures.append(told)


def run(kinds: list[str], seconds: float, seed: int) -> dict[str, Any]:
    """Return counts by kind and outcome, the failures, and the most memory and time that a case took."""
    from warmeng.engine import chat_template

    chat_template.MAX_SECONDS = 0.2  # the bound is the same mechanism at 5 s
    tally = Tally(time.monotonic() + seconds)
    signal.signal(signal.SIGALRM, _hang)
    with tempfile.TemporaryDirectory(prefix="warmeng-fuzz-") as scratch:
        cases = Cases(Path(scratch))
        room = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))
        turn = 0
        while time.monotonic() < tally.end and len(tally.failures) < 20:
            for kind in kinds or cases.kinds:
                turn += 1
                tally.round(cases, kind, seed * 1_000_003 + turn)
    # Not getrusage's: that counts what the parent held when it started this process.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return {
        "seconds": seconds,
        "seed": seed,
        "cases": sum(c.total() for c in tally.counts.values()),
        "counts": {kind: dict(sorted(c.items())) for kind, c in tally.counts.items()},
        "failures": tally.failures,
        "longest_case_s": round(tally.longest, 2),
        "peak_mib": round(peak),
    }


def _told(kind: str, error: BaseException, folder: Path) -> str:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "hypothesis" not in f.filename][-6:]
    kept = [p for p in sorted((folder / "case").rglob("*")) if p.is_file() and p.stat().st_size < 20_000]
    case = {p.name: p.read_bytes().decode("latin-1")[:1500] for p in kept if not p.name.endswith(".safetensors")}
    return (
        f"{kind}: {type(error).__name__}: {str(error)[:300]} at {' > '.join(ours)} with {case if len(case) < 3 else ''}"
    )


def main() -> int:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", default=[])
    options = parser.parse_args()
    found = run(options.kind, options.seconds, options.seed)
    print(json.dumps(found))
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
