"""An answer's text in clauses: parsed once, and passed on to every rule that reads words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from warmeng.study.grading.lexicon import TURNS
from warmeng.study.text import fold, tokens

# A role's name that a template left in the answer.
ROLE = re.compile(r"\A\s*assistant\s*[\n:]\s*", re.IGNORECASE)
# The next turn of a conversation or the next example of a prompt, written by the model itself: no part of its answer.
NEXT_TURN = re.compile(
    r"\n\s*(?:[#*<|]+\s*)?(?:user|human|assistant|question|q|problem|example|instruction)\s*\d*\s*(?:\||>|\*\*)*\s*:",
    re.IGNORECASE,
)
ABBREVIATED = frozenset(["mr", "mrs", "ms", "dr", "st", "prof", "jr", "sr", "vs", "approx", "ca", "mt", "ft"])
ENDS = re.compile(r"[.!?;…。！？](?:\W|$)|\n")
STOPS = re.compile(r"[,:()\[\]—–]|\s-+\s")
# Signs that a reader sees and no word says: struck out, crossed, more or less than. Those become words of doubt.
STRUCK = re.compile(r"(?<![\w~])~~(?=\S)[^~\n]*(?<=\S)~~(?!~)|<(s|del|strike)>.*?</\1>", re.IGNORECASE)
CROSSED = re.compile("[\u274c\u274e\u2716\u2717\u2718\u2715\U0001f6ab\U0001f44e≠]")
BOUNDED = re.compile(r"(?<![\w\"'/<>=-])[<>≤≥±⩽⩾]=?(?=\s?\d)|(?<=\d)\+(?![\w+])")
LATEX = re.compile(r"\\(?:text|mathrm|mathbf|textbf|boxed|fbox)\s?\{|\\[()\[\]]|(?<!\\)\$(?!\d)")
QUOTED = re.compile(r"[\"“”]")


@dataclass(frozen=True, slots=True)
class Clause:
    """Words between two stops, from word number ``start`` on. ``question``: its sentence ends with '?'."""

    words: tuple[str, ...]
    start: int
    sentence: int
    question: bool

    @property
    def end(self) -> int:
        """The number of the word after the last one."""
        return self.start + len(self.words)


@dataclass(frozen=True)
class Parsed:
    """An answer's own words, in clauses and sentences."""

    text: str
    clauses: tuple[Clause, ...]

    @cached_property
    def words(self) -> list[str]:
        """All words, articles included."""
        return [word for clause in self.clauses for word in clause.words]

    @cached_property
    def clause_of(self) -> list[Clause]:
        """The clause of each word."""
        return [clause for clause in self.clauses for _ in clause.words]

    @cached_property
    def plain(self) -> str:
        """All words, joined by one space."""
        return " ".join(self.words)

    def sentences(self) -> Iterator[tuple[Clause, ...]]:
        """Yield the clauses of each sentence."""
        at = 0
        while at < len(self.clauses):
            end = at
            while end < len(self.clauses) and self.clauses[end].sentence == self.clauses[at].sentence:
                end += 1
            yield self.clauses[at:end]
            at = end


def own_text(text: str) -> str:
    """Return an answer without a role's name before it and without further turns after it."""
    text = ROLE.sub("", text)
    further = next((m for m in NEXT_TURN.finditer(text) if text[: m.start()].strip()), None)
    return text[: further.start()] if further else text


def parse(text: str) -> Parsed:
    """Split a text into clauses: at sentence ends, commas, colons, dashes, brackets and words such as 'but'."""
    folded = fold(LATEX.sub(" ", BOUNDED.sub(" than ", CROSSED.sub(" wrong ", STRUCK.sub(" ", text)))))
    found = tokens(folded)
    groups: list[tuple[list[str], int, int]] = []
    ends: dict[int, str] = {}
    sentence, last = 0, 0
    before = ""
    for number, (word, start, end) in enumerate(found):
        gap = folded[last:start]
        if last and ENDS.search(gap + " ") and not _abbreviates(before, gap, word):
            ends[sentence] = gap
            sentence += 1
            groups.append(([], sentence, number))
        elif not groups or (STOPS.search(gap) and not _subtracts(before, gap, word)) or word in TURNS:
            groups.append(([], sentence, number))
        groups[-1][0].append(word)
        last, before = end, word
    ends[sentence] = folded[last:]
    clauses = (Clause(tuple(said), start, n, "?" in ends[n]) for said, n, start in groups if said)
    return Parsed(text, tuple(clauses))


def _subtracts(before: str, gap: str, word: str) -> bool:
    """Whether a dash stands between two numbers: "7 - 2"."""
    return gap.strip() in ("-", "–", "—") and before[-1:].isdigit() and word[:1].isdigit()


def _abbreviates(before: str, gap: str, word: str) -> bool:
    """Whether a full stop belongs to an abbreviation or an initial: "J. K. Rowling", "St. Louis", "No. 7"."""
    if gap.strip(" \t") != "." or gap == ".":
        return False
    if before == "no":
        return word[:1].isdigit()
    return before in ABBREVIATED or (len(before) == 1 and before.isalpha())
