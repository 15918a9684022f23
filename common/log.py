"""The logger ``warmeng``: what commands say beside their results, for a terminal or for somebody's own handlers.

``INFO`` has the messages that a command shows on stderr, ``DEBUG`` what ``--verbose`` adds. From Python nothing is
attached to the logger, so ``logging.basicConfig(level=logging.DEBUG)`` shows all of it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from warmeng.common.terminal import echo, printable

LOGGER = logging.getLogger("warmeng")
LOGGER.addHandler(logging.NullHandler())
LOGGER.setLevel(logging.INFO)


def say(text: str) -> None:
    """Show a message on stderr, unless none is wanted."""
    LOGGER.info(text)
    if not is_quiet():
        echo(text, err=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Tell ``--verbose`` how long something took."""
    began = time.monotonic()
    yield
    LOGGER.debug("%s: %.2f s", what, time.monotonic() - began)


def is_quiet() -> bool:
    """Whether messages and progress are not wanted."""
    return not LOGGER.isEnabledFor(logging.INFO)


@contextmanager
def quiet() -> Iterator[None]:
    """Let a command say nothing but its results, warnings of missing answers, and errors."""
    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


@contextmanager
def verbose() -> Iterator[None]:
    """Let a command tell on stderr, with the time, what it does besides: models and files, and how long each took."""
    level, handler = LOGGER.level, logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(asctime)s %(message)s", "%H:%M:%S"))
    # Messages are shown by the command itself.
    handler.addFilter(lambda record: record.levelno < logging.INFO)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)


class _Printable(logging.Formatter):
    """Sends no character that would steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return printable(super().format(record))
