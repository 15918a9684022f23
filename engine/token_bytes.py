"""What each token of a ``tokenizers.Tokenizer`` adds to a text, in bytes: also where several make one character."""

from __future__ import annotations

import re
from typing import Any

# Byte-level vocabularies spell bytes as characters: printable ones as themselves, the others from U+0100 on (GPT-2).
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = (byte for byte in range(256) if byte not in _PRINTABLE)
_SPELLED = {chr(b): b for b in _PRINTABLE} | {chr(256 + n): b for n, b in enumerate(_OTHERS)}
# A byte's token in SentencePiece vocabularies.
_NAMED = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ANCHORS = "aetonisrEATN0123456789"


class TokenBytes:
    """The bytes of tokens by id, found when they are first asked for."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._known: dict[int, bytes] = {}
        self._anchor, self._length = self._find_anchor()

    def __getitem__(self, index: int) -> bytes:
        if index not in self._known:
            self._known[index] = self._find(index)
        return self._known[index]

    def _find(self, index: int) -> bytes:
        """Decode it after another one, for some decoders drop a first blank; its name tells the bytes of a part."""
        name = self._backend.id_to_token(index)
        if name is None:  # ids may have gaps
            return b""
        text: str = self._backend.decode([*self._anchor, index], skip_special_tokens=False)[self._length :]
        if "\ufffd" not in text:
            return text.encode()
        if match := _NAMED.fullmatch(name):
            return bytes([int(match[1], 16)])
        return bytes(_SPELLED[c] for c in name) if all(c in _SPELLED for c in name) else text.encode()

    def _find_anchor(self) -> tuple[list[int], int]:
        """A token to decode others after, and the length of its text; none where no letter or digit has one."""
        for letter in _ANCHORS:
            last = self._backend.encode(letter, add_special_tokens=False).ids[-1:]
            text = self._backend.decode(last, skip_special_tokens=False)
            if text.strip() == letter:
                return last, len(text)
        return [], 0
