"""A multiple-choice question asked openly: "Which of the following is ..." is "What is ..."."""

from __future__ import annotations

import re

FOLLOWING = re.compile(r"\b(?P<which>[Ww]hich)(?: one)? of the following(?P<rest>[^.?!\n]*)")
VERBS = [
    "is",
    "are",
    "was",
    "were",
    "will",
    "would",
    "can",
    "could",
    "should",
    "may",
    "might",
    "must",
    "has",
    "have",
    "had",
    "does",
    "do",
    "did",
    "best",
    "most",
    "least",
    "first",
    "explains",
    "explain",
    "describes",
    "represents",
    "accounts",
    "suggests",
    "contributed",
    "causes",
    "caused",
    "occurs",
    "led",
    "leads",
    "increases",
    "decreases",
    "supports",
    "indicates",
    "confirms",
    "correctly",
    "accurately",
    "also",
    "in",
    "on",
    "by",
    "to",
    "at",
    "if",
    "for",
    "likely",
    "better",
    "more",
    "characterizes",
    "increased",
    "decreased",
    "provides",
    "predisposes",
    "contributes",
    "explained",
    "resulted",
    "played",
    "results",
    "belongs",
    "applies",
    "not",
    "NOT",
    "LEAST",
    "MOST",
    "BEST",
    "EXCEPT",
]
# Of plurals, the first that fits, and what the singular ends with.
ENDINGS = (
    ("ies", "y"),
    ("viruses", "virus"),
    ("biases", "bias"),
    ("noses", "nosis"),
    ("sses", "ss"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("xes", "x"),
    ("s", ""),
)
PLURAL = frozenset({"are", "were", "have", "do"})
ALWAYS_S = ("ss", "us", "is", "ics")


def openly(text: str) -> str:
    """Return the text with every "which of the following" asked as an open question."""
    return FOLLOWING.sub(_open, text)


def _open(match: re.Match[str]) -> str:
    what, rest = ("What", "Which") if match["which"][0].isupper() else ("what", "which"), match["rest"]
    words = rest.split()
    if not words or rest[0] in ",:)" or words[0].strip(",") in VERBS:
        return what[0] + rest
    verb = next((w for w in words if w in VERBS and w not in ("in", "on", "by", "to", "at", "for")), "")
    if verb in PLURAL or "and" in words[:3] or "or" in words[:4]:
        return what[1] + rest
    for k, word in enumerate(words[:5]):
        if word in VERBS or word in ("of", "that"):
            break
        single = singular(word.strip(","))
        if single != word.strip(","):
            return what[1] + re.sub(rf"\b{re.escape(word.strip(','))}\b", single, rest, count=1)
        if k == 4:
            break
    return what[1] + rest


def singular(word: str) -> str:
    """Return a plural noun's singular; any other word as it is."""
    if word.endswith(ALWAYS_S) or len(word) < 4:
        return word
    found = next((pair for pair in ENDINGS if word.endswith(pair[0])), None)
    return word[: -len(found[0])] + found[1] if found else word
