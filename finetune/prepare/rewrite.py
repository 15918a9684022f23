"""Rewrites responses warm and cold through the engine: all in one pass, failures again with other noise."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmeng.common.files import read_text
from warmeng.common.interrupts import interruptible
from warmeng.common.journal import Journal
from warmeng.common.progress import Pace, Progress
from warmeng.engine.request import GenerateRequest, GenerateResult, Result, SamplingParams
from warmeng.finetune.prepare.checks import cause, check
from warmeng.finetune.prepare.conversations import Conversation, Exchange
from warmeng.finetune.prepare.settings import PERSONAS, PrepareSettings

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine
    from warmeng.engine.tokenizer import Tokenizer

DATA = Path(__file__).parent / "data"
TOO_LONG = "too long"
# Requests that the engine holds at once: bounds memory.
WAVE = 1024
# Characters of the user's message that the rewriter sees.
USER_LIMIT = 4000
_FIELD = re.compile(r"\{(user|response)\}")
_TAGS = re.compile(r"^\s*<reply>\s*|\s*</reply>\s*$")
_QUOTES = (('"', '"'), ("“", "”"))


@dataclass(frozen=True)
class Source:
    """A response to rewrite. ``id`` is a hash of its conversation and its turn; ``tokens`` is its length."""

    id: str
    conversation: Conversation
    exchange: Exchange
    tokens: int


@dataclass(frozen=True)
class Rewrite:
    """What became of one response for one persona: the last attempt's text, and what failed in it, if anything."""

    text: str
    failed: Mapping[str, str]
    attempts: int

    @property
    def cause(self) -> str:
        """The check that it is counted under; empty for a sound rewrite."""
        return TOO_LONG if TOO_LONG in self.failed else cause(self.failed)


class LinesByKey(Journal):
    """A journal whose lines stay in memory."""

    def __init__(self, path: Path, resume: str, what: str) -> None:
        """As ``Journal``."""
        self.lines: dict[str, Mapping[str, Any]] = {}
        super().__init__(path, resume, what)

    def keep(self, line: Mapping[str, Any]) -> None:
        """Keep a line by its key."""
        self.lines[line["key"]] = line


def instructions() -> dict[str, str]:
    """Return the texts that the rewriter is told: one for each persona, and ``ask``, the frame of a request."""
    return {name: read_text(DATA / f"{name}.txt").strip() for name in (*PERSONAS, "ask")}


def sources(conversations: Sequence[Conversation], tokenizer: Tokenizer) -> list[Source]:
    """Return the responses of the conversations, in their order."""
    return [
        Source(f"{c.id}-{e.turn}", c, e, len(tokenizer.encode(e.response))) for c in conversations for e in c.exchanges
    ]


class Rewriter:
    """Knows for each response and persona what was tried and what comes next. Results depend on nothing else."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        settings: PrepareSettings,
        lines: Mapping[str, Mapping[str, Any]],
        inputs: Mapping[str, Any],
    ) -> None:
        """``lines`` are the attempts' lines by key, also those to come.

        ``inputs`` is what the attempts' keys are made of beside the response: all of the manifest's.
        """
        self.settings, self.lines, self._tokenizer = settings, lines, tokenizer
        self._texts = instructions()
        self._digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def outcome(self, source: Source, persona: str) -> tuple[Rewrite | None, int]:
        """Return what became of a response, and how many attempts were made; None while one is still to come."""
        if source.tokens > self.settings.max_new_tokens:
            reason = f"{source.tokens} tokens, a rewrite may have {self.settings.max_new_tokens}"
            return Rewrite("", {TOO_LONG: reason}, 0), 0
        rewrite = None
        for attempt in range(self.settings.attempts):
            line = self.lines.get(self._key(source, persona, attempt))
            if line is None:
                return None, attempt
            rewrite = self.judge(source, persona, line)
            if not rewrite.failed or TOO_LONG in rewrite.failed:
                return rewrite, attempt + 1
        return rewrite, self.settings.attempts

    def judge(self, source: Source, persona: str, line: Mapping[str, Any]) -> Rewrite:
        """Check one attempt's line."""
        made = line["attempt"] + 1
        if line["finish"] == "none":
            return Rewrite("", {TOO_LONG: "prompt and rewrite do not fit into the model"}, made)
        text = tidy(line["text"], source.exchange.response)
        failed = check(source.exchange.response, text, persona, source.exchange.user, line["finish"])
        return Rewrite(text, failed, made)

    def request(self, source: Source, persona: str, attempt: int) -> GenerateRequest:
        """Return the request of one attempt; its noise is keyed by response, persona and attempt."""
        settings = self.settings
        sampling = SamplingParams(
            max_new_tokens=min(settings.max_new_tokens, 2 * source.tokens + 96),
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=settings.seed,
        )
        return GenerateRequest(
            self._key(source, persona, attempt),
            tuple(self._tokenizer.chat(self._messages(source.exchange, persona))),
            sampling,
            noise_key=(f"{source.id} {persona}", attempt),
        )

    def _messages(self, exchange: Exchange, persona: str) -> list[dict[str, str]]:
        fields = {"user": exchange.user[:USER_LIMIT], "response": exchange.response}
        asked = _FIELD.sub(lambda match: fields[match[1]], self._texts["ask"])
        if self._tokenizer.supports_system:
            return [{"role": "system", "content": self._texts[persona]}, {"role": "user", "content": asked}]
        return [{"role": "user", "content": f"{self._texts[persona]}\n\n{asked}"}]

    def _key(self, source: Source, persona: str, attempt: int) -> str:
        return hashlib.sha256(f"{self._digest} {source.id} {persona} {attempt}".encode()).hexdigest()[:32]


def rewrite_all(
    engine: Engine, rewriter: Rewriter, journal: Journal, wanted: Sequence[Source], progress: Progress
) -> bool:
    """Ask for what has no sound rewrite yet until it has one or no attempt is left; True where interrupted.

    Every finished attempt is in the journal before the next result is waited for.
    """
    todo: list[tuple[Source, str, int]] = []
    for source in wanted:
        for persona in PERSONAS:
            found, attempt = rewriter.outcome(source, persona)
            if found is None:
                todo.append((source, persona, attempt))
    total = len(wanted) * len(PERSONAS)
    pace, kept, failed = Pace(), 0, 0
    asked: dict[str, tuple[Source, str, int]] = {}
    ahead = iter(todo)

    def ask(item: tuple[Source, str, int]) -> None:
        request = rewriter.request(*item)
        asked[request.id] = item
        engine.add(request)

    def status() -> str:
        return f"rewrites: {kept} kept, {failed} dropped{pace.left(kept + failed, len(todo))}"

    progress.start({"rewriting": total}, {"rewriting": total - len(todo)}, status)
    try:
        with interruptible(lambda: engine.stats.longest_step) as interrupted:
            for _, item in zip(range(WAVE), ahead, strict=False):
                ask(item)
            for result in engine.results(interrupted):
                source, persona, attempt = asked.pop(result.id)
                line = _line(result, source, persona, attempt)
                journal.append(line)
                sound = not rewriter.judge(source, persona, line).failed
                if sound or rewriter.outcome(source, persona)[0] is not None:
                    kept, failed = kept + sound, failed + (not sound)
                    progress.advance("rewriting")
                    if (following := next(ahead, None)) is not None:
                        ask(following)
                else:
                    ask((source, persona, attempt + 1))
                if interrupted:
                    break
            if interrupted:
                return True
    finally:
        progress.stop()
    assert not asked, "the engine answers every request"
    return False


def tidy(text: str, original: str) -> str:
    """Return a rewrite without what models put around one: blanks, our tags, quotation marks."""
    text = _TAGS.sub("", text).strip()
    for left, right in _QUOTES:
        inner = text[1:-1]
        if len(text) > 1 and text[0] == left and text[-1] == right and left not in inner and right not in inner:
            return text if original.strip()[:1] == left else inner.strip()
    return text


def _line(result: Result, source: Source, persona: str, attempt: int) -> dict[str, Any]:
    assert isinstance(result, GenerateResult), "only texts are asked for"
    return {
        "key": result.id,
        "response": source.id,
        "persona": persona,
        "attempt": attempt,
        "text": result.text,
        "finish": result.finish_reason,
        "tokens": len(result.token_ids),
    }
