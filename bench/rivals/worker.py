"""The process of one engine: ``python -m warmeng.bench.rivals.worker MODULE:CLASS``.

It reads one JSON object a line and answers each with one: ``{"do": "prepare", "task": ..., "into": FOLDER}``,
``{"do": "load", "task": ...}`` and ``{"do": "run", "batch": ..., "mixed": ...}``. What fails is answered as
``{"error": ...}``. It ends when its input does. What libraries print goes to stderr.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from warmeng.bench.failure import reason
from warmeng.bench.rivals.rival import Rival, Task


class Server:
    """Answers what is asked of one engine."""

    def __init__(self, kind: type[Rival]) -> None:
        self._kind = kind
        self._rival: Rival | None = None

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked; seconds are of the engine's work alone."""
        task = Task(**asked["task"]) if "task" in asked else None
        started = time.perf_counter()
        if asked["do"] == "prepare":
            assert task is not None
            self._kind.prepare(task, Path(asked["into"]))
            return {"seconds": time.perf_counter() - started}
        if asked["do"] == "load":
            assert task is not None
            self._rival = self._kind(task)
            seconds = time.perf_counter() - started
            return {
                "seconds": seconds, "about": self._rival.about(), "batches": self._kind.batches,
                "mixes": self._kind.mixes,
            }  # fmt: skip
        assert self._rival is not None
        tokens = self._rival.run(asked["batch"], asked["mixed"])
        return {"seconds": time.perf_counter() - started, "tokens": tokens}


def main() -> None:
    """Serve until the input ends."""
    # Libraries print what they like; the answers keep a way of their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    module, _, name = sys.argv[1].partition(":")
    server: Server | None = None
    for line in sys.stdin.buffer:
        try:
            if server is None:
                # Importing is part of what may fail.
                server = Server(getattr(importlib.import_module(module), name))
            answer = server.answer(orjson.loads(line))
        except Exception as problem:
            # Other software raises all kinds: its reason is the answer.
            answer = {"error": reason(problem)}
        answers.write(orjson.dumps(answer) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
