"""Whether a rewrite still says what the original said: plain comparisons that need no model.

Each check looks at one kind of content. They find what was lost or added, not what was put differently: numbers that
changed places or a claim turned round in the middle of a text pass. A check that is wrong costs a retry or a response;
what it lets through is trained on, so in doubt a check fails.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from warmeng.common.errors import one_line
from warmeng.finetune.prepare.refusals import flatten, negates, refuses, stance

# Raised whenever a check changes, so that a preparation is not continued under other rules.
VERSION = 1
CHECKS = (
    "empty", "truncated", "unchanged", "comment", "length", "words", "numbers", "names", "code", "links", "refusal",
    "stance",
)  # fmt: skip


@dataclass(frozen=True)
class Bounds:
    """Words that a rewrite may have: shares of the original's, with some words fewer or more for short ones."""

    least: float
    fewer: int
    most: float
    more: int


# The package's own texts, written by people, stay within 0.94 to 2.0 and 12 (warm), 0.33 to 1.25 and 8 (cold).
BOUNDS: Mapping[str, Bounds] = {"warm": Bounds(0.6, 3, 2.0, 40), "cold": Bounds(0.25, 3, 1.25, 8)}
# Share of the long words that must come again; 98 % of the package's own texts keep that, and 92 % keep 0.5.
KEPT = 0.3
# Letters that a long word begins with; texts with fewer such words are not compared.
LONG, FEW = 5, 6

_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.M | re.S)
_SPAN = re.compile(r"(?<!`)(`+)(?!`)([^\n]+?)(?<!`)\1(?!`)")
_LINK = re.compile(r"(?:https?://|www\.)[^\s<>\"'\]]+|[\w.+-]+@[\w-]+\.[\w.-]+")
_LINK_END = ".,;:!?)*_"
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:[.,:/]\d+)*|(?<=[A-Za-z$€£#_.(])\d+(?:[.,:/]\d+)*")
_MARKER = re.compile(r"^[ \t]*(?:\d{1,2}[.)]|[-*•])[ \t]+", re.M)
# Without a first member, a number at a line's start is content.
_LIST = re.compile(r"^[ \t]*1[.)][ \t]", re.M)
_TO_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_WORD_NUMBER = {word: str(value) for value, word in enumerate(_TO_TWENTY.split())} | {
    "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "hundred": "100", "thousand": "1000", "first": "1",
    "second": "2", "third": "3", "once": "1", "twice": "2", "half": "1/2", "dozen": "12",
}  # fmt: skip
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_TOKEN = re.compile(r"[^\W\d_]+(?:['’.-][^\W\d_]+)*\.?|[.!?:;\n\"“”‘’()\[\]*_#>|/•–—-]|\d+\S*")
_STARTS = frozenset('.!?:;\n"“”‘’()[]*_#>|/•–—-')
# Words that get a capital for other reasons.
_CAPITALS = (
    "i ok okay yes no hi hey hello dear oh mr mrs ms dr ai god goodness mom dad mum thanks sure please never always "
    "really very all not must now so and but or the a an he she it we you they this that these those my your our his "
    "her its their what who when where why how if in on at to for of with there here is are do does don't can't"
)
_NO_NAMES = frozenset(_CAPITALS.split())
_TITLES = frozenset(("Mr.", "Mrs.", "Ms.", "Dr.", "St.", "Prof.", "vs."))
_CONTRACTION = re.compile(r"['’](?:s|m|re|ve|ll|d|t)$")
_COMMENT = re.compile(
    r"^\W*(?:sure|certainly|of course|okay|ok|absolutely)?[^\w\n]*(?:here(?:'s| is| are)|this is|below is)[^\n]{0,60}"
    r"\b(?:rewrit\w+|rewrote|rephras\w+|reworded|revised|warmer|colder|version|reply|response|text)\b[^\n]{0,60}:"
    r"|\b(?:rewritten|rephrased|original|warmer|colder) (?:reply|response|text|version|message)\b"
    r"|^\W*(?:assistant|reply|response|rewritten)\s*:"
    r"|</?(?:message|reply)>",
    re.I | re.M,
)


def check(original: str, rewrite: str, persona: str, prompt: str = "", finish: str = "stop") -> dict[str, str]:
    """Return what failed: check name to a short reason, in the order of ``CHECKS``; empty where all passed.

    ``persona`` says whose length bounds hold: a name in ``BOUNDS``; any other has none. Names in ``prompt``, which the
    user had written, are not new. ``finish`` is the engine's reason for ending: ``length`` means truncated.
    """
    if not rewrite.strip():
        return {"empty": "nothing was written"}
    bounds = BOUNDS.get(persona)
    found = {
        "truncated": "cut at the token limit" if finish == "length" else "",
        "unchanged": "the same words as the original" if _letters(original) == _letters(rewrite) else "",
        "comment": _comment(original, rewrite),
        "length": _length(original, rewrite, bounds) if bounds else "",
        "words": _words(original, rewrite),
        "numbers": _compare(numbers(original), numbers(rewrite), _spelled(original), _spelled(rewrite)),
        "names": _names(original, rewrite, prompt),
        "code": _code(original, rewrite),
        "links": _compare(links(original), links(rewrite)),
        "refusal": _refusal(original, rewrite),
        "stance": _stance(original, rewrite),
    }
    return {name: reason for name, reason in found.items() if reason}


def cause(failed: Mapping[str, str]) -> str:
    """Return the first failed check by the order of ``CHECKS``, by which a dropped response is counted."""
    return next((name for name in CHECKS if name in failed), "")


def numbers(text: str) -> set[str]:
    """Return the numbers written with digits outside code, links and list markers, in one spelling."""
    plain = _prose(text).replace("\u2212", "-")
    plain = re.sub(r"\bminus (?=\d)", "-", _MARKER.sub("", plain) if _LIST.search(plain) else plain)
    plain = re.sub(r"(?<=\d)\s?[-–—]\s?(?=\d)", " to ", plain)  # a range, not a sign
    return {_spell(number) for number in _NUMBER.findall(_THOUSANDS.sub("", plain))}


def code_spans(text: str) -> tuple[Counter[str], set[str]]:
    """Return the fenced blocks with their number, and the backticked spans outside them."""
    blocks = Counter(
        "\n".join(line.rstrip() for line in body.strip("\n").split("\n")) for _, body in _FENCE.findall(text)
    )
    return blocks, {body.strip() for _, body in _SPAN.findall(_FENCE.sub("\n", text))}


def links(text: str) -> set[str]:
    """Return web and mail addresses, without punctuation that follows them."""
    return {link.rstrip(_LINK_END) for link in _LINK.findall(text)}


def names(text: str) -> set[str]:
    """Return words with a capital that do not stand where any word would have one: most are names.

    Headings and other lines in which every long word has a capital are left out.
    """
    found: set[str] = set()
    for line in _MARKER.sub("", _prose(text)).split("\n"):
        words = re.findall(r"[^\W\d_]{4,}", line)
        if len(words) > 1 and all(word[0].isupper() for word in words) and not line.rstrip().endswith((".", "!", "?")):
            continue
        at_start, before = True, ""
        for token in _TOKEN.findall(line):
            if token in _STARTS:
                at_start, before = True, token
                continue
            word = _CONTRACTION.sub("", token.rstrip("."))
            if not at_start and word[0].isupper() and word.lower().replace("’", "'") not in _NO_NAMES:
                found.add(word)
            initial = re.fullmatch(r"[A-Z]\.", token) and (before in _STARTS or not before or before[0].isupper())
            at_start = token.endswith(".") and not (initial or token in _TITLES)
            before = token
    return found


def _prose(text: str) -> str:
    """Return the text without code and links."""
    return _LINK.sub(" ", _SPAN.sub(" ", _FENCE.sub("\n", text)))


def _letters(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def _spell(number: str) -> str:
    sign, digits = ("-", number[1:]) if number.startswith("-") else ("", number)
    if re.fullmatch(r"\d+\.\d*[1-9]0+|\d+\.0+", digits):
        digits = digits.rstrip("0").rstrip(".")
    return sign + (digits.lstrip("0") or "0" if digits.isdigit() and digits[0] != "0" else digits)


def _spelled(text: str) -> set[str]:
    return {_WORD_NUMBER[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _WORD_NUMBER}


def _compare(
    before: Set[str], after: Set[str], said_before: Set[str] = frozenset(), said_after: Set[str] = frozenset()
) -> str:
    """Say what is only on one side; ``said`` are members that the text has in words."""
    lost, new = before - after - said_after, after - before - said_before
    parts = [f"{what} {', '.join(sorted(some)[:4])}" for what, some in (("lost", lost), ("added", new)) if some]
    return one_line("; ".join(parts), 160)


def _names(original: str, rewrite: str, prompt: str) -> str:
    has, had = (re.findall(r"[^\W\d_]+", flatten(text)) for text in (rewrite, f"{original} {prompt}"))
    lost = {name for name in names(original) if not _has(has, name)}
    new = {name for name in names(rewrite) if not _has(had, name) and not (name.isupper() and len(name) > 1)}
    return _compare(lost, new)


def _has(words: Sequence[str], name: str) -> bool:
    """Whether each part of a name is among the words, or a longer or shorter form of it: Australia, Australian."""
    return all(
        any(w == part or (min(len(w), len(part)) >= 3 and _is_form(*sorted((w, part), key=len))) for w in words)
        for part in re.findall(r"[^\W\d_]+", flatten(name))
    )


def _is_form(short: str, long: str) -> bool:
    return long.startswith(short) and (long == short + "s" or (len(short) >= 5 and len(long) - len(short) <= 3))


def _code(original: str, rewrite: str) -> str:
    (blocks, spans), (new_blocks, new_spans) = code_spans(original), code_spans(rewrite)
    if blocks != new_blocks:
        return f"{blocks.total()} code blocks became {new_blocks.total()}, or changed"
    return _compare(spans, new_spans)


def _refusal(original: str, rewrite: str) -> str:
    before, after = refuses(original), refuses(rewrite)
    if before and not after:
        return "" if stance(rewrite, 1) == "no" else "no longer refuses"  # a bare no refuses too
    return "refuses what the original answers" if after and not before else ""


def _stance(original: str, rewrite: str) -> str:
    """A yes or no may be left out where the sentence itself still says it."""
    before, after = stance(original), stance(rewrite)
    if before == after or refuses(original):
        return ""
    if before and after:
        return f"{before} became {after}"
    if after:
        kept = negates(original) if after == "no" else stance(original, 99) != "no"
        return "" if kept else f"says {after}, the original does not"
    kept = negates(rewrite) if before == "no" else negates(rewrite) <= negates(original)
    return "" if kept else f"{before} was lost"


def _length(original: str, rewrite: str, bounds: Bounds) -> str:
    before, after = len(original.split()), len(rewrite.split())
    least = bounds.least * before - bounds.fewer
    most = bounds.most * before + bounds.more
    if least <= after <= most:
        return ""
    return f"{after} words where {max(1, round(least))} to {round(most)} were expected"


def _words(original: str, rewrite: str) -> str:
    """Long words, by their beginnings so that bent forms are the same: a text that shares few says something else."""
    before, after = ({w[:LONG] for w in re.findall(rf"[^\W_]{{{LONG},}}", flatten(t))} for t in (original, rewrite))
    if len(before) < FEW or len(before & after) >= KEPT * len(before):
        return ""
    return f"{len(before & after)} of {len(before)} long words came again"


def _comment(original: str, rewrite: str) -> str:
    return "talks about the rewrite" if _COMMENT.search(rewrite) and not _COMMENT.search(original) else ""
