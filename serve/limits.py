"""How much a client may ask, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The bounds of a server."""

    # Answers that wait or run, of all clients together; more are told to try again.
    max_open: int = 512
    # Bytes of a request's body.
    max_body: int = 4 * 2**20
    max_connections: int = 1024
    # Bytes of a request's line and headers.
    max_head: int = 2**14
    # Seconds in which a request's headers must come, then its body.
    head_seconds: float = 20.0
    body_seconds: float = 30.0
    # Seconds in which a client must take what is sent to it.
    write_seconds: float = 30.0
    # Seconds that open requests have to finish after the signal to stop.
    drain_seconds: float = 30.0
