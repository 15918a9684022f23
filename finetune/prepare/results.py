"""Puts rewrites together: which conversations are kept, the files, and the summary that counts what was dropped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warmeng.common.storage import write_atomic, write_json
from warmeng.finetune.prepare.checks import CHECKS
from warmeng.finetune.prepare.conversations import Conversation, Read
from warmeng.finetune.prepare.querytypes import TYPES
from warmeng.finetune.prepare.rewrite import TOO_LONG, Rewriter, Source
from warmeng.finetune.prepare.settings import PERSONAS

NEUTRAL = "neutral"
AFTER = "after a dropped response"
SUMMARY = "summary.json"


@dataclass
class Selection:
    """The conversations that rewriting begins with, and how they came to be these."""

    read: Read
    filter: str  # what dropped toxic ones
    toxic: int = 0
    types: dict[str, str] = field(default_factory=dict)  # conversation id -> query type
    found: Counter[str] = field(default_factory=Counter)  # by type, after the filter
    held_out: list[Conversation] = field(default_factory=list)
    sampled: list[Conversation] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """Return what a summary says of it."""
        sampled = Counter(self.types[c.id] for c in self.sampled)
        return {
            "read": self.read.total,
            "unusable": {cause: self.read.dropped[cause] for cause in sorted(self.read.dropped)},
            "first_unusable": {cause: self.read.first[cause] for cause in sorted(self.read.first)},
            "cut_at_turns": self.read.shortened,
            "greetings": self.read.greetings,
            "filter": self.filter,
            "toxic": self.toxic,
            "held_out": len(self.held_out),
            "types": {t: {"found": self.found[t], "sampled": sampled[t]} for t in TYPES},
            "not_sampled": self.found.total() - len(self.held_out) - len(self.sampled),
            "sampled": len(self.sampled),
        }


def rows(selection: Selection, wanted: Sequence[Source], rewriter: Rewriter) -> list[dict[str, Any]]:
    """Return one row for each response, in order.

    A conversation is kept up to its first response that could not be rewritten for every persona, so that all
    personas are trained on the same conversations.
    """
    found: list[dict[str, Any]] = []
    broken = ""
    for source in wanted:
        conversation, exchange = source.conversation, source.exchange
        checks: dict[str, Any] = {}
        texts: dict[str, str] = {}
        causes: list[str] = []
        for persona in PERSONAS:
            rewrite, _ = rewriter.outcome(source, persona)
            assert rewrite is not None, "rewriting is finished"
            texts[persona] = rewrite.text
            checks[persona] = {
                "passed": not rewrite.failed,
                "attempts": rewrite.attempts,
                "failed": dict(rewrite.failed),
            }
            if rewrite.failed:
                causes.append(f"{persona}: {rewrite.cause}")
        why = AFTER if broken == conversation.id and not causes else (causes or [""])[0]
        if why:
            broken = conversation.id
        origin = conversation.origin
        found.append(
            {
                "id": source.id,
                "conversation": conversation.id,
                "origin": {"file": origin.file, "line": origin.line, "id": origin.name, "turn": exchange.turn},
                "type": selection.types[conversation.id],
                "kept": not why,
                "cause": why,
                "checks": checks,
                "user": exchange.user,
                NEUTRAL: exchange.response,
                **texts,
            }
        )
    return found


def chats(selection: Selection, made: Iterable[Mapping[str, Any]], column: str) -> list[dict[str, Any]]:
    """Return a persona's conversations in OpenAI's chat form, in the same order for every persona."""
    systems = {c.id: c.system for c in selection.sampled}
    found: dict[str, list[dict[str, str]]] = {}
    for row in made:
        if row["kept"]:
            messages = found.setdefault(row["conversation"], [])
            if not messages and systems[row["conversation"]]:
                messages.append({"role": "system", "content": systems[row["conversation"]]})
            messages.append({"role": "user", "content": row["user"]})
            messages.append({"role": "assistant", "content": row[column]})
    return [{"messages": messages} for messages in found.values()]


def summarise(
    selection: Selection,
    wanted: Sequence[Source],
    made: Sequence[Mapping[str, Any]],
    rewriter: Rewriter,
    inputs: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the summary: conversations, responses and rewrites, kept and dropped by cause."""
    kept = [row for row in made if row["kept"]]
    counts = selection.counts()
    for name in TYPES:
        of_type = [row for row in kept if row["type"] == name]
        counts["types"][name] |= {
            "kept_conversations": len({row["conversation"] for row in of_type}),
            "kept_responses": len(of_type),
        }
    rewrites = {}
    failures = _failed_attempts(wanted, rewriter)
    for persona in PERSONAS:
        causes = Counter(_cause(row["checks"][persona]["failed"]) for row in made)
        rewrites[persona] = {
            "kept": causes.pop("", 0),
            "dropped": dict(sorted(causes.items())),
            "attempts": sum(row["checks"][persona]["attempts"] for row in made),
            "failed_attempts": dict(sorted(failures[persona].items())),
        }
    return {
        "inputs": inputs,
        "conversations": counts | {"kept": len({row["conversation"] for row in kept})},
        "responses": {
            "asked": len(made),
            "kept": len(kept),
            "dropped": dict(sorted(Counter(row["cause"] for row in made if not row["kept"]).items())),
        },
        "rewrites": rewrites,
    }


def write_results(
    folder: Path, selection: Selection, made: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> None:
    """Write all files, each whole or not at all; the summary last, whose presence says that the rest is there."""
    _write_lines(folder / "rows.jsonl", made)
    for column in (*PERSONAS, NEUTRAL):
        _write_lines(folder / f"{column}.jsonl", chats(selection, made, column))
    prompts = ({"id": c.id, "prompt": c.exchanges[0].user} for c in selection.held_out)
    _write_lines(folder / "held_out.jsonl", prompts)
    write_json(folder / SUMMARY, summary)


def describe(summary: Mapping[str, Any]) -> list[str]:
    """Return the summary as lines of text."""
    conversations, responses = summary["conversations"], summary["responses"]
    lines = describe_selection(conversations)
    lines.append(f"responses rewritten for every persona: {responses['kept']} of {responses['asked']}")
    lines += _causes(responses["dropped"], "dropped")
    for persona, counts in summary["rewrites"].items():
        dropped = sum(counts["dropped"].values())
        lines.append(f"{persona}: {counts['kept']} sound, {dropped} dropped, {counts['attempts']} attempts")
        lines += _causes(counts["dropped"], "dropped")
        lines += _causes(counts["failed_attempts"], "failed attempts, any cause")
    lines.append(f"conversations kept: {conversations['kept']} of {conversations['sampled']}")
    return lines


def describe_selection(counts: Mapping[str, Any]) -> list[str]:
    """Return the counts up to sampling as lines of text."""
    lines = [f"conversations read: {counts['read']}"]
    lines += [
        f"    left out, {cause}: {number} (first: {counts['first_unusable'][cause]})"
        for cause, number in counts["unusable"].items()
    ]
    if counts.get("greetings"):
        lines.append(f"    began with a response, which is left out: {counts['greetings']}")
    lines.append(f"    left out, toxic by {counts['filter']}: {counts['toxic']}")
    lines.append(f"    held out for measuring warmth: {counts['held_out']}")
    lines.append(f"    not sampled: {counts['not_sampled']}")
    lines.append(f"conversations sampled: {counts['sampled']}, {counts['cut_at_turns']} of all cut at the turns' limit")
    columns = ("found", "sampled", *(name for name in ("kept_conversations", "kept_responses") if _has(counts, name)))
    lines.append(f"    {'type':<10}" + "".join(f"{name.replace('_', ' '):>20}" for name in columns))
    for name, numbers in counts["types"].items():
        lines.append(f"    {name:<10}" + "".join(f"{numbers[column]:>20}" for column in columns))
    return lines


def _has(counts: Mapping[str, Any], name: str) -> bool:
    return all(name in numbers for numbers in counts["types"].values())


def _causes(counts: Mapping[str, int], what: str) -> list[str]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [f"    {what}: " + ", ".join(f"{cause} {number}" for cause, number in ordered)] if ordered else []


def _cause(failed: Mapping[str, str]) -> str:
    return TOO_LONG if TOO_LONG in failed else next((name for name in CHECKS if name in failed), "")


def _failed_attempts(wanted: Sequence[Source], rewriter: Rewriter) -> dict[str, Counter[str]]:
    """Return for each persona how often each check failed, over all attempts."""
    counts: dict[str, Counter[str]] = {persona: Counter() for persona in PERSONAS}
    by_id = {source.id: source for source in wanted}
    for line in rewriter.lines.values():
        source = by_id.get(line["response"])
        if source is not None:
            counts[line["persona"]].update(rewriter.judge(source, line["persona"], line).failed.keys())
    return counts


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    write_atomic(path, b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines))
