"""The coordinator's side of an engine's process: start it, ask it, read its peak of memory, end it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from warmeng.common.errors import one_line

_WORKER = "warmeng.bench.rivals.worker"
_PATIENCE = 20.0  # seconds that a process has to end by itself


class Failed(Exception):
    """An engine could not do what was asked; the message says why, in one line."""


class RivalProcess:
    """One engine's process. As a context manager it ends the process and what that started."""

    def __init__(self, target: str, threads: int) -> None:
        """``target``: the class as ``module:name``. Nothing is loaded yet."""
        # Closed with the process.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _WORKER, target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
            # A group of its own, to be ended as a whole; an interrupt reaches it through the coordinator.
            start_new_session=True,
        )

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send one message and return the answer. Raises Failed where it says an error, or where the process ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = b""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(orjson.dumps(message, option=orjson.OPT_SERIALIZE_DATACLASS) + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            code = self._process.wait(_PATIENCE)
            raise Failed(f"its process ended with exit code {code}: {self._last_words()}")
        answer: dict[str, Any] = orjson.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def peak_bytes(self) -> int | None:
        """Return the largest resident memory so far, summed over the process and what it started; None if unknown."""
        try:
            return sum(map(_high_water, _with_children(self._process.pid)))
        except (OSError, ValueError):
            return None

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        return one_line(next((line for line in reversed(lines) if line.strip()), "it said nothing"))

    def __enter__(self) -> RivalProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            if error is None:
                self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # What it started may have outlived it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process.stdout.close()
            self._said.close()


def _with_children(pid: int) -> list[int]:
    """Return a process and all that it started. Linux only."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += _with_children(int(child))
    return found


def _high_water(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
