"""Conversations from files, and the tokens of them that are learned.

Read are, as JSON lines, a JSON array or Parquet: ShareGPT conversations (``conversations`` of ``from`` and ``value``),
chats in OpenAI's form (``messages`` of ``role`` and ``content``), and rows of ``prompt`` and ``response``; and the
training texts of this package by the persona whose column is meant (``embedded:warm``; ``embedded:warm/everyday`` is
one file of them). What their keys mean, and which conversations can't be learned, is in ``formats.py``; other keys are
left alone, and told.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from warmeng.common.errors import InputError, UsageError, name_some, show
from warmeng.engine.tables import read_rows
from warmeng.engine.tokenizer import Tokenizer
from warmeng.finetune.formats import Turn, UnusableError, notes_of, turns_of, without_greeting
from warmeng.finetune.model import Sample

EMBEDDED = "embedded:"
COLUMNS = ("neutral", "warm", "cold")
_DATA = Path(__file__).parent / "data"

Message = dict[str, str]


@dataclass(frozen=True)
class Conversation:
    """Messages of ``role`` and ``content``, where they come from, and which responses are not learned."""

    messages: tuple[Message, ...]
    where: str  # file and line, for messages
    # Places of responses that are part of later prompts only.
    masked: frozenset[int] = frozenset()
    # It began with a response, which is left out.
    greeting: bool = False


@dataclass(frozen=True)
class Dataset:
    """One persona's data as it is trained on."""

    source: str
    sha256: str  # of the conversations' content
    conversations: int
    samples: tuple[Sample, ...]
    # Conversations longer than the limit, cut there.
    cut: int
    # Conversations of which no response was left.
    dropped: int
    tokens: int
    response_tokens: int
    # Responses that their file says are not to be learned.
    masked: int = 0
    # Conversations that began with a response, which is left out.
    greetings: int = 0
    notes: tuple[str, ...] = ()  # keys of the file that are left alone

    def split(self, share: float, seed: int) -> tuple[Dataset, tuple[Sample, ...]]:
        """Return the dataset without a share of its conversations, and these, in an order that the seed decides.

        Raises ``UsageError`` where nothing would be left to learn.
        """
        count = math.ceil(share * len(self.samples))
        if not count:
            return self, ()
        if count >= len(self.samples) > 0:
            raise UsageError(f"held_out is {share:g} of {len(self.samples)} conversations: leave some to be learned")
        out = set(random.Random(seed).sample(range(len(self.samples)), count))
        kept = [sample for k, sample in enumerate(self.samples) if k not in out]
        held = tuple(sample for k, sample in enumerate(self.samples) if k in out)
        samples = tuple(replace(sample, index=k) for k, sample in enumerate(kept))
        tokens, learned = sum(len(s.tokens) for s in samples), sum(int(s.learn.sum()) for s in samples)
        return replace(self, samples=samples, tokens=tokens, response_tokens=learned), held

    def record(self) -> dict[str, Any]:
        """Return what a manifest holds."""
        kept = (
            "source",
            "sha256",
            "conversations",
            "cut",
            "dropped",
            "tokens",
            "response_tokens",
            "masked",
            "greetings",
        )
        return {name: getattr(self, name) for name in kept} | {"samples": len(self.samples)}


def load_dataset(source: str, tokenizer: Tokenizer, stops: Sequence[int], max_length: int) -> Dataset:
    """Read a file (or ``embedded:COLUMN``) and find its tokens.

    Raises InputError for a file that can't be used, a conversation without a response, or a template that doesn't
    show where responses are; UsageError for an unknown column.
    """
    digest = hashlib.sha256()
    samples: list[Sample] = []
    count = cut = dropped = masked = greetings = 0
    notes: set[str] = set()
    for conversation in read_conversations(source, notes):
        count += 1
        masked += len(conversation.masked)
        greetings += conversation.greeting
        for k, message in enumerate(conversation.messages):
            digest.update(f"{message['role']}\0{message['content']}\0{'masked' * (k in conversation.masked)}".encode())
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
    return Dataset(
        source,
        digest.hexdigest(),
        count,
        tuple(samples),
        cut,
        dropped,
        tokens,
        responses,
        masked,
        greetings,
        tuple(sorted(notes)),
    )


def read_conversations(source: str, notes: set[str] | None = None) -> Iterator[Conversation]:
    """Yield the conversations of a file or of ``embedded:COLUMN``, each checked to have a response to learn.

    ``notes`` collects the names of keys that are left alone.
    """
    notes = set() if notes is None else notes
    embedded = source.startswith(EMBEDDED)
    for turns, where in _embedded(source.removeprefix(EMBEDDED)) if embedded else _rows(Path(source), notes):
        if not any(turn.learn for turn in turns):
            raise InputError(f"{where}: the conversation has no response to learn: remove it or add one")
        messages = tuple(
            {"role": t.role, "content": t.text.strip() if t.role == "assistant" else t.text} for t in turns
        )
        masked = frozenset(k for k, turn in enumerate(turns) if turn.role == "assistant" and not turn.learn)
        greeting = max(turn.place for turn in turns) + 1 > sum(turn.place >= 0 for turn in turns)  # some are left out
        yield Conversation(messages, where, masked, greeting)


def _embedded(name: str) -> Iterator[tuple[list[Turn], str]]:
    """Read the training texts of this package; ``name`` is a column, and after a slash the one file that is meant."""
    column, _, only = name.partition("/")
    if column not in COLUMNS:
        expected = ", ".join(EMBEDDED + known for known in COLUMNS)
        raise UsageError(f"there is no {EMBEDDED}{name}, expected one of {expected}")
    files = {path.stem: path for path in sorted(_DATA.glob("*.jsonl"))}
    if not files:
        raise InputError(f"this installation has no embedded training texts (looked in {_DATA}): give a file")
    if (only and only not in files) or name.endswith("/"):
        expected = ", ".join(f"{EMBEDDED}{column}/{known}" for known in files)
        raise UsageError(f"there is no {EMBEDDED}{name}, expected {EMBEDDED}{column} or one of {expected}")
    for path in [files[only]] if only else files.values():
        for line, row in read_rows(path):
            where, found = f"{path}:{line}", row.get("turns")
            if not isinstance(found, list) or not found or not all(isinstance(turn, dict) for turn in found):
                raise InputError(f"{where}: turns is {show(found, 60)}, expected a list of turns")
            turns: list[Turn] = []
            for turn in found:
                turns.append(Turn("user", _text(turn.get("user"), where, "user"), len(turns), False))
                turns.append(Turn("assistant", _text(turn.get(column), where, column), len(turns), True))
            yield turns, where


def _rows(path: Path, notes: set[str]) -> Iterator[tuple[list[Turn], str]]:
    for line, row in read_rows(path):
        where = f"{path}:{line}"
        try:
            yield _turns(row, where, notes), where
        except UnusableError as error:
            raise InputError(f"{where}: {error}") from None


def _turns(row: dict[str, Any], where: str, notes: set[str]) -> list[Turn]:
    """Return the messages of a row in any of the three forms."""
    if "messages" in row:
        known, entries = ("role", "content"), row["messages"]
    elif "conversations" in row:
        known, entries = ("from", "value"), row["conversations"]
    elif "prompt" in row and "response" in row:
        known = ("role", "content")
        entries = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
    else:
        expected = "messages, conversations, or prompt and response"
        raise InputError(f"{where}: has {name_some(map(str, row)) or 'no keys'}, expected {expected}")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{where}: its messages are {show(entries, 60)}, expected a list of objects")
    turns = turns_of(row, entries, *known)
    for turn in turns:
        _text(turn.text, where, known[1])
    notes |= notes_of(row, entries, (*known, "messages", "conversations", "prompt", "response"))
    return without_greeting(turns) if known[0] == "from" else turns


def _text(value: object, where: str, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {key} is {show(value, 40)}, expected text that is not blank")
    return value


def tokenise(
    conversation: Conversation, tokenizer: Tokenizer, stops: Sequence[int]
) -> list[tuple[list[int], list[bool]]]:
    """Return the token ids of a conversation and which of them are learned: responses, their end tokens included.

    Found by rendering prefixes: what the template writes up to the point where an answer is asked for is the prompt;
    what it writes beyond, up to the end token, is the response. Where a template writes an earlier turn differently
    once others follow (some drop its reasoning), each response is learned after the prompt that it would be asked for
    with, in a sequence of its own. Raises InputError where neither fits.
    """
    messages, where = conversation.messages, conversation.where
    try:
        whole = tokenizer.chat(messages, add_generation_prompt=False)
        text = tokenizer.render(messages, add_generation_prompt=False)
        places = [i for i, m in enumerate(messages) if m["role"] == "assistant" and i not in conversation.masked]
        if places[0] == 0:
            raise InputError(
                "the conversation begins with a response, and nothing asks for it: remove it, or give it weight 0"
            )
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
