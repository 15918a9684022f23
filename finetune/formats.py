"""What a conversation's keys mean in the formats that trainers read: which turns are learned, and what can't be.

======================= ==================================================================================
OpenAI's fine-tuning    ``messages`` of ``role`` and ``content``; ``weight`` 0 or 1 of a response
axolotl, ms-swift       ``train`` or ``training``; ``loss``: true or false of a response
ShareGPT (FastChat,     ``conversations`` of ``from`` and ``value``; ``system`` beside them; what stands before
LLaMA-Factory)          the first question answers nothing and is left out
TRL                     ``messages``, every response of which is learned; ``label`` false (KTO) is refused
======================= ==================================================================================

Tool calls and thoughts in keys of their own are written by the chat template in ways that this package does not know:
a conversation that has them can't be used. Keys that are not named here are notes of whoever prepared the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warmeng.common.errors import show
from warmeng.engine.scheme import is_inert

ROLES = {"human": "user", "user": "user", "system": "system", "developer": "system"} | dict.fromkeys(
    ("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"
)
FLAGS = ("weight", "train", "training", "loss")  # of a message: whether it is learned
SYSTEM = ("system", "system_prompt")  # of a conversation
OTHER_ROLE, NOT_TEXT, TOOLS, THOUGHTS = "other roles", "not text", "tool calls", "thoughts in a key of their own"
FLAGGED, UNREAD, SYSTEMS = "weights that are not understood", "parts that can't be learned", "two system prompts"
# Of a message, which may then have no text.
CALLS = ("tool_calls", "function_call")
_TOOLS = ("tools", "functions", *CALLS, "tool_call_id")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thoughts")
_OF_MESSAGE = ("train_detail", "loss_scale", "refusal", "audio", "images")
# Of a conversation: false where its response is an example of what not to say.
_LIKED = ("label", "kto_tag")
_OF_ROW = ("history", "input", "documents", "chat_template_kwargs", "images", "videos", "audios")


class UnusableError(ValueError):
    """A conversation that can't be learned as its format means it: in short (``cause``), and in a sentence."""

    def __init__(self, cause: str, why: str) -> None:
        super().__init__(why)
        self.cause = cause


@dataclass(frozen=True)
class Turn:
    """A message; ``place`` is its place among the source's, -1 for a system prompt that stood beside them."""

    role: str  # user, assistant or system
    text: str
    place: int
    learn: bool  # of a response


def turns_of(row: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], role_key: str, text_key: str) -> list[Turn]:
    """Return a conversation's messages, with the system prompt that stands beside them.

    Raises UnusableError where something in it would be lost or learned otherwise than its format means.
    """
    _refuse(row, _TOOLS, TOOLS)
    _refuse(row, _OF_ROW, UNREAD)
    _refuse_weights(row)
    turns = [_turn(entry, role_key, text_key, place) for place, entry in enumerate(entries)]
    given = {row[key].strip() for key in SYSTEM if isinstance(row.get(key), str) and row[key].strip()}
    if odd := next((key for key in SYSTEM if not isinstance(row.get(key, ""), str | None)), None):
        raise UnusableError(NOT_TEXT, f"{odd} is {show(row[odd], 40)}, expected the text of a system prompt")
    inside = {turn.text.strip() for turn in turns if turn.role == "system"}
    if len(given) > 1 or (given and inside and given != inside):
        raise UnusableError(SYSTEMS, f"it has two system prompts ({show(sorted(given | inside), 60)}): keep one")
    if given and not inside:
        turns.insert(0, Turn("system", given.pop(), -1, False))
    return turns


def without_greeting(turns: Sequence[Turn]) -> list[Turn]:
    """Return a conversation without the responses before its first question; its system prompt stays."""
    first = next((k for k, turn in enumerate(turns) if turn.role == "user"), len(turns))
    return [turn for k, turn in enumerate(turns) if k >= first or turn.role != "assistant"]


def notes_of(row: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], known: Sequence[str]) -> set[str]:
    """Return the keys of a conversation and its messages that are left alone; ``known`` are those that are read."""
    every = [*row.items(), *(pair for entry in entries for pair in entry.items())]
    told = ((key, value) for key, value in every if value is False or not is_inert(value))  # "keep": false says much
    return {str(key) for key, _ in told if key not in (*known, *FLAGS, *SYSTEM)}


def text_of(content: Any) -> str | None:
    """Return a message's text, also where it is a list of text parts; None where it is none."""
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        return "".join(map(str, parts)) if parts and all(isinstance(part, str) for part in parts) else None
    return content if isinstance(content, str) else None


def _turn(entry: Mapping[str, Any], role_key: str, text_key: str, place: int) -> Turn:
    named = entry.get(role_key)
    role = ROLES.get(named.lower()) if isinstance(named, str) else None
    _refuse(entry, _TOOLS, TOOLS)
    if role is None:
        why = f"a message has {role_key} {show(named, 40)}, expected user, assistant or system"
        raise UnusableError(OTHER_ROLE, why)
    _refuse(entry, _THOUGHTS, THOUGHTS)
    _refuse(entry, _OF_MESSAGE, UNREAD)
    text = text_of(entry.get(text_key))
    if text is None:
        raise UnusableError(NOT_TEXT, f"{text_key} is {show(entry.get(text_key), 40)}, expected text")
    return Turn(role, text, place, _learned(entry, role))


def _refuse_weights(row: Mapping[str, Any]) -> None:
    """Raise UnusableError where a whole conversation is marked as one not to learn, or to learn less."""
    for key in (*FLAGS, *_LIKED):
        value = row.get(key)
        if isinstance(value, str):  # of a CSV file
            value = {"": None, "1": 1, "1.0": 1, "true": True, "false": False}.get(value.casefold(), value)
        if value is False or (key in FLAGS and value not in (None, 1)):
            why = f"{key} of the conversation is {show(value, 40)}: remove the conversation, or the key to learn it"
            raise UnusableError(FLAGGED, why)


def _learned(entry: Mapping[str, Any], role: str) -> bool:
    said = {}
    for flag in FLAGS:
        value = entry.get(flag)
        if value is None:
            continue
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            expected = "0 or 1" if flag == "weight" else "true or false"
            raise UnusableError(FLAGGED, f"{flag} of a message is {show(value, 40)}, expected {expected}")
        said[flag] = bool(value)
    if role != "assistant":
        asking = [flag for flag, value in said.items() if value]
        if asking:
            raise UnusableError(FLAGGED, f"{asking[0]} asks to learn what the {role} says: only responses are learned")
        return False
    if len(set(said.values())) > 1:
        raise UnusableError(FLAGGED, f"{' and '.join(said)} of a message contradict each other: keep one of them")
    return all(said.values())


def _refuse(values: Mapping[str, Any], keys: Sequence[str], cause: str) -> None:
    for key in keys:
        value = values.get(key)
        blank = isinstance(value, str) and value.strip() in ("", "[]", "{}", "null")
        if not is_inert(value) and not blank:
            raise UnusableError(cause, f"{key} can't be learned ({cause}): remove it, or the conversation")
