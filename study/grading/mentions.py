"""Where an answer's text asserts, denies or merely mentions one of some names.

Rules over normalised words, not a parser. A name is *asserted* only in a clause of which every word is understood: the
question's own words and words that assert nothing. It is *denied* only by a plain negation of such a clause. Under
doubt, report, condition, contrast or a question it is *open*; beside words that are not understood it is *stated*.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from warmeng.study.grading.lexicon import (
    COPULAS,
    CUES,
    DATES,
    DENIALS,
    DENYING,
    EMPTIES,
    GENERIC,
    HARMLESS,
    IRREGULAR,
    LETTER_WORDS,
    NARROWING,
    NEGATIONS,
    NOT_YET,
    NOUNS,
    NUMBER_WORDS,
    PASSING,
    PAST,
    PHATIC,
    PHRASES,
    RELATING,
    RELATIVES,
    SAYS_RIGHT,
    SUBJECTS,
    UNITS,
    VERBS,
    YOURS,
)
from warmeng.study.grading.parse import Clause, Parsed
from warmeng.study.text import ARTICLES, words

Stance = Literal["asserted", "denied", "open", "stated"]
Side = Literal["right", "user", "other"]
# Words of a clause that need not be understood, where the question's own words are there.
FEW = 3
SUFFIX = re.compile(
    r"(?P<root>\w{3,}?)(?:s|es|e|ed|ing|er|ers|d)|(?P<long>\w{4,}?)(?:ly|ian|ians|ion|ions|ation|ally|al|y|ies)"
)
CLEFT = re.compile(
    r"^(?:\w+ly )?(?:(?:so|and|but|well|no|yes|oh|then|in fact|actually) )*"
    r"(?:its|it is|it was|answer is|answer was|correct answer is)$"
)
ASKS_FOR_OBJECT = re.compile(r"\b(?:do|does|did|of which|in which|on which|to which|whom|how many)\b", re.IGNORECASE)
THE_ANSWER = re.compile(
    r"^(?:is|was) (?:actually |indeed |really |in fact )?(?:correct$|right$|the (?:correct |right )?(?:answer|one))"
    r"(?: (?:you\w*|were|im|i)\b.*)?$"
)
PASSIVE = frozenset(["is", "are", "was", "were", "been", "be", "being"])
PRESENT = frozenset(["is", "are", "whats", "whos"])
MONTHLY = DATES - frozenset(["bc", "century", "centuries", "percent"])  # beside a year
NO_DENIAL = frozenset(["no", "without", "nothing", "none", "nobody", "hardly", "nor", "neither", "nowhere"])


@dataclass(frozen=True, slots=True)
class Mention:
    """A name found: which side it is of, its word numbers in the whole text, and how it is meant."""

    side: Side
    start: int
    end: int
    sentence: int
    stance: Stance

    @property
    def asserted(self) -> bool:
        """Whether the text plainly says it."""
        return self.stance == "asserted"


def stem(word: str) -> str:
    """Return what stands for a word and its forms; numbers stand for themselves."""
    word = IRREGULAR.get(word, word)
    found = SUFFIX.fullmatch(word) if word.isalpha() else None
    return (found["root"] or found["long"]) if found else word


def asked(question: str) -> frozenset[str]:
    """Return the stems of a question's words that say something."""
    return frozenset(stem(w) for w in words(question) if w not in ARTICLES and (w not in HARMLESS or w in NOUNS))


def match(word: str, topic: frozenset[str]) -> str | None:
    """Return the stem of the question that a word is a form of."""
    own = stem(word)
    return own if own in topic else None


def find_mentions(parsed: Parsed, names: Mapping[Side, Sequence[str]], question: str) -> list[Mention]:
    """Return every mention of the names of each side, in order; one inside a longer one is dropped."""
    flat = parsed.words
    forms = {side: [words(name) for name in of] for side, of in names.items()}
    spans = [(start, end, side) for side, of in forms.items() for form in of for start, end in _spans(flat, form)]
    spans = [s for s in spans if s[1] - s[0] > 1 or len(flat[s[0]]) > 1 or _is_letter(parsed, s[0], question)]
    kept = {s for s in spans if not any(o[0] <= s[0] and s[1] <= o[1] and o[1] - o[0] > s[1] - s[0] for o in spans)}
    topic = asked(question)
    stances = {(a, b): _stance(parsed, a, b, topic, question) for a, b, _ in kept}
    return [Mention(side, a, b, parsed.clause_of[a].sentence, stances[a, b]) for a, b, side in sorted(kept)]


def _spans(flat: Sequence[str], name: Sequence[str]) -> list[tuple[int, int]]:
    """Whole-word matches of a name; articles of the text between its words are skipped."""
    if len(name) > 1 and name[0] in ARTICLES:
        name = name[1:]
    found = []
    for start, word in enumerate(flat):
        if not name or word != name[0]:
            continue
        at, k = start, 0
        while at < len(flat) and k < len(name):
            if flat[at] == name[k]:
                k += 1
            elif flat[at] not in ARTICLES:
                break
            at += 1
        if k == len(name):
            found.append((start, at))
    return found


def _is_letter(parsed: Parsed, at: int, question: str) -> bool:
    """Whether a single letter is an answer: "B", "(B)", "the answer is B", but not "a" in "a group"."""
    word, clause = parsed.words[at], parsed.clause_of[at]
    if word.isdigit():
        return True
    rest = {w for k, w in enumerate(clause.words, clause.start) if k != at}
    topic = frozenset() if word in ("a", "i") else frozenset(words(question))
    return rest <= LETTER_WORDS | topic | (ARTICLES - {word})


def is_negated(question: str) -> bool:
    """Whether a question asks for what is not: a "not" in its answer is then no denial, and its lack no assertion."""
    return bool((NEGATIONS | {"except", "least"}) & set(words(question)))


def _stance(parsed: Parsed, start: int, end: int, topic: frozenset[str], question: str) -> Stance:
    clause = parsed.clause_of[start]
    if clause.question:
        return "open"
    if parsed.clause_of[end - 1] is not clause:
        return "stated"
    found = _Reading.of(clause, start - clause.start, end - clause.start, topic)
    if is_negated(question) and (found.told or found.negations):
        return "stated"
    if found.negations:
        return "denied" if found.denies() else "open"
    if YOURS.search(PHRASES.sub(" ", found.before)) or found.cues:
        return "denied" if found.is_called_wrong() else "open"
    if clause.words[0] in PASSING or _after_anything(parsed, clause, start):
        return "open"
    if not ASKS_FOR_OBJECT.search(question) and found.is_object():
        return "stated"
    if found.is_of_another_time(words(question)) or found.is_related(words(question)) or found.describes():
        return "stated"
    return "asserted" if found.answers() and not (found.bare and _goes_on(parsed, clause, topic)) else "stated"


def _goes_on(parsed: Parsed, clause: Clause, topic: frozenset[str]) -> bool:
    """Whether a name that stands alone goes on after a comma in a word that is not understood: "London, Ontario"."""
    following = parsed.words[clause.end : clause.end + 1]
    if not following or parsed.clause_of[clause.end].sentence != clause.sentence:
        return False
    word = following[0]
    return not (word in HARMLESS | CUES | NEGATIONS | ARTICLES or word.isdigit() or stem(word) in topic)


def _after_anything(parsed: Parsed, clause: Clause, start: int) -> bool:
    """Whether a name comes after "anything but", "nothing but"."""
    before = parsed.words[max(0, clause.start - 2) : clause.start]
    return clause.words[0] == "but" and start - clause.start <= 2 and bool(EMPTIES & set(before))


@dataclass(frozen=True)
class _Reading:
    """A clause around the name at ``at`` to ``to``, its other words by their place and sorted by what they do.

    ``topic`` are the question's stems that stand in it, at the places ``told``; ``rest`` the other words that count.
    """

    words: tuple[str, ...]
    at: int
    to: int
    asked: frozenset[str]
    told: Mapping[int, str]
    rest: Mapping[int, str]
    skipped: frozenset[int]
    denying: bool

    @classmethod
    def of(cls, clause: Clause, at: int, to: int, asked: frozenset[str]) -> _Reading:
        said = " ".join(clause.words)
        skipped = frozenset(range(at, to)) | _covered(said, PHRASES) | _covered(said, SAYS_RIGHT)
        denied = _covered(said, DENYING)  # "I don't think it is Lyon"
        rest = {k: w for k, w in enumerate(clause.words) if k not in skipped | denied and w not in ARTICLES}
        if rest.get(0) == "no" and at:  # "No it is Paris"
            del rest[0]
        told = {k: stem(w) for k, w in rest.items() if stem(w) in asked}
        rest = {k: w for k, w in rest.items() if k not in told}
        return cls(clause.words, at, to, asked, told, rest, skipped, bool(denied))

    @property
    def before(self) -> str:
        """The words before the name."""
        return " ".join(self.words[: self.at])

    @property
    def bare(self) -> bool:
        """Whether the name stands alone."""
        return not self.rest and not self.told

    @property
    def topic(self) -> frozenset[str]:
        """The question's stems that stand in the clause."""
        return frozenset(self.told.values())

    @property
    def negations(self) -> list[int]:
        """The places of negations."""
        return [k for k, w in self.rest.items() if w in NEGATIONS] + [-1] * self.denying

    @property
    def cues(self) -> bool:
        """Whether a word of doubt, report, condition or comparison stands in the clause."""
        return any(w in CUES for w in self.rest.values())

    @cached_property
    def numeric(self) -> bool:
        """Whether the name is a number."""
        name = self.words[self.at : self.to]
        return any(c.isdigit() for w in name for c in w) or all(w in NUMBER_WORDS for w in name)

    @cached_property
    def unknown(self) -> frozenset[int]:
        """The places of words that are not understood. Beside a name, dates and numbers are; beside a number, not."""
        name = "".join(self.words[self.at : self.to])
        year = len(name) == 4 and name.isdigit()

        def understood(word: str) -> bool:
            if word in HARMLESS | NEGATIONS | CUES:
                return True
            if word.isdigit():
                return not self.numeric or (year and int(word) <= 31)
            return word in MONTHLY if year else word in DATES and not self.numeric

        found = {k for k, w in self.rest.items() if not understood(w) or (w in NARROWING and k + 1 in self.told)}
        if self.numeric and any(UNITS.match(w) for w in self.words[self.to : self.to + 1]):
            found.add(self.to)  # "8 million" is not 8
        return frozenset(found)

    def answers(self) -> bool:
        """Whether the clause gives the name as the answer.

        It is alone, or with words that say nothing; or it is said in the question's own words; or those are all
        there, and a few words that are not understood come after them.
        """
        before = [w for w in self.words[: self.at] if w not in ARTICLES]
        after = [w for w in self.words[self.to :] if w not in ARTICLES]
        if CLEFT.search(" ".join(before)) and (not after or after[0] in RELATIVES or self.to in self.skipped):
            return True  # "it was Kepler who ..."
        if self.unknown:
            last = max([self.to - 1, *self.told])
            core = self.asked - {stem(w) for w in GENERIC}
            return len(self.unknown) <= FEW and core <= self.topic and min(self.unknown) > max(last, self.to)
        subject = not any(w in COPULAS for k, w in self.rest.items() if k < self.at) and bool(after)
        if self.topic:
            half = 2 * len(self.topic) >= len(self.asked)
            following = [w for k, w in enumerate(self.words) if k >= self.to and k not in self.skipped]
            defined = bool(COPULAS & set(following[:1])) and following[1:2] == ["the"]
            named = bool(self.topic - {stem(w) for w in GENERIC})
            return self.numeric or half or not subject or (defined and named)  # "Sydney is a city" says too little
        if subject and COPULAS & set(after[:2]) and after[0] not in ("it", "that") and len(after) > 1:
            return THE_ANSWER.search(" ".join(self.words[self.to :])) is not None  # "Florence is gorgeous" is none
        told = [w for w in self.rest.values() if w not in PHATIC]
        return not VERBS & set(told) or told[0] in SUBJECTS

    def is_object(self) -> bool:
        """Whether the name is what the question's verb is done to: "Oswald killed X", where it asks who killed."""
        before = [k for k in range(self.at) if self.words[k] not in ARTICLES]
        return len(before) > 1 and before[-1] in self.told and not COPULAS & set(self.words[: self.at])

    def is_of_another_time(self, question: Sequence[str]) -> bool:
        """Whether the clause says what was, will or can be, where the question asks what is: "The capital was X"."""
        if not PRESENT & set(question) or (PAST | {"did", "had"}) & set(question):
            return False
        told = PHRASES.sub(" ", " ".join(self.words))
        past = bool(PAST & set(self.words)) and not PRESENT & set(self.words) and "answer" not in self.words
        return past or ("be" not in question and NOT_YET.search(told) is not None)

    def is_related(self, question: Sequence[str]) -> bool:
        """Whether a preposition that is not the question's stands before the name: "written for X", "a city by X"."""
        before = [w for k, w in enumerate(self.words[: self.at]) if w not in ARTICLES and k not in self.skipped][-1:]
        if self.numeric or not before or before[0] not in RELATING - set(question):
            return False
        passive = before[0] == "by" and bool(self.told) and any(w in PASSIVE for w in self.words)
        return not passive and not {"where", "when"} & set(question)

    def describes(self) -> bool:
        """Whether the clause says of what kind the name is, and no more: "Ankara is a lovely city in Turkey"."""
        following = self.words[self.to : self.to + 2]
        kind = bool(following) and following[0] in COPULAS and following[1:] in (("a",), ("an",))
        return kind and not self.asked <= self.topic

    def denies(self) -> bool:
        """Whether the clause is plainly negated about the name: "it is not X", "X isn't the ...", "not X"."""
        if len(self.negations) != 1 or self.cues or self.unknown:
            return False
        (k,) = self.negations
        if k == -1:
            return True
        if self.words[k] in NO_DENIAL:
            return False
        if k < self.at:
            return all(w in ARTICLES or w in HARMLESS for w in self.words[k + 1 : self.at])
        between = self.words[self.to : k]
        return len(between) <= 1 and ((between[-1:] != () and between[-1] in COPULAS) or self.words[k].endswith("nt"))

    def is_called_wrong(self) -> bool:
        """Whether the clause is "X is wrong" and nothing more."""
        after = self.words[self.to :]
        return self.at == 0 and len(after) == 2 and after[0] in COPULAS and after[1] in DENIALS


def _covered(text: str, pattern: re.Pattern[str]) -> frozenset[int]:
    """Return the numbers of the words that a pattern's matches cover."""
    spans = (m.span() for m in pattern.finditer(text))
    return frozenset(k for a, b in spans for k in range(text.count(" ", 0, a), text.count(" ", 0, b) + 1))
