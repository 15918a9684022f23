"""Text to comparable words: how answers and aliases are made alike before they are compared.

NFKC, casefold, accents and possessive 's off, letters such as ø and ł by their plain one, apostrophes dropped, other
punctuation a gap, thousands separators out. Articles go, but for one that ends the text ("vitamin A"). A sign that is
part of a name stays: ``c++``, ``c#``, ``-40``; so does a range, which is neither of its ends: ``6-8``.
"""

from __future__ import annotations

import re
import unicodedata

from warmeng.study.numbers import ungroup

ARTICLES = frozenset({"a", "an", "the"})
CONTRACTED = frozenset(["it", "that", "this", "he", "she", "what", "who", "where", "how", "there", "here", "let"])
APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ＇`´ʹ′", "'"))
MINUS = str.maketrans(dict.fromkeys("−‒－﹣", "-"))
# Letters that Unicode does not decompose, by what they are commonly written as where they are missing.
LETTERS = str.maketrans({
    "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ß": "ss", "ħ": "h", "ŧ": "t",
    "ŋ": "n", "ĸ": "k", "ə": "e", "ǝ": "e", "ɨ": "i", "ƶ": "z", "ɫ": "l", "ƀ": "b", "ɗ": "d", "ɓ": "b", "ƙ": "k",
    "ǥ": "g",
})  # fmt: skip
TOKEN = re.compile(
    r"(?<![^\W_])-?\d+(?:[.,]\d+)*(?:[-–]\d+(?:[.,]\d+)*)+(?![^\W_])"
    r"|(?:(?<![\w.)\]}%'\"-])-)?\d+(?:[.,]\d+)*"
    r"|[^\W_](?:\+\+|#)(?![^\W_])|[^\W_]+(?:'[^\W_]+)*"
)


def fold(text: str) -> str:
    """Return the text casefolded, in plain letters and with plain apostrophes; its punctuation stays."""
    text = ungroup(text)
    if text.isascii():  # nothing to decompose
        return ungroup(text.translate(APOSTROPHES).casefold())
    # Casefolding and decomposition can each undo the other's work: two rounds suffice for known text.
    while True:
        parts = unicodedata.normalize("NFKD", text.translate(APOSTROPHES).translate(MINUS).casefold())
        bare = "".join(c for c in parts if unicodedata.category(c) not in ("Mn", "Cf"))
        folded = ungroup(unicodedata.normalize("NFKC", bare.translate(LETTERS)).translate(APOSTROPHES))
        if folded == text:
            return text
        text = folded


def tokens(folded: str) -> list[tuple[str, int, int]]:
    """Return (word, start, end) for each word of folded text, articles included."""
    found = []
    for match in TOKEN.finditer(folded):
        word = match[0].replace("–", "-")
        if word.endswith("'s") and word[:-2] not in CONTRACTED:
            word = word[:-2]
        found.append((word.replace("'", ""), match.start(), match.end()))
    return found


def words(text: str) -> list[str]:
    """Return the words that are compared: articles dropped, but for a last one."""
    found = [word for word, _, _ in tokens(fold(text))]
    return [word for k, word in enumerate(found) if word not in ARTICLES or k == len(found) - 1]


def normalise(text: str) -> str:
    """Return ``words`` joined by one space; applying it again changes nothing."""
    return " ".join(words(text))
