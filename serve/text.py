"""The text of an answer while it grows: what is certain of it can be told, and it is the same in the end."""

from __future__ import annotations

from bisect import bisect_left
from codecs import getincrementaldecoder
from collections.abc import Iterable

from warmeng.engine.results import encoded
from warmeng.engine.tokenizer import Tokenizer


class GrowingText:
    """Tokens in; text and counts of tokens out, once they are certain.

    Text is not certain while it may be a part of a character, or the beginning of a stop string. The whole is that of
    ``GenerateResult.text``, and the tokens are those that begin in it.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = [encoded(stop) for stop in stops]
        self._bytes = bytearray()
        # Where each token begins in the bytes.
        self._starts: list[int] = []
        self._told = 0
        self._told_tokens = 0
        self._decoder = getincrementaldecoder("utf-8")("replace")

    @property
    def tokens(self) -> int:
        """Tokens that were fed."""
        return len(self._starts)

    def feed(self, token_ids: Iterable[int]) -> None:
        """Take tokens."""
        for token in token_ids:
            self._starts.append(len(self._bytes))
            self._bytes += self._tokenizer.decode_bytes((token,))

    def take(self) -> tuple[str, range]:
        """Return the text that has become certain, and which tokens are whole in what is told so far."""
        sure = len(self._bytes) - self._held()
        text = self._decoder.decode(bytes(self._bytes[self._told : sure]))
        self._told = sure
        # The last token may go on in what is held back; one without text may stand behind a stop string's end.
        stop = bisect_left(self._starts, sure) - (sure < len(self._bytes))
        return text, self._to(max(stop, self._told_tokens))

    def finish(self) -> tuple[str, range]:
        """Return the rest, cut before the first stop string, and the rest of the tokens that begin before it."""
        cuts = [at for stop in self._stops if (at := self._bytes.find(stop)) >= 0]
        end = min(cuts, default=len(self._bytes))
        text = self._decoder.decode(bytes(self._bytes[self._told : end]), final=True)
        self._told = end
        return text, self._to(bisect_left(self._starts, end) if cuts else self.tokens)

    def _to(self, stop: int) -> range:
        found = range(self._told_tokens, max(stop, self._told_tokens))
        self._told_tokens = found.stop
        return found

    def _held(self) -> int:
        """Return how many bytes at the end may be the beginning of a stop string."""
        tail = bytes(self._bytes[self._told :])
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(tail)), 0, -1):
            if any(stop.startswith(tail[-size:]) for stop in self._stops):
                return size
        return 0
