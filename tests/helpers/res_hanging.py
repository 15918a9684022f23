"""Engines that stop moving, for the tests of stalls. Called in the process of a command, before it begins."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import fakes

LONG = 600  # seconds: a test that fails ends by its own limit before


def sleep() -> None:
    """Hang in Python's own sleep."""
    time.sleep(LONG)


def native() -> None:
    """Hang in a C function that no signal wakes, as a driver that waits for its device does."""
    libc = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(64)
    libc.pthread_mutex_init(mutex, None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


def lock() -> None:
    """Hang in a lock that nobody releases."""
    import threading

    held = threading.Lock()
    held.acquire()
    held.acquire()


def python() -> None:
    """Hang in Python code that never ends."""
    while True:
        pass


HANGS = {"sleep": sleep, "native": native, "lock": lock, "python": python}


def hang_after(answers: int, kind: str, place: str = "results") -> None:
    """Let the small engine hang after so many answers, in ``results`` or in a ``write`` of records."""
    if place == "write":
        from warmeng.common.journal import Journal

        append = Journal.append

        def stuck(self: Journal, record: Any) -> None:
            append(self, record)
            if len(self.done) == answers:
                with self._guard:
                    HANGS[kind]()

        Journal.append = stuck  # type: ignore[method-assign]
        return
    results = fakes.FakeEngine.results

    def hanging(self: Any, *_: Any) -> Any:
        for count, result in enumerate(results(self), start=1):
            yield result
            if count == answers:
                HANGS[kind]()

    fakes.FakeEngine.results = hanging  # type: ignore[method-assign]


def slow(seconds: float, moves: str) -> None:
    """Let loading take ``seconds``, or one answer, whose steps go on meanwhile."""
    if moves == "loading":
        import warmeng.study.run.run

        load = warmeng.study.run.run.load_engine

        def loading(settings: Any) -> Any:
            time.sleep(seconds)
            return load(settings)

        warmeng.study.run.run.load_engine = loading
        return
    results = fakes.FakeEngine.results

    def stepping(self: Any, *_: Any) -> Any:
        for count, result in enumerate(results(self), start=1):
            end = time.monotonic() + (seconds if count == 5 else 0)
            while time.monotonic() < end:
                time.sleep(seconds / 40)
                self.stats.steps += moves == "steps"
            yield result

    fakes.FakeEngine.results = stepping  # type: ignore[method-assign]


def stop_and_go(answers: int) -> None:
    """Stop this process as ^Z does after so many answers; somebody else lets it go on."""
    import signal

    results = fakes.FakeEngine.results

    def stopping(self: Any, *_: Any) -> Any:
        for count, result in enumerate(results(self), start=1):
            yield result
            if count == answers:
                time.sleep(0.3)  # a step, in whose middle the watchdog has looked, and will look again
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(0.3)

    fakes.FakeEngine.results = stopping  # type: ignore[method-assign]
