"""Chat templates, rendered as ``transformers`` renders them, but bounded in time, memory and output.

A template is code from the maker of the checkpoint. It runs in a separate process (``template_worker.py``) under
limits that the system holds, whatever the template does; that process has none of this one's environment but what
Python needs to start. It is started once, in about 60 ms, and a rendering then takes about 0.1 ms more than in here.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from warmeng.common.errors import InputError, one_line

MAX_OUTPUT = 4 * 2**20  # characters of a rendered conversation
# Characters of a template; the longest of known models have about 20,000.
MAX_TEMPLATE = 2**18
# Processor seconds of a rendering; ordinary ones take well under a millisecond.
MAX_SECONDS = 5.0
# Seconds until an answer, however busy the machine is.
MAX_WAIT = 60.0
WORKER = "warmeng.engine.template_worker"
_KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")  # of the environment
_SAID = {
    "malformed": "the chat template is malformed ({}): correct it",
    "beyond": "the chat template {}: don't use this checkpoint",
    "refuses": "the chat template refuses the conversation ({}): change it",
    "fails": "the chat template fails ({}): correct it",
}


class _Renderer:
    """The other process: started when it is first asked, and again after it ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, request: list[Any], seconds: float) -> tuple[str, str]:
        """Return the worker's answer, or that it did not live to give one."""
        raw = json.dumps(request).encode("ascii")
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(len(raw).to_bytes(4, "big") + raw)
                process.stdin.flush()
                end = time.monotonic() + MAX_WAIT
                size = int.from_bytes(_read(process.stdout.fileno(), 4, end), "big")
                kind, text = json.loads(_read(process.stdout.fileno(), size, end))
                return str(kind), str(text)
            except BaseException as error:
                # What the process would say later is no answer to the next request.
                code = self._end(process)
                if not isinstance(error, EOFError | BrokenPipeError):
                    raise
        if code in (-signal.SIGPROF, None):
            return "beyond", f"takes more than {seconds:g} s"
        return "beyond", f"ends the process that renders it (exit code {code})"

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._process is not None and self._owner == os.getpid():
                self._end(self._process)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
                # An interrupt from the terminal is for this process alone, which may have to finish.
                start_new_session=True,
            )
        return self._process

    def _end(self, process: subprocess.Popen[bytes]) -> int | None:
        """Return the exit code; ``None`` where it had to be killed."""
        self._process = None
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            return process.wait(1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None


def _read(handle: int, size: int, end: float) -> bytes:
    """Return ``size`` bytes; ``EOFError`` where they don't come, or not until ``end``."""
    parts: list[bytes] = []
    while size:
        ready, _, _ = select.select([handle], [], [], max(0.0, end - time.monotonic()))
        part = os.read(handle, min(size, 2**20)) if ready else b""
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


_RENDERER = _Renderer()
atexit.register(_RENDERER.close)


class ChatTemplate:
    """One compiled template.

    Args:
        source: the template's text.
        tokens: names such as ``bos_token`` and their text, for the template's use.
        now: what the template is told the date is.
        origin: the file, for messages.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], now: datetime, origin: str) -> None:
        self.origin = origin
        self.source = source
        self.tokens = dict(tokens)
        self._now = now.isoformat()
        if len(source) > MAX_TEMPLATE:
            raise InputError(
                f"{origin}: the chat template has {len(source)} characters, at most {MAX_TEMPLATE} expected"
            )
        self._ask(None)

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """The conversation as text, without tools and documents and with thinking off.

        Raises:
            InputError: the template refuses the conversation, fails, or goes beyond a bound.
        """
        values: dict[str, Any] = {
            **self.tokens,
            "messages": [dict(message) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            "enable_thinking": False,
        }
        return self._ask(values)

    def _ask(self, values: Mapping[str, Any] | None) -> str:
        kind, text = _RENDERER.ask([self.source, self._now, values, MAX_SECONDS, MAX_OUTPUT], MAX_SECONDS)
        if kind != "ok":
            raise InputError(f"{self.origin}: {_SAID[kind].format(one_line(text, 200))}")
        return text
