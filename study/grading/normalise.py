"""Text to comparable words: how answers and aliases are made alike before they are compared.

NFKC, casefold, accents and possessive 's off, apostrophes dropped, other punctuation a gap, thousands separators out.
Articles go, but for one that ends the text ("vitamin A").
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

ARTICLES = frozenset({"a", "an", "the"})
CONTRACTED = frozenset(["it", "that", "this", "he", "she", "what", "who", "where", "how", "there", "here", "let"])
APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ＇`´ʹ′", "'"))
TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W_]+(?:'[^\W_]+)*")
THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")


KEPT = 64  # texts whose words are kept: several rules read an answer one after the other, between steps of the engine


@lru_cache(maxsize=KEPT)
def fold(text: str) -> str:
    """Return the text casefolded, without accents and with plain apostrophes; its punctuation stays."""
    while True:  # casefolding and decomposition can each undo the other's work: two rounds suffice for known text
        parts = unicodedata.normalize("NFKD", text.translate(APOSTROPHES).casefold())
        bare = parts.translate({ord(c): None for c in set(parts) if unicodedata.category(c) == "Mn"})
        folded = unicodedata.normalize("NFKC", bare).translate(APOSTROPHES)
        if folded == text:
            return text
        text = folded


@lru_cache(maxsize=KEPT)
def tokens(folded: str) -> tuple[tuple[str, int, int], ...]:
    """Return (word, start, end) for each word of folded text, articles included."""
    found = []
    for match in TOKEN.finditer(folded):
        word = match[0]
        if not word.isalpha():  # a number, or with an apostrophe
            if word.endswith("'s") and word[:-2] not in CONTRACTED:
                word = word[:-2]
            word = word.replace(",", "") if THOUSANDS.fullmatch(word) else word.replace("'", "")
        found.append((word, match.start(), match.end()))
    return tuple(found)


def words(text: str) -> list[str]:
    """Return the words that are compared: articles dropped, but for a last one."""
    found = [word for word, _, _ in tokens(fold(text))]
    return [word for k, word in enumerate(found) if word not in ARTICLES or k == len(found) - 1]


def normalise(text: str) -> str:
    """Return ``words`` joined by one space; applying it again changes nothing."""
    return " ".join(words(text))
