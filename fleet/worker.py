"""What runs in a worker's process: one engine, driven in short turns, so that the worker is heard of all the time."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from warmeng.common.version import sources_sha256
from warmeng.engine.identity import identity_of, surroundings
from warmeng.engine.request import Request, RequestError, Result

# Of an engine's totals.
COUNTED = ("output_tokens", "prompt_tokens", "cached_tokens", "steps")


@dataclass(frozen=True)
class About:
    """What a worker has loaded. ``facts`` must be the same on all of them, to the last bit."""

    host: str
    pid: int
    facts: dict[str, Any]
    describe: dict[str, Any]
    processor: dict[str, Any]
    # Sequences that its engine runs at once, token ids that it knows, and the most tokens of a prompt and its answer.
    width: int
    vocab_size: int
    max_seq_len: int


@dataclass(frozen=True)
class Turn:
    """What a turn finished, in order; the engine's totals (``COUNTED``); requests that made no sense, and why."""

    results: list[Result]
    totals: tuple[int, ...]
    refused: list[tuple[str, str]]


class Worker:
    """One engine. Every method returns soon, but for ``load``, so one that does not return tells of a fault."""

    def __init__(self) -> None:
        self._engine: Any = None

    def load(self, load: Callable[[], Any]) -> About:
        """Load the engine; raises as loading does."""
        self._engine = engine = load()
        described = engine.describe()
        facts = {
            **identity_of(described),
            "versions": described.get("versions"),
            "dtype": described.get("dtype"),
            "block_size": (described.get("settings") or {}).get("block_size"),
            "template": engine.tokenizer.template_hash,
            **surroundings(engine),
            "python": platform.python_version(),
            "sources": sources_sha256(),
        }
        return About(
            socket.gethostname(), os.getpid(), facts, described, engine.processor(), engine.max_num_seqs,
            engine.vocab_size, engine.max_seq_len,
        )  # fmt: skip

    def setup(self, method: str, *given: Any) -> Any:
        """Call a method of the engine that adds to it or looks at it; of adapters and vectors return the hash alone."""
        found = getattr(self._engine, method)(*given)
        return found.hash if method in ("add_adapter", "add_vector") else found

    def turn(self, requests: Sequence[tuple[Request, bool]], dropped: Sequence[str], seconds: float) -> Turn:
        """Drop requests, take new ones (each with whether it is urgent), and run the engine for so many seconds."""
        engine = self._engine
        for name in dropped:
            engine.cancel(name)
        refused = []
        for request, urgent in requests:
            try:
                engine.add(request, urgent)
            except RequestError as error:
                refused.append((request.id, str(error)))
        end = time.monotonic() + seconds
        while engine.busy and time.monotonic() < end:
            engine.step()
        return Turn(engine.take(), tuple(getattr(engine.stats, name) for name in COUNTED), refused)
