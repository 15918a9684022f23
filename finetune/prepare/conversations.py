"""Reads conversations: ShareGPT JSON, OpenAI chat JSONL, prompt-response pairs. Each remembers where it came from.

A file that is not what it should be is an error with file and line. A sound file still has conversations that can't
be used, ShareGPT's many of them: those are left out and counted by cause, with the first one named.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warmeng.engine.errors import InputError, name_some, one_line, show
from warmeng.engine.files import parse_json, read_text

NO_RESPONSE, NOT_TEXT, OTHER_ROLE = "no response", "not text", "other roles"
_ROLES = {"human": "user", "user": "user", "system": "system"} | dict.fromkeys(
    ("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"
)
_SPACE = re.compile(r"[ \t\r\n]*")


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


def _take(
    read: Read, seen: set[str], origin: Origin, messages: list[tuple[str, str, int]] | str, max_turns: int
) -> None:
    if isinstance(messages, str):
        read.drop(messages, origin)
        return
    system = "\n\n".join(text for role, text, _ in messages if role == "system" and text.strip())
    turns = [message for message in messages if message[0] != "system"]
    while turns and turns[0][0] == "assistant":  # shared from the middle of a conversation
        turns.pop(0)
    exchanges: list[Exchange] = []
    for (first, user, _), (second, response, place) in zip(turns[::2], turns[1::2], strict=False):
        if (first, second) != ("user", "assistant") or not user.strip() or not response.strip():
            break  # what follows a missing message answers something else
        exchanges.append(Exchange(user, response, place))
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
    """Yield (line, object) of a JSON array, or of JSON lines."""
    text = read_text(path)
    decoder = json.JSONDecoder()  # finds where a value ends; it is parsed strictly after that
    at = _skip(text, 0)
    array = text.startswith("[", at)
    at, line, counted = at + array, 1, 0
    while True:
        at = _skip(text, at)
        line, counted = line + text.count("\n", counted, at), at
        where = f"{path}:{line}"
        if at == len(text) or (array and text[at] == "]"):
            break
        try:
            _, after = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}:{text.count(chr(10), 0, error.pos) + 1}: is not valid JSON ({error.msg}): expected "
                f"{'a list of conversations' if array else 'one object on each line'}"
            ) from None
        except RecursionError:
            raise InputError(f"{where}: is nested too deeply: expected a conversation") from None
        value = parse_json(text[at:after], where)
        if not isinstance(value, dict):
            raise InputError(f"{where}: is a JSON {type(value).__name__}, expected an object that is a conversation")
        yield line, value
        at = _skip(text, after)
        if array and text.startswith(",", at):
            at += 1
        elif array and not text.startswith("]", at):
            line += text.count("\n", counted, at)
            raise InputError(f"{path}:{line}: the list goes on without a comma or ends without ']': is it cut off?")
        elif not array and at < len(text) and "\n" not in text[after:at]:
            raise InputError(f"{where}: has more than one object on the line, expected one")
    if array and (at == len(text) or _skip(text, at + 1) < len(text)):
        raise InputError(f"{path}:{line}: expected the list's ']' at the end of the file: is it cut off?")


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None, "the pattern matches nothing too"
    return match.end()


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
) -> list[tuple[str, str, int]] | str:
    """Return (role, text, place) of each message, or the cause for which the conversation is left out."""
    if form == "pairs":
        for column, option in ((prompt_column, "--prompt-column"), (response_column, "--response-column")):
            if column not in record:
                raise InputError(
                    f"{where}: has {name_some(record, 8)}, expected the column {column!r}: name one with {option}"
                )
        texts = [record[prompt_column], record[response_column]]
        if not all(isinstance(text, str) for text in texts):
            return NO_RESPONSE if texts[1] is None else NOT_TEXT
        return [("user", texts[0], 0), ("assistant", texts[1], 1)]
    key, role_key, text_key = (
        ("conversations", "from", "value") if form == "sharegpt" else ("messages", "role", "content")
    )
    messages = record.get(key)
    if not isinstance(messages, list):
        raise InputError(f"{where}: {key} is {show(messages, 40)}, expected a list of messages")
    found: list[tuple[str, str, int]] = []
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get(role_key), str) or text_key not in message:
            raise InputError(
                f"{where}: message {place} is {show(message, 60)}, expected an object with {role_key} and {text_key}"
            )
        role, text = _ROLES.get(message[role_key].lower()), _text(message[text_key])
        if role is None or text is None:
            return OTHER_ROLE if role is None else NOT_TEXT
        found.append((role, text, place))
    return found


def _text(content: Any) -> str | None:
    """Return a message's text, also where it is a list of text parts."""
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        return None if None in parts or not all(isinstance(p, str) for p in parts) else "".join(map(str, parts))
    return content if isinstance(content, str) else None
