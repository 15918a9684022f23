"""Text to token ids and back, and conversations to token ids through the checkpoint's own chat template.

Data can't forge control tokens: a special token's string inside a message is encoded as the ordinary text that it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from warmeng.engine.chat_template import ChatTemplate
from warmeng.engine.config import inside, read_json
from warmeng.engine.errors import InputError, name_some, one_line, show

FROZEN_NOW = datetime(2026, 1, 1)  # what templates that ask for the date are told unless the caller says otherwise
MAX_TOKENIZER_BYTES = 64 * 2**20
ROLES = ("system", "user", "assistant")
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "tokenizer.model", "vocab.json", "merges.txt",
)  # fmt: skip
_FIRST = re.compile(r'("prepend_scheme"\s*:\s*)"first"')
_PROBE_SYSTEM, _PROBE_USER, _PROBE_REPLY, _PROBE_LAST = "Qprobesystem", "Qprobeuser", "Qprobereply", "Qprobelast"


class Tokenizer:
    """A checkpoint's tokenizer and chat template. Use ``Tokenizer.load``.

    Attributes:
        vocab_size: the number of usable ids (largest id + 1); a model's logits may be padded beyond it.
        bos_id, eos_id: ids of the tokens that the configuration names so, or None.
        special_tokens: text to id of the tokens that only a template may produce.
        hash: SHA-256 (hex) of the tokenizer's file.
        template_hash: SHA-256 (hex) of the chat template's text.
        frozen_date: ISO date that the template is told, None when it doesn't ask.
        default_system: the system message that the template adds by itself when none is given, else None.
        supports_system: whether the template takes a system message; False makes ``chat`` refuse one.
    """

    def __init__(
        self, source: str, backend: Any, template: str, tokens: Mapping[str, str], now: datetime, origin: str
    ) -> None:
        self.origin = origin
        self.hash = hashlib.sha256(source.encode()).hexdigest()
        self._backend = backend
        # "first" puts a space before the text's first word only; a segment after a control token isn't first.
        inner, changed = _FIRST.subn(r'\1"never"', source)
        self._inner = _backend(inner, origin) if changed else self._backend
        self.vocab_size = max(self._backend.get_vocab(with_added_tokens=True).values()) + 1
        added = self._backend.get_added_tokens_decoder()
        self._special = {token.content: (i, token) for i, token in sorted(added.items()) if token.special}
        self._special.pop("", None)
        self.special_tokens = {text: i for text, (i, _) in self._special.items()}
        ordered = sorted(self._special, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(text) for text in ordered) or r"(?!)")
        self.bos_id = backend.token_to_id(tokens["bos_token"]) if "bos_token" in tokens else None
        self.eos_id = backend.token_to_id(tokens["eos_token"]) if "eos_token" in tokens else None

        self.template_hash = hashlib.sha256(template.encode()).hexdigest()
        self.frozen_date = now.date().isoformat() if "strftime_now" in template else None
        self._template = ChatTemplate(template, tokens, now, origin)
        self.supports_system = False
        self.default_system: str | None = None
        self._probe()

    @classmethod
    def load(cls, folder: Path, now: datetime | None = None) -> Tokenizer:
        """The tokenizer in a checkpoint's folder, told that the date is ``now``.

        Raises:
            InputError: a missing or malformed file, no chat template, or one that drops messages or doubles the
                first token.
        """
        for name in _FILES:
            inside(folder, name)
        path = folder / "tokenizer_config.json"
        settings = read_json(path) if path.is_file() else {}
        if settings.get("auto_map"):
            raise InputError(f"{path}: auto_map is set, and code of a checkpoint is never run: use another checkpoint")
        legacy = folder / "special_tokens_map.json"
        named = {**(read_json(legacy) if legacy.is_file() else {}), **settings}
        tokens = {name: text for name in _NAMED if (text := _content(named.get(name)))}
        template = _template_text(folder, settings)
        source, backend = _fast_tokenizer(folder, settings, tokens)
        return cls(source, backend, template, tokens, now or FROZEN_NOW, str(folder))

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing is added, and special tokens' strings are ordinary text."""
        return self._encode(text, first=True)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of ``ids``, byte for byte: no spaces are cleaned up; broken UTF-8 becomes U+FFFD."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def render(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True, continue_text: str = ""
    ) -> str:
        """The conversation as the template writes it, then ``continue_text``: for people to read, not to encode."""
        masked, marks = self._render(messages, add_generation_prompt, continue_text)
        return masked.translate(marks)

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
        masked, marks = self._render(messages, add_generation_prompt, continue_text)
        ids: list[int] = []
        start, strip_left = 0, False
        matches = list(self._pattern.finditer(masked))
        for match in [*matches, None]:
            segment = masked[start : match.start() if match else len(masked)]
            index, token = self._special[match[0]] if match else (-1, None)
            if strip_left:
                segment = segment.lstrip()
            if token is not None and token.lstrip:
                segment = segment.rstrip()
            if segment:
                ids += self._encode(segment.translate(marks), first=start == 0)
            if match is not None and token is not None:
                ids.append(index)
                start, strip_left = match.end(), token.rstrip
        return ids

    def _encode(self, text: str, first: bool) -> list[int]:
        backend = self._backend if first else self._inner
        try:
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        except (UnicodeError, TypeError):
            raise InputError(
                f"text has a lone surrogate, expected valid Unicode: {one_line(ascii(text), 80)}"
            ) from None
        return ids

    def _render(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool, continue_text: str
    ) -> tuple[str, dict[int, str]]:
        """The rendered text, special tokens' strings from data begun with marks, and what each mark stands for."""
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
        if continue_text and not add_generation_prompt:
            raise InputError("continue_text is given without a generation prompt to continue: ask for both")
        texts = [message["content"] for message in messages] + [continue_text]
        if not any(self._pattern.search(text) for text in texts):
            return self._rendered(messages, add_generation_prompt) + continue_text, {}
        used = set().union(*texts, self._template.source, *self._special)
        first = sorted({text[0] for text in self._special})
        free = list(islice((c for c in map(chr, range(0xE000, 0xF900)) if c not in used), len(first)))
        if len(free) < len(first):
            raise InputError(f"{self.origin}: a conversation has every private character: take some of them out")
        marks = dict(zip(first, free, strict=True))
        marked = [{**message, "content": self._mask(message["content"], marks)} for message in messages]
        rendered = self._rendered(marked, add_generation_prompt) + self._mask(continue_text, marks)
        return rendered, {ord(mark): character for character, mark in marks.items()}

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

    def _mask(self, text: str, marks: Mapping[str, str]) -> str:
        """``text`` with a mark in place of the first character of each special token's string."""
        while self._pattern.search(text):  # what is left of one may begin another
            text = self._pattern.sub(lambda match: marks[match[0][0]] + match[0][1:], text)
        return text

    def _probe(self) -> None:
        """Find out what the template does with a system message, and refuse one that loses or doubles anything."""
        turns = [("user", _PROBE_USER), ("assistant", _PROBE_REPLY), ("user", _PROBE_LAST)]
        plain = [{"role": role, "content": content} for role, content in turns]
        system = {"role": "system", "content": _PROBE_SYSTEM}
        rendered = self._template.render(plain, True)
        self._check_complete(rendered, [content for _, content in turns])
        try:
            given = self._template.render([system, *plain], True)
        except InputError:
            self._check_doubled(plain)
            return
        self._check_complete(given, [_PROBE_SYSTEM, *(content for _, content in turns)])
        self.supports_system = True
        self._check_doubled([system, *plain])
        before, _, after = given.partition(_PROBE_SYSTEM)
        if rendered.startswith(before) and rendered.endswith(after):
            self.default_system = rendered[len(before) : len(rendered) - len(after)] or None

    def _check_complete(self, rendered: str, contents: list[str]) -> None:
        for content in contents:
            if content not in rendered:
                what = content.removeprefix("Qprobe")
                raise InputError(
                    f"{self.origin}: the chat template drops a message ({what}) of a conversation: use another template"
                )

    def _check_doubled(self, messages: list[dict[str, str]]) -> None:
        ids = self.chat(messages)
        if self.bos_id is not None and ids[:2] == [self.bos_id] * 2:
            raise InputError(f"{self.origin}: the chat template writes the first token twice: use another template")


def _backend(source: str, origin: str) -> Any:
    import tokenizers

    try:
        backend = tokenizers.Tokenizer.from_str(source)
    except BaseException as error:  # the library raises bare Exceptions, and BaseExceptions where its own code panics
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise InputError(f"{origin}: the tokenizer is malformed ({one_line(error, 120)}): fetch it again") from None
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def _content(value: object) -> str | None:
    """A token's text, which is given as such or as the ``content`` of an object."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _template_text(folder: Path, settings: Mapping[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise InputError(f"can't read {path} ({one_line(error, 80)}): fetch it again") from None
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if not isinstance(template, str) or not template:
        raise InputError(f"{folder} has no chat template: use an instruction-tuned model, or add chat_template.jinja")
    return template


def _fast_tokenizer(folder: Path, settings: Mapping[str, Any], tokens: Mapping[str, str]) -> tuple[str, Any]:
    """The fast tokenizer's JSON and the tokenizer; ``transformers`` loads it only where tokenizer.json isn't all."""
    path = folder / "tokenizer.json"
    if path.is_file():
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, expected at most {MAX_TOKENIZER_BYTES}")
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise InputError(f"can't read {path} ({one_line(error, 80)}): fetch it again") from None
        backend = _backend(source, str(folder))
        if all(backend.token_to_id(text) is not None for text in _declared(settings) | set(tokens.values())):
            return source, backend
    elif not any((folder / name).is_file() for name in ("tokenizer.model", "vocab.json")):
        raise InputError(f"{folder} has no tokenizer.json: expected the folder of a Hugging Face checkpoint")
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        source = loaded.backend_tokenizer.to_str()
    except Exception as error:  # whatever the conversion of an old tokenizer stumbles on
        raise InputError(f"{folder}: the tokenizer can't be loaded ({one_line(error, 120)}): fetch it again") from None
    return source, _backend(source, str(folder))


def _declared(settings: Mapping[str, Any]) -> set[str]:
    """Texts of tokens that tokenizer_config.json adds to those of tokenizer.json."""
    added = settings.get("added_tokens_decoder")
    extra = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
    values = [*(added.values() if isinstance(added, dict) else []), *(extra if isinstance(extra, list) else [])]
    return {text for value in values if (text := _content(value))}
