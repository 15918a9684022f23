"""Counts what a run's models take, and appends it to ``sessions.jsonl``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.errors import InputError
from warmeng.common.places import open_own
from warmeng.study.results.sessions import FILE
from warmeng.study.results.tied import SESSION, hashes
from warmeng.study.run.energy import EnergyMeter
from warmeng.study.run.models import COUNTED, Models


class Session:
    """What a run's models take from now on."""

    def __init__(self, models: Models, device: str) -> None:
        """``device``: ``cpu`` or ``cuda``, whose energy is counted."""
        self.meter = EnergyMeter(device)
        self._models, self._before = models, models.used()
        self._began = time.monotonic()

    def log(self, folder: Path, records: int) -> None:
        """Append what it took until now; ``records`` are those of the run so far. A bad disk is no reason to fail."""
        now = self._models.used()
        used: dict[str, float] = {key: now[key] - self._before[key] for key in COUNTED}
        line: dict[str, Any] = {
            "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.monotonic() - self._began, 2),
            "records": records,
        }
        if (joules := self.meter.joules()) is not None:
            used["joules"] = round(joules, 1)
        try:
            line["files"] = hashes(folder, SESSION)
            with os.fdopen(open_own(folder / FILE, os.O_RDWR | os.O_APPEND), "ab+") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                torn = b"\n" if file.read(1) not in (b"", b"\n") else b""  # a line that a killed process did not end
                file.write(torn + orjson.dumps(line | used) + b"\n")
        except (OSError, InputError):
            # The records are safe: times are not worth failing for.
            return
