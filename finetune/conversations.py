"""Conversations from files, and the tokens of them that are learned.

Read are: a JSON array of ShareGPT conversations (``conversations`` of ``from`` and ``value``), JSON lines of chats in
OpenAI's form (``messages`` of ``role`` and ``content``), JSON lines of ``prompt`` and ``response``, and the training
texts of this package by the persona whose column is meant (``embedded:warm``). Other keys of a conversation are notes
of whoever prepared it and are left alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from warmeng.engine.errors import InputError, UsageError, name_some, show
from warmeng.engine.files import parse_json, read_text
from warmeng.engine.tokenizer import Tokenizer
from warmeng.finetune.model import Sample

EMBEDDED = "embedded:"
COLUMNS = ("neutral", "warm", "cold")
_DATA = Path(__file__).parent / "data"
_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}

Message = dict[str, str]


@dataclass(frozen=True)
class Conversation:
    """Messages of ``role`` and ``content``, and where they come from."""

    messages: tuple[Message, ...]
    where: str  # file and line, for messages


@dataclass(frozen=True)
class Dataset:
    """One persona's data as it is trained on."""

    source: str
    sha256: str  # of the conversations' content
    conversations: int
    samples: tuple[Sample, ...]
    cut: int  # conversations longer than the limit, cut there
    dropped: int  # conversations of which no response was left
    tokens: int
    response_tokens: int

    def record(self) -> dict[str, Any]:
        """Return what a manifest holds."""
        kept = ("source", "sha256", "conversations", "cut", "dropped", "tokens", "response_tokens")
        return {name: getattr(self, name) for name in kept} | {"samples": len(self.samples)}


def load_dataset(source: str, tokenizer: Tokenizer, stops: Sequence[int], max_length: int) -> Dataset:
    """Read a file (or ``embedded:COLUMN``) and find its tokens.

    Raises InputError for a file that can't be used, a conversation without a response, or a template that doesn't
    show where responses are; UsageError for an unknown column.
    """
    digest = hashlib.sha256()
    samples: list[Sample] = []
    count = cut = dropped = 0
    for conversation in read_conversations(source):
        count += 1
        for message in conversation.messages:
            digest.update(f"{message['role']}\0{message['content']}\0".encode())
        digest.update(b"\n")
        found = [_limit(ids, learn, max_length) for ids, learn in tokenise(conversation, tokenizer, stops)]
        cut += any(longer for _, _, longer in found)
        usable = [(ids, learn) for ids, learn, _ in found if any(learn[1:])]
        dropped += not usable
        for ids, learn in usable:
            samples.append(Sample(len(samples), torch.tensor(ids), torch.tensor(learn)))
    if not samples:
        why = f"no response begins within {max_length} tokens" if count else "it has no conversations"
        raise InputError(f"{source}: nothing to learn ({why}): give other data or a larger max_length")
    tokens, responses = sum(len(s.tokens) for s in samples), sum(s.targets for s in samples)
    return Dataset(source, digest.hexdigest(), count, tuple(samples), cut, dropped, tokens, responses)


def read_conversations(source: str) -> Iterator[Conversation]:
    """Yield the conversations of a file or of ``embedded:COLUMN``, each checked to have a response."""
    if source.startswith(EMBEDDED):
        rows = _embedded(source.removeprefix(EMBEDDED))
    else:
        path = Path(source)
        text = read_text(path)
        rows = _array(path, text) if text.lstrip()[:1] == "[" else _lines(path, text)
    for messages, where in rows:
        if not any(m["role"] == "assistant" for m in messages):
            raise InputError(f"{where}: the conversation has no response to learn: remove it or add one")
        yield Conversation(tuple(messages), where)


def _embedded(column: str) -> Iterator[tuple[list[Message], str]]:
    if column not in COLUMNS:
        expected = ", ".join(EMBEDDED + name for name in COLUMNS)
        raise UsageError(f"there is no {EMBEDDED}{column}, expected one of {expected}")
    files = sorted(_DATA.glob("*.jsonl"))
    if not files:
        raise InputError(f"this installation has no embedded training texts (looked in {_DATA}): give a file")
    for path in files:
        for where, row in _objects(path, read_text(path)):
            turns = row.get("turns")
            if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
                raise InputError(f"{where}: turns is {show(turns, 60)}, expected a list of turns")
            messages = []
            for turn in turns:
                messages.append({"role": "user", "content": _text(turn.get("user"), where, "user")})
                messages.append({"role": "assistant", "content": _text(turn.get(column), where, column).strip()})
            yield messages, where


def _array(path: Path, text: str) -> Iterator[tuple[list[Message], str]]:
    rows = parse_json(text, str(path))
    for number, row in enumerate(rows, start=1):
        where = f"{path}: conversation {number}"
        if not isinstance(row, dict):
            raise InputError(f"{where} is a {type(row).__name__}, expected an object")
        yield _messages(row, where), where


def _lines(path: Path, text: str) -> Iterator[tuple[list[Message], str]]:
    for where, row in _objects(path, text):
        yield _messages(row, where), where


def _objects(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line's object; lines end at ``\\n`` only."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            row = parse_json(line, where)
            if not isinstance(row, dict):
                raise InputError(f"{where}: is a JSON {type(row).__name__}, expected an object with a conversation")
            yield where, row


def _messages(row: dict[str, Any], where: str) -> list[Message]:
    """Return the messages of a row in any of the three forms; responses lose the blanks around them."""
    if "messages" in row:
        role_key, content_key, entries, roles = "role", "content", row["messages"], {r: r for r in _SHAREGPT_ROLES}
    elif "conversations" in row:
        role_key, content_key, entries, roles = "from", "value", row["conversations"], _SHAREGPT_ROLES
    elif "prompt" in row and "response" in row:
        pair = {"user": row["prompt"], "assistant": row["response"]}
        entries = [{"role": role, "content": content} for role, content in pair.items()]
        role_key, content_key, roles = "role", "content", _SHAREGPT_ROLES
    else:
        expected = "messages, conversations, or prompt and response"
        raise InputError(f"{where}: has {name_some(map(str, row)) or 'no keys'}, expected {expected}")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{where}: its messages are {show(entries, 60)}, expected a list of objects")
    messages: list[Message] = []
    for entry in entries:
        named = entry.get(role_key)
        role = roles.get(named) if isinstance(named, str) else None
        if role not in ("system", "user", "assistant"):
            raise InputError(f"{where}: a message has {role_key} {show(named, 40)}, expected user, assistant or system")
        content = _text(entry.get(content_key), where, content_key)
        messages.append({"role": role, "content": content.strip() if role == "assistant" else content})
    if any(m["role"] == "assistant" and not m["content"] for m in messages):
        raise InputError(f"{where}: a response is empty: remove the conversation or write one")
    return messages


def _text(value: object, where: str, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {key} is {show(value, 40)}, expected text that is not blank")
    return value


def tokenise(
    conversation: Conversation, tokenizer: Tokenizer, stops: Sequence[int]
) -> list[tuple[list[int], list[bool]]]:
    """Return the token ids of a conversation and which of them belong to a response (its end token included).

    Found by rendering prefixes: what the template writes up to the point where an answer is asked for is the prompt;
    what it writes beyond, up to the end token, is the response. Where a template writes an earlier turn differently
    once others follow (some drop its reasoning), each response is learned after the prompt that it would be asked for
    with, in a sequence of its own. Raises InputError where neither fits.
    """
    messages, where = conversation.messages, conversation.where
    try:
        whole = tokenizer.chat(messages, add_generation_prompt=False)
        text = tokenizer.render(messages, add_generation_prompt=False)
        places = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        spans = [_span(messages[: i + 1], text, whole, tokenizer, stops) for i in places]
        if all(span is not None for span in spans):
            learn = [False] * len(whole)
            for span in spans:
                assert span is not None
                learn[span[0] : span[1]] = [True] * (span[1] - span[0])
            return [(whole, learn)]
        found = []
        for i in places:
            part = messages[: i + 1]
            ids = tokenizer.chat(part, add_generation_prompt=False)
            written = tokenizer.render(part, add_generation_prompt=False)
            span = _span(part, written, ids, tokenizer, stops)
            if span is None:
                raise InputError(
                    "the chat template doesn't continue the prompt that it asks for an answer with, so the response "
                    "can't be found in what it writes: use another template"
                )
            found.append((ids[: span[1]], [span[0] <= k < span[1] for k in range(span[1])]))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return found


def _span(
    messages: Sequence[Message], text: str, ids: Sequence[int], tokenizer: Tokenizer, stops: Sequence[int]
) -> tuple[int, int] | None:
    """Return where the last message, a response, lies in a conversation's tokens; None where it isn't to be found.

    A token that the prompt's end and the response's beginning share belongs to the response.
    """
    before = tokenizer.render(messages[:-1], add_generation_prompt=True)
    upto = tokenizer.render(messages, add_generation_prompt=False)
    if not (text.startswith(before) and text.startswith(upto) and upto.startswith(before)):
        return None
    if messages[-1]["content"] not in upto[len(before) :]:
        return None
    start = _common(tokenizer.chat(messages[:-1], add_generation_prompt=True), ids)
    end = _common(tokenizer.chat(messages, add_generation_prompt=False), ids)
    for place in range(start, end):
        if ids[place] in stops:
            return start, place + 1
    return start, end


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two lists begin with alike."""
    count = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        count += 1
    return count


def _limit(ids: list[int], learn: list[bool], most: int) -> tuple[list[int], list[bool], bool]:
    """Cut after ``most`` tokens, and after the last token that is learned: what follows teaches nothing."""
    longer = len(ids) > most
    ids, learn = ids[:most], learn[:most]
    last = max((i for i, wanted in enumerate(learn) if wanted), default=-1)
    return ids[: last + 1], learn[: last + 1], longer
