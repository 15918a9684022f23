"""One thread owns the engine and runs its steps; requests of all clients join the same batch.

The event loop and the engine's thread share nothing but two queues: commands go one way, what steps gave goes the
other, once a step. So a request that is cancelled is out of the engine before its next step.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from warmeng.engine.engine import Engine
from warmeng.engine.request import GenerateRequest, Progress, Request, RequestError, Result
from warmeng.serve.errors import ApiError

# What a ticket's reader gets: the place of a request among the ticket's, and what came of it.
Event = tuple[int, Progress | Result | ApiError]
_FAILED = ApiError(503, "the engine stopped after an error: start the server again", code="engine_failed")


class Ticket:
    """The requests that one client asked together. ``events`` gives what comes of them."""

    def __init__(self, requests: Sequence[Request], streams: bool) -> None:
        self.requests = requests
        self.streams = streams
        # Requests without a result; 0 once it is cancelled.
        self.left = len(requests)
        self.queue: asyncio.Queue[Event] = asyncio.Queue()

    async def events(self) -> AsyncIterator[tuple[int, Progress | Result]]:
        """Give what comes until every request has its result. Raises ApiError where a request makes no sense."""
        count = len(self.requests)
        while count:
            place, event = await self.queue.get()
            if isinstance(event, ApiError):
                raise event
            count -= not isinstance(event, Progress)
            yield place, event

    async def results(self) -> list[Result]:
        """Wait for all results, in the order of the requests."""
        found = {place: event async for place, event in self.events() if not isinstance(event, Progress)}
        return [found[place] for place in range(len(self.requests))]


@dataclass
class _Open:
    """A request that the engine has, and how much of its answer was told."""

    ticket: Ticket
    place: int
    told: int = 0


class EngineLoop:
    """Runs an engine on a thread of its own, for an event loop."""

    def __init__(self, engine: Engine, max_open: int) -> None:
        """``max_open``: requests that may wait or run."""
        self.engine, self.max_open = engine, max_open
        # Requests that wait or run, as the event loop counts them.
        self.open = 0
        # What ended the engine, where something did.
        self.failure: BaseException | None = None
        self._commands: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._open: dict[str, _Open] = {}
        self._events: list[tuple[Ticket, Event]] = []
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin, for the event loop that runs here."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End after the step that runs, and wait for that."""
        self._commands.put(None)
        self._thread.join()

    def submit(self, requests: Sequence[Request], streams: bool = False) -> Ticket:
        """Hand requests to the engine. Raises ApiError 429 where too many are open, 503 where the engine stopped."""
        if self.failure is not None:
            raise _FAILED
        if len(requests) > self.max_open:
            raise ApiError(400, f"{len(requests)} answers are asked for at once, expected at most {self.max_open}", "n")
        if self.open + len(requests) > self.max_open:
            raise ApiError(
                429, f"{self.open} requests are open, at most {self.max_open} may be: try again",
                code="queue_full", headers={"Retry-After": "1"},
            )  # fmt: skip
        ticket = Ticket(requests, streams)
        self.open += ticket.left
        self._commands.put(lambda: self._add(ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Drop what is left of a ticket, if anything is."""
        if ticket.left:
            self.open -= ticket.left
            ticket.left = 0
            self._commands.put(lambda: self._drop(ticket))

    def _deliver(self, events: list[tuple[Ticket, Event]]) -> None:
        for ticket, event in events:
            # A request that was refused has taken its whole ticket with it.
            done = ticket.left if isinstance(event[1], ApiError) else int(not isinstance(event[1], Progress))
            if ticket.left:
                ticket.left -= done
                self.open -= done
                ticket.queue.put_nowait(event)

    # What follows runs on the engine's thread.

    def _run(self) -> None:
        try:
            while self._obey():
                if self.engine.busy:
                    self.engine.step()
                self._send()
        except BaseException as error:
            self.failure = error
            self._events += [(one.ticket, (one.place, _FAILED)) for one in self._open.values()]
            self._post()

    def _obey(self) -> bool:
        """Carry out all commands, waiting for one where there is nothing to do; return whether to go on."""
        wait = not self.engine.busy
        while True:
            try:
                command = self._commands.get(block=wait)
            except Empty:
                return True
            if command is None:
                return False
            command()
            wait = False

    def _add(self, ticket: Ticket) -> None:
        if not ticket.left:  # it was cancelled before it came here
            return
        for place, request in enumerate(ticket.requests):
            try:
                self.engine.add(request)
            except Exception as error:
                # Nothing is queued of what can't be prepared, so it is this client's error alone.
                self._drop(ticket)
                self._events.append((ticket, (place, _refusal(request, error))))
                return
            self._open[request.id] = _Open(ticket, place)

    def _drop(self, ticket: Ticket) -> None:
        for request in ticket.requests:
            if self._open.pop(request.id, None) is not None:
                self.engine.cancel(request.id)

    def _send(self) -> None:
        """Tell the event loop what the step gave: results, and how far answers that are streamed have come."""
        for result in self.engine.take():
            one = self._open.pop(result.id)
            self._events.append((one.ticket, (one.place, result)))
        for key, one in self._open.items():
            if one.ticket.streams:
                progress = self.engine.progress(key, one.told)
                if progress is not None and progress.token_ids:
                    one.told += len(progress.token_ids)
                    self._events.append((one.ticket, (one.place, progress)))
        self._post()

    def _post(self) -> None:
        if self._events:
            events, self._events = self._events, []
            # It is closed where whoever ran it was interrupted: then nobody waits any more.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver, events)


def _refusal(request: Request, error: Exception) -> ApiError:
    """Return what a client is told of a request that the engine does not take: all but constraints was checked."""
    if not isinstance(error, RequestError):
        return ApiError(500, "the request can't be prepared", code="server_error")
    constrained = isinstance(request, GenerateRequest) and request.constraint is not None
    return ApiError(400, str(error), "response_format" if constrained else None, "invalid_value")
