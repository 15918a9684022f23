"""What is printed, for people: characters that would steer a terminal are shown, never sent to it.

Names and paths in other people's runs, models and data sets can hold any character; rich's own styles are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

# Control characters but line feed and tab, lone surrogates, and marks that turn the direction of what follows.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return a text with escapes such as ``\\x1b`` in place of characters that would steer a terminal."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def echo(text: object = "", err: bool = False, nl: bool = True) -> None:
    """Print a text and a line end on stdout or stderr."""
    click.echo(printable(str(text)), err=err, nl=nl)


def console(least: int = 0, stderr: bool = False) -> Console:
    """Return a rich console for stdout or stderr; where that is no terminal, ``least`` columns wide or more.

    A reader that has gone raises ``BrokenPipeError``, as it does for ``echo``.
    """
    # Here: it is slow to import.
    from rich.console import Console
    from rich.segment import Segment

    class Shown(Console):
        """Prints texts as ``printable`` has them."""

        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            """Yield what is printed: texts, and control codes of rich's own."""
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

        def on_broken_pipe(self) -> None:
            """Leave it to whoever prints; rich would end the process."""
            self.quiet = True
            raise BrokenPipeError

    # No emoji: a model may be called openai:m: or ft:gpt-4o:us:warm.
    found = Shown(stderr=stderr, emoji=False)
    if not found.is_terminal and found.width < least:
        found = Shown(stderr=stderr, width=least, emoji=False)
    return found
