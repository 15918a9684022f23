"""Text to token ids and back, and conversations to token ids through the checkpoint's own chat template.

Data can't forge control tokens: a special token's string inside a message is encoded as the ordinary text that it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path

from warmeng.common.errors import InputError, name_some, one_line, show
from warmeng.engine.chat_template import ChatTemplate
from warmeng.engine.template_probe import probe
from warmeng.engine.token_bytes import TokenBytes
from warmeng.engine.tokenizer_files import TokenizerFiles, parse_tokenizer, read_tokenizer

# The date that templates are told when they ask for it, unless the caller says otherwise.
FROZEN_NOW = datetime(2026, 1, 1)
ROLES = ("system", "user", "assistant")
_FIRST = re.compile(r'("prepend_scheme"\s*:\s*)"first"')
# Characters that no vocabulary has.
_UNKNOWN = "\ue000\ue001"
# A character that no tokenizer joins with the next one.
_BEFORE = "\x02"


class Tokenizer:
    """A checkpoint's tokenizer and chat template. Use ``Tokenizer.load``.

    Attributes:
        vocab_size: the number of ids (largest id + 1); a model's logits may be padded beyond it, or fall short of it.
        bos_id, eos_id: ids of the tokens that the configuration names so, or None.
        adds_bos: whether the tokenizer itself begins texts with ``bos_id``; ``encode`` and ``parse`` never do.
        end_of_turn: id of the token that the template puts after an answer.
        special_tokens: text to id of the tokens that only a template may produce.
        hash: SHA-256 (hex) of the tokenizer's file.
        template: the chat template's text.
        template_hash: SHA-256 (hex) of the chat template's text.
        frozen_date: ISO date that the template is told, None when it doesn't ask.
        default_system: the system message that the template adds by itself when none is given, else None.
        supports_system: whether the template takes a system message; False makes ``chat`` refuse one.
    """

    def __init__(self, files: TokenizerFiles, now: datetime, origin: str, rows: int | None = None) -> None:
        """``rows``: how many rows the embedding has, where it is known: a text that needs more is refused."""
        self.origin = origin
        self.hash = hashlib.sha256(files.source.encode()).hexdigest()
        self._backend = files.backend
        # "first" puts a space before the text's first word only; a segment after a control token isn't first.
        inner, changed = _FIRST.subn(r'\1"never"', files.source)
        self._inner = parse_tokenizer(inner, origin) if changed else self._backend
        self.vocab_size = max(self._backend.get_vocab(with_added_tokens=True).values()) + 1
        self._rows = self.vocab_size if rows is None else rows
        added = self._backend.get_added_tokens_decoder()
        self._added: dict[str, int] = {token.content: i for i, token in sorted(added.items()) if token.content}
        self._special = {token.content: (i, token) for i, token in sorted(added.items()) if token.special}
        self._special.pop("", None)
        self.special_tokens = {text: i for text, (i, _) in self._special.items()}
        self._special_ids = frozenset(self.special_tokens.values())
        self._pattern = _any_of(self._special)
        self.bos_id = self._named(files, "bos_token")
        self.eos_id = self._named(files, "eos_token")
        begun: list[int] = self._backend.encode("a", add_special_tokens=True).ids
        self.adds_bos = self.bos_id is not None and begun[:1] == [self.bos_id]
        self._bytes = TokenBytes(self._backend)
        self._forged, self._forged_ids = self._find_forged()

        self.template = files.template
        self.template_hash = hashlib.sha256(files.template.encode()).hexdigest()
        self.frozen_date = now.date().isoformat() if "strftime_now" in files.template else None
        self._template = ChatTemplate(files.template, files.tokens, now, origin)
        found = probe(self._template)
        self.supports_system, self.default_system = found.supports_system, found.default_system
        self.end_of_turn = self._end_of_turn(found.after_answer)
        self._check_control_tokens(found.conversation)

    @classmethod
    def load(cls, folder: Path, now: datetime | None = None, rows: int | None = None) -> Tokenizer:
        """The tokenizer in a checkpoint's folder, told that the date is ``now`` and how many rows the embedding has.

        Raises:
            InputError: a missing or malformed file, no chat template, or one that drops messages, doubles the first
                token, opens no answer when asked to, ends answers with no token, or needs tokens beyond the rows.
        """
        return cls(read_tokenizer(folder), now or FROZEN_NOW, str(folder), rows)

    def encode(self, text: str, inside: bool = False) -> list[int]:
        """Ids of plain text: nothing is added, and special tokens' strings are ordinary text.

        ``inside``: as the text stands after other text. SentencePiece tokenizers put a blank before a text's first
        word, which is none of the text's own.
        """
        ids = self._encode(text, first=True)
        if not inside or self.decode_bytes(ids) == text.encode():
            return ids
        before, whole = self._encode(_BEFORE, first=True), self._encode(_BEFORE + text, first=True)
        return whole[len(before) :] if _common(before, whole) == len(before) else ids

    def parse(self, text: str) -> list[int]:
        """Ids of text as ``render`` gives it: special tokens' strings are those tokens, also where data forged them.

        For callers that have a conversation as text alone; ``chat`` takes messages, and tells the two apart.
        """
        return self._segments(text, _Marks(self._pattern, {}))

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of ``ids``, byte for byte: no spaces are cleaned up; broken UTF-8 becomes U+FFFD."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def decode_bytes(self, ids: Iterable[int], skip_special: bool = True) -> bytes:
        """UTF-8 of ``ids`` as they stand after other text, where ``decode`` may take a first blank for none of it.

        What several tokens make of one character is whole here, however they are cut.
        """
        return b"".join(self._bytes[i] for i in ids if not (skip_special and i in self._special_ids))

    def render(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True, continue_text: str = ""
    ) -> str:
        """The conversation as the template writes it, then ``continue_text``: for people to read, and for ``parse``."""
        masked, marks = self._render(messages, add_generation_prompt, (continue_text,))
        return (masked + marks.mask(continue_text)).translate(marks.table)

    def chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True, continue_text: str = ""
    ) -> list[int]:
        """Ids of a conversation: those of ``apply_chat_template``, but special tokens' strings in data stay text.

        Args:
            messages: each with ``role`` (system, user or assistant) and ``content``.
            add_generation_prompt: end with the opening of an assistant's turn.
            continue_text: the beginning of that turn, put in the assistant's mouth.

        Raises:
            InputError: messages of another form, or that the template refuses.
        """
        masked, marks = self._render(messages, add_generation_prompt, (continue_text,))
        return self._segments(masked + marks.mask(continue_text), marks)

    def continuations(
        self, messages: Sequence[Mapping[str, str]], opening: str, texts: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        """Ids of a conversation with an answer opened by ``opening``, and ids of each text as it stands after that.

        A text alone may have other tokens than after a prompt, so both are encoded together. The prompt is what its
        own ids and those of all texts begin with alike: nearly always all of it. What a tokenizer joins with a text's
        first character, a blank at the prompt's end for example, belongs to the texts, as in lm-evaluation-harness;
        there each text is split where the prompt alone would end, here all at one place, so that they compare. The
        probability of a text that took something over from the prompt includes that of what it took.

        Raises:
            InputError: as ``chat``; a text that adds no token, or two that have the same ones.
        """
        masked, marks = self._render(messages, True, [opening + text for text in ("", *texts)])
        last = max(self._pattern.finditer(masked), key=re.Match.end, default=None)
        start, strips = (last.end(), self._special[last[0]][1].rstrip) if last else (0, False)
        head = self._segments(masked[:start], marks)
        ends = [
            self._segments(masked[start:] + marks.mask(opening + text), marks, start == 0, strips)
            for text in ("", *texts)
        ]
        shared = min(_common(ends[0], end) for end in ends)
        found = [end[shared:] for end in ends[1:]]
        for place, (text, ids) in enumerate(zip(texts, found, strict=True)):
            if not ids or ids in found[:place]:
                other = texts[found.index(ids)]
                why = f"has the same tokens as {show(other, 40)}" if ids else "has no token of its own"
                raise InputError(f"{self.origin}: {show(text, 40)} {why} after a prompt: use another model, or text")
        return head + ends[0][:shared], found

    def vocabulary(self) -> list[bytes]:
        """What each id adds to a text, by id: ``decode_bytes`` of each, control tokens' strings included."""
        return [self._bytes[i] for i in range(self.vocab_size)]

    def _segments(self, masked: str, marks: _Marks, first: bool = True, strip_left: bool = False) -> list[int]:
        """Ids of a text in which control tokens stand: those, and the ids of what is between them.

        ``first``: the text is the first that is encoded; ``strip_left``: it follows a token that takes blanks.
        """
        ids: list[int] = []
        start = 0
        for match in [*self._pattern.finditer(masked), None]:
            segment = masked[start : match.start() if match else len(masked)]
            index, token = self._special[match[0]] if match else (-1, None)
            if strip_left:
                segment = segment.lstrip()
            if token is not None and token.lstrip:
                segment = segment.rstrip()
            if segment:
                ids += self._encode(segment.translate(marks.table), first=first and start == 0)
            if match is not None and token is not None:
                ids.append(index)
                start, strip_left = match.end(), token.rstrip
        return ids

    def _encode(self, text: str, first: bool) -> list[int]:
        """Ids of a text in which no control token stands.

        Special tokens' strings that would become those are cut behind their first characters.
        """
        if self._forged is None or not self._forged.search(text):
            return self._encode_whole(text, first)
        cuts = [0, *(match.start() + 1 for match in self._forged.finditer(text)), len(text)]
        parts = [(start, text[start:end]) for start, end in pairwise(cuts)]
        ids = [index for start, part in parts for index in self._encode_whole(part, first and start == 0)]
        if self._forged_ids.intersection(ids):
            raise InputError(f"{self.origin}: the text {show(text, 40)} becomes a control token: change it")
        return ids

    def _encode_whole(self, text: str, first: bool) -> list[int]:
        backend = self._backend if first else self._inner
        try:
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        except (UnicodeError, TypeError):
            raise InputError(
                f"text has a lone surrogate, expected valid Unicode: {one_line(ascii(text), 80)}"
            ) from None
        if self._rows < self.vocab_size:
            self._check_rows(ids, f"the text {show(text, 40)}")
        return ids

    def _check_rows(self, ids: Iterable[int], where: str) -> None:
        largest = max(ids, default=0)
        if largest >= self._rows:
            raise InputError(
                f"{self.origin}: {where} needs the token {show(self._backend.id_to_token(largest), 40)} with id "
                f"{largest}, but the embedding has {self._rows} rows: tokenizer and weights don't belong together, "
                "fetch both again"
            )

    def _named(self, files: TokenizerFiles, name: str) -> int | None:
        """The id of a token that the configuration names, if it has one in the embedding."""
        found: int | None = self._backend.token_to_id(files.tokens[name]) if name in files.tokens else None
        return found if found is None or found < self._rows else None

    def _render(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool, continued: Sequence[str]
    ) -> tuple[str, _Marks]:
        """The rendered text, special tokens' strings from data begun with marks, and the marks: for ``continued`` too,
        which is what will be put behind it.
        """
        if not messages:
            raise InputError("the conversation has no messages, expected at least one")
        for message in messages:
            role, content = message.get("role"), message.get("content")
            if set(message) != {"role", "content"} or role not in ROLES or not isinstance(content, str):
                raise InputError(
                    f"a message has {name_some(map(str, message))} with role {show(role, 40)}, expected a role "
                    f"({', '.join(ROLES)}) and a content that is text"
                )
            if role == "system" and not self.supports_system:
                raise InputError(f"{self.origin}: the chat template refuses system messages: use a persona without one")
        if any(continued) and not add_generation_prompt:
            raise InputError("continue_text is given without a generation prompt to continue: ask for both")
        marks = self._marks([*(message["content"] for message in messages), *continued])
        marked = [{**message, "content": marks.mask(message["content"])} for message in messages]
        return self._rendered(marked, add_generation_prompt), marks

    def _marks(self, texts: Sequence[str]) -> _Marks:
        if not any(self._pattern.search(text) for text in texts):
            return _Marks(self._pattern, {})
        used = set().union(*texts, self._template.source, *self._special)
        first = sorted({text[0] for text in self._special})
        free = list(islice((c for c in map(chr, range(0xE000, 0xF900)) if c not in used), len(first)))
        if len(free) < len(first):
            raise InputError(f"{self.origin}: a conversation has every private character: take some of them out")
        return _Marks(self._pattern, dict(zip(first, free, strict=True)))

    def _rendered(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """What the template makes of messages; all of what system and user say must be in it, but for outer blanks.

        Earlier answers may lack what a template takes out of them: thoughts.
        """
        rendered = self._template.render(messages, add_generation_prompt)
        for message in messages:
            if message["role"] != "assistant" and message["content"].strip() not in rendered:
                raise InputError(
                    f"{self.origin}: the chat template drops or changes what the {message['role']} says "
                    f"({show(message['content'], 40)}): use another template"
                )
        return rendered

    def _end_of_turn(self, after_answer: Sequence[str]) -> int:
        """The added token that comes first after an answer."""
        added = _any_of(self._added)
        for written in after_answer:
            match = added.search(written)
            if match and not written[: match.start()].strip():
                return self._added[match[0]]
        raise InputError(
            f"{self.origin}: the chat template writes {show(after_answer[0], 40)} after an answer, expected a token of "
            "the tokenizer's own, such as its eos_token, that ends it: use another template"
        )

    def _find_forged(self) -> tuple[re.Pattern[str] | None, frozenset[int]]:
        """A pattern of the special tokens' strings that data would become, None where there are none, and their ids.

        Vocabularies of words have those strings as words too. The token for what is unknown forges nothing: any unknown
        text becomes it.
        """
        found: dict[str, int] = {}
        for backend in {self._backend, self._inner}:
            unknown = backend.encode(_UNKNOWN, add_special_tokens=False).ids
            for text, index in self.special_tokens.items():
                told = (
                    backend.encode(data, add_special_tokens=False).ids for data in (text, f"a {text} b", f"a{text}b")
                )
                if index not in unknown and any(index in ids for ids in told):
                    found[text] = index
        return (_any_of(found) if found else None), frozenset(found.values())

    def _check_control_tokens(self, conversation: Sequence[Mapping[str, str]]) -> None:
        ids = self.chat(conversation)
        if self.bos_id is not None and ids[:2] == [self.bos_id] * 2:
            raise InputError(f"{self.origin}: the chat template writes the first token twice: use another template")
        self._check_rows([*ids, self.end_of_turn], "the chat template")


@dataclass(frozen=True)
class _Marks:
    """Stand-ins for the first characters of special tokens' strings that occur in data."""

    pattern: re.Pattern[str]
    by_first: Mapping[str, str]

    @property
    def table(self) -> dict[int, str]:
        """What ``str.translate`` needs to take the marks out again."""
        return {ord(mark): character for character, mark in self.by_first.items()}

    def mask(self, text: str) -> str:
        """``text`` with a mark in place of the first character of each special token's string."""
        while self.by_first and self.pattern.search(text):  # what is left of one may begin another
            text = self.pattern.sub(lambda match: self.by_first[match[0][0]] + match[0][1:], text)
        return text


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern of any of the texts, the longest that fits; of none, it matches nowhere."""
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or r"(?!)")


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two lists begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))
