"""Work that a server does in its own time: a file goes up, a job is made of it, and the job is looked at until it ends.

Each step is written down before the next one, and a job's id before it is waited for, so that another process can go
on. Where an attempt to make a job may have reached the server, the jobs that it lists are looked through for the file
before another one is made: what is paid for is not started twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError, show
from warmeng.common.journal import Journal, read_journal
from warmeng.remote.client import Client, Failure, Refusal, Rejected, persist

# Of ``Patience.timeout``: what an attempt may take whose file is large.
FILE_TIMES = 5.0
# Of ``Patience.attempts``: looks at a job in vain, over more than an hour, before its watch is given up. Jobs take a
# day, in which a network may be gone for a while.
LOOKS = 10
# Jobs that are looked through for one that an attempt may have made, the latest first.
MOST_LISTED = 1000


@dataclass
class Submission:
    """One job: what was planned, its file and its id as the server knows them, empty while there are none.

    ``failed``: the parts of the plan that came to nothing, and are no longer waited for.
    """

    key: str
    plan: Mapping[str, Any]
    file: str = ""
    id: str = ""
    failed: set[str] = field(default_factory=set)


class Submissions:
    """A folder's jobs, kept in a file: a line for each step. One process at a time has it."""

    def __init__(self, path: Path, resume: str) -> None:
        """Raises as ``Journal``, and ``InputError`` for lines that are no steps."""
        self.path = path
        self._journal = Journal(path, resume, "steps of jobs")
        self.all: dict[str, Submission] = {}
        for line in read_journal(path):
            self._restore(line)

    def plan(self, plan: Mapping[str, Any]) -> Submission:
        """Write down what will be submitted."""
        found = Submission(secrets.token_hex(16), plan)
        self._journal.append({"key": found.key, "plan": plan})
        self.all[found.key] = found
        return found

    def note(self, one: Submission, *, file: str = "", id: str = "", failed: set[str] | None = None) -> None:
        """Write down one step of a submission."""
        step = {"file": file, "id": id, "failed": sorted(failed or ())}
        line = {"key": secrets.token_hex(16), "of": one.key} | {name: value for name, value in step.items() if value}
        self._journal.append(line)
        self._apply(one, line)

    def close(self) -> None:
        """Close the file. Raises ``StorageError``."""
        self._journal.close()

    def _restore(self, line: Mapping[str, Any]) -> None:
        plan, of = line.get("plan"), line.get("of")
        if isinstance(plan, dict):
            self.all[line["key"]] = Submission(line["key"], plan)
        elif of in self.all and all(isinstance(line.get(name, ""), str) for name in ("file", "id")):
            self._apply(self.all[of], line)
        else:
            raise InputError(
                f"{self.path}: line {show(line.get('key'))} is no step of a job of this version: restore the file"
            )

    @staticmethod
    def _apply(one: Submission, line: Mapping[str, Any]) -> None:
        one.file, one.id = line.get("file", one.file), line.get("id", one.id)
        one.failed |= set(line.get("failed", ()))


Send = Callable[[Any], Awaitable[Any]]


class Service:
    """Asks a server for files and jobs, as often as patience allows; raises ``Unavailable`` and ``Rejected``."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def ask(self, send: Send, check: Callable[[Any], Any], seconds: float = 1.0, times: int = 1) -> Any:
        """Send a request that may be repeated, and return what ``check`` makes of the response.

        ``check`` raises ``ValueError`` for a response that is not what the API has. ``seconds`` and ``times``: how much
        longer than usual an attempt may take, and how many more there may be.
        """
        return await persist(lambda: self._attempt(send, check, seconds), self.client, times=times)

    async def look(self, send: Send, check: Callable[[Any], Any]) -> Any:
        """Ask for a job's state; as ``ask``, with more patience."""
        return await self.ask(send, check, times=LOOKS)

    async def upload(self, name: str, content: bytes, purpose: str) -> str:
        """Send a file up and return its id. One that came twice costs nothing."""
        return str(
            await self.ask(
                lambda api: api.files.create(file=(name, content, "application/jsonl"), purpose=purpose),
                id_of,
                FILE_TIMES,
            )
        )

    async def content(self, file: str) -> bytes | None:
        """Return a file's content, ``None`` where the server has no such file any more."""
        try:
            found = await self.ask(lambda api: api.files.content(file), _bytes_of, FILE_TIMES)
        except Rejected as error:
            if error.status in (404, 410):
                return None
            raise
        return bytes(found)

    async def start(self, make: Send, listed: Callable[[Any], Any], file: str, fresh: bool) -> str:
        """Return the id of the one job of a file, made unless it is there.

        ``listed`` gives the server's jobs, whose ``input_file_id`` or ``training_file`` is theirs. ``fresh``: nobody
        tried to make it before. Raises ``Rejected`` where it was not made, ``InputError`` where nobody knows.
        """
        unsure, lost = not fresh, False

        async def attempt() -> Any:
            nonlocal unsure, lost
            if unsure:
                found = await self._look_for(listed, file)
                if isinstance(found, Failure) or found:
                    return found
            try:
                found = await self._attempt(make, id_of, 1.0)
            except Rejected as error:
                if lost:
                    raise _untold(file, error) from None
                raise
            unsure = isinstance(found, Failure) and found.billed
            lost = lost or unsure
            return found

        return str(await persist(attempt, self.client))

    async def _look_for(self, listed: Callable[[Any], Any], file: str) -> Any:
        """Return the id of a file's job, empty where there is none, or a ``Failure``."""
        try:
            return await self._attempt(lambda api: _of_file(listed(api), file), lambda found: found, 1.0)
        except Rejected as error:
            raise _untold(file, error) from None

    async def _attempt(self, send: Send, check: Callable[[Any], Any], seconds: float) -> Any:
        found = await self.client.call(send, seconds * self.client.patience.timeout)
        if isinstance(found, Refusal):
            return self.client.failure(found)
        if isinstance(found, Failure):
            return found
        try:
            return check(found)
        except ValueError as error:
            return Failure(f"the response is not what the API has ({error})")


def _untold(file: str, error: Rejected) -> InputError:
    """Return the error where a job may have been made: it is looked for by whoever goes on."""
    return InputError(f"it can't be told whether the job of file {file} was made, so it is looked for later: {error}")


def id_of(found: Any) -> str:
    """Return the id of what a server made. Raises ``ValueError`` where it has none."""
    name = getattr(found, "id", None)
    if not isinstance(name, str) or not 0 < len(name) <= 200 or not name.isascii() or not name.isprintable():
        raise ValueError("it has no id")
    return name


def text_of(found: Any, name: str) -> str:
    """Return a text of a response, empty where there is none. Raises ``ValueError`` for what is no text."""
    value = getattr(found, name, None)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"its {name} is no text")
    return value or ""


def _bytes_of(found: Any) -> bytes:
    content = getattr(found, "content", None)
    if not isinstance(content, bytes):
        raise ValueError("it is no file")
    return content


async def _of_file(jobs: Any, file: str) -> str:
    """Return the id of the job of a file among those that are listed, empty where there is none."""
    seen = count()
    async for job in jobs:
        if file in (getattr(job, "input_file_id", None), getattr(job, "training_file", None)):
            return id_of(job)
        if next(seen) >= MOST_LISTED:
            break
    return ""
