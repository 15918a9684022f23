"""Reads conversations: ShareGPT JSON, OpenAI chat JSONL, prompt-response pairs. Each remembers where it came from.

A file that is not what it should be is an error with file and line. A sound file still has conversations that can't
be used, ShareGPT's many of them (see ``finetune/formats.py``): those are left out and counted by cause, with the first
one named.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError, name_some, one_line, show
from warmeng.engine.tables import kind_of, read_rows, read_values
from warmeng.finetune.formats import CALLS, Turn, UnusableError, turns_of, without_greeting

NO_RESPONSE, MASKED = "no response", "responses that are not to be learned"


@dataclass(frozen=True)
class Origin:
    """Where a conversation was found: file name, line from 1, and the identifier that the file gives it, if any."""

    file: str
    line: int
    name: str = ""

    def __str__(self) -> str:
        """Return ``file:line``, and the name where there is one."""
        return f"{self.file}:{self.line}" + (f" ({one_line(self.name, 40)})" if self.name else "")


@dataclass(frozen=True)
class Exchange:
    """A user's message and the response; ``turn`` is the response's place among the source's messages, from 0."""

    user: str
    response: str
    turn: int


@dataclass(frozen=True)
class Conversation:
    """One usable conversation. ``id`` is a hash of its texts."""

    id: str
    origin: Origin
    system: str
    exchanges: tuple[Exchange, ...]


@dataclass
class Read:
    """What was read: conversations in the files' order, and those left out, by cause with the first one's place."""

    conversations: list[Conversation] = field(default_factory=list)
    total: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    shortened: int = 0  # conversations cut at the number of turns
    # Conversations that began with a response, which is left out.
    greetings: int = 0

    def drop(self, cause: str, origin: Origin) -> None:
        """Count one that is left out."""
        self.dropped[cause] = self.dropped.get(cause, 0) + 1
        self.first.setdefault(cause, str(origin))


def read_conversations(
    paths: Sequence[Path], form: str, prompt_column: str, response_column: str, max_turns: int
) -> Read:
    """Read all files. A prompt that an earlier conversation began with is left out as a duplicate.

    Raises InputError with file and line for what is not JSON, or not of the given or found format, and where nothing
    usable is left.
    """
    read = Read()
    seen: set[str] = set()
    for path in paths:
        found = form
        for line, record in _records(path):
            where = f"{path}:{line}"
            if found == "auto":
                found = _format_of(record, where, prompt_column)
            read.total += 1
            origin = Origin(path.name, line, _name(record))
            messages = _messages(record, found, where, prompt_column, response_column)
            _take(read, seen, origin, messages, max_turns)
    if not read.conversations:
        causes = "; ".join(f"{count} {cause} (first: {read.first[cause]})" for cause, count in read.dropped.items())
        files = name_some(str(path) for path in paths)
        raise InputError(f"{files}: no usable conversation, expected at least one: {causes or 'there are none at all'}")
    return read


def _take(read: Read, seen: set[str], origin: Origin, messages: list[Turn] | str, max_turns: int) -> None:
    if isinstance(messages, str):
        read.drop(messages, origin)
        return
    system = "\n\n".join(turn.text for turn in messages if turn.role == "system" and turn.text.strip())
    turns = [turn for turn in without_greeting(messages) if turn.role != "system"]
    read.greetings += len(turns) < sum(turn.role != "system" for turn in messages)
    exchanges: list[Exchange] = []
    for asked, answered in zip(turns[::2], turns[1::2], strict=False):
        roles = (asked.role, answered.role)
        if roles != ("user", "assistant") or not asked.text.strip() or not answered.text.strip():
            # What follows a missing message answers something else.
            break
        exchanges.append(Exchange(asked.text, answered.text, answered.place))
    if len(exchanges) > max_turns // 2:
        read.shortened += 1
        del exchanges[max_turns // 2 :]
    if not exchanges:
        read.drop(NO_RESPONSE, origin)
        return
    key = " ".join(exchanges[0].user.casefold().split())
    if key in seen:
        read.drop("duplicate prompt", origin)
        return
    seen.add(key)
    texts = [system, *(text for e in exchanges for text in (e.user, e.response))]
    identity = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
    read.conversations.append(Conversation(identity, origin, system, tuple(exchanges)))


def _records(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (line, object) of a JSON array, of objects each on lines of its own, or of Parquet."""
    yield from read_values(path) if kind_of(path) == "json" else read_rows(path)


def _format_of(record: Mapping[str, Any], where: str, prompt_column: str) -> str:
    for name, form in (("conversations", "sharegpt"), ("messages", "openai"), (prompt_column, "pairs")):
        if name in record:
            return form
    raise InputError(
        f"{where}: has {name_some(record)}, expected conversations (ShareGPT), messages (OpenAI) or the column "
        f"{prompt_column!r} (pairs; --prompt-column names another)"
    )


def _name(record: Mapping[str, Any]) -> str:
    name = record.get("id", "")
    return str(name) if isinstance(name, str | int) else ""


def _messages(
    record: Mapping[str, Any], form: str, where: str, prompt_column: str, response_column: str
) -> list[Turn] | str:
    """Return a record's messages, or the cause for which the conversation is left out."""
    if form == "pairs":
        for column, option in ((prompt_column, "--prompt-column"), (response_column, "--response-column")):
            if column not in record:
                raise InputError(
                    f"{where}: has {name_some(record, 8)}, expected the column {column!r}: name one with {option}"
                )
        if record[response_column] is None:
            return NO_RESPONSE
        pair = {"user": record[prompt_column], "assistant": record[response_column]}
        others = {key: value for key, value in record.items() if key not in (prompt_column, response_column)}
        return _taken(others, [{"role": role, "content": text} for role, text in pair.items()], "role", "content")
    key, role_key, text_key = (
        ("conversations", "from", "value") if form == "sharegpt" else ("messages", "role", "content")
    )
    messages = record.get(key)
    if not isinstance(messages, list):
        raise InputError(f"{where}: {key} is {show(messages, 40)}, expected a list of messages")
    for place, message in enumerate(messages):
        sound = isinstance(message, dict) and isinstance(message.get(role_key), str)
        if not sound or not (text_key in message or any(key in message for key in CALLS)):
            raise InputError(
                f"{where}: message {place} is {show(message, 60)}, expected an object with {role_key} and {text_key}"
            )
    return _taken(record, messages, role_key, text_key)


def _taken(record: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], *keys: str) -> list[Turn] | str:
    try:
        turns = turns_of(record, messages, *keys)
    except UnusableError as error:
        return error.cause
    return MASKED if any(turn.role == "assistant" and not turn.learn for turn in turns) else turns
