"""Where an answer's text asserts, denies or merely mentions one of some names.

Rules over normalised words, not a parser. A name is *asserted* only in a clause of which every word is understood: the
question's own words and words that assert nothing. It is *denied* only by a plain negation of such a clause. Under
doubt, report, condition, contrast or a question it is *open*; beside words that are not understood it is *stated*.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from warmeng.study.grading.lexicon import (
    COPULAS, CUES, DATES, DENIALS, DENYING, HARMLESS, IRREGULAR, JOINS, LETTER_WORDS, NEGATIONS, PASSING, PHATIC, PHRASES,
    SAYS_RIGHT, SUBJECTS, UNITS, VERBS, YOURS,
)  # fmt: skip
from warmeng.study.grading.normalise import ARTICLES, words
from warmeng.study.grading.parse import Clause, Parsed

Stance = Literal["asserted", "denied", "open", "stated"]
Side = Literal["right", "user", "other"]
FEW = 3  # words of a clause that need not be understood, where the question's own words are there
SUFFIX = re.compile(r"(?P<root>\w{3,}?)(?:s|es|e|ed|ing|er|ers|d)|(?P<long>\w{4,}?)(?:ly|ian|ians|ion|ions|ation|ally|al|y|ies)")
CLEFT = re.compile(r"^(?:\w+ly )?(?:(?:so|and|but|well|no|yes|oh|then|in fact|actually) )*(?:its|it is|it was|answer is|answer was|correct answer is)$")
THE_ANSWER = re.compile(r"^(?:is|was) the (?:correct |right )?(?:answer|one)$")
GENERIC = frozenset("city country state name person man woman thing place author number animal kind type".split())
RELATIVES = frozenset("who that which where because since".split())
NUMBER_WORDS = frozenset("""two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty""".split())
EMPTIES = frozenset("anything nothing everything anyone anybody everyone all none no".split())  # "anything but Paris"


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
    return frozenset(stem(w) for w in words(question) if w not in ARTICLES and (w not in HARMLESS or w in _NOUNS))


_NOUNS = frozenset("city country state name person man woman thing place author symbol number currency day year first "
                   "total word words made found lies".split())  # fmt: skip


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
    return [Mention(side, a, b, parsed.clause_of[a].sentence, _stance(parsed, a, b, topic)) for a, b, side in sorted(kept)]


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


def _stance(parsed: Parsed, start: int, end: int, topic: frozenset[str]) -> Stance:
    clause = parsed.clause_of[start]
    if clause.question or parsed.clause_of[end - 1] is not clause:
        return "open" if clause.question else "stated"
    before = " ".join(parsed.words[clause.start : start])
    found = _Reading(clause, start, end, topic)
    if found.negations:
        return "denied" if found.denies() else "open"
    if YOURS.search(PHRASES.sub(" ", before)) or found.cues:
        return "denied" if found.is_called_wrong() else "open"
    if clause.words[0] in PASSING or _after_anything(parsed, clause, start):
        return "open"
    if found.answers() and not (found.bare and _goes_on(parsed, clause, topic)):
        return "asserted"
    return "stated"


def _goes_on(parsed: Parsed, clause: Clause, topic: frozenset[str]) -> bool:
    """Whether a name that stands alone goes on after a comma in a word that is not understood: "London, Ontario"."""
    following = parsed.words[clause.end : clause.end + 1]
    if not following or parsed.clause_of[clause.end].sentence != clause.sentence:
        return False
    word = following[0]
    return not (word in HARMLESS or word in CUES or word in NEGATIONS or word.isdigit() or word in ARTICLES or match(word, topic))


def _after_anything(parsed: Parsed, clause: Clause, start: int) -> bool:
    """Whether a name comes after "anything but", "nothing but"."""
    said = parsed.words[:start]
    return clause.words[0] == "but" and start - clause.start <= 2 and bool(EMPTIES & set(said[max(0, clause.start - 2) : clause.start]))


class _Reading:
    """The words of a clause beside a name, sorted by what they do."""

    def __init__(self, clause: Clause, start: int, end: int, topic: frozenset[str]) -> None:
        self.words = clause.words
        self.at, self.to = start - clause.start, end - clause.start
        text = " ".join(self.words)
        self.denying = DENYING.search(text) is not None
        skipped = set(range(self.at, self.to)) | _covered(text, PHRASES) | _covered(text, SAYS_RIGHT)
        if self.denying:
            skipped |= _covered(text, DENYING)
        self.skipped = skipped
        rest = [(k, w) for k, w in enumerate(self.words) if k not in skipped and w not in ARTICLES]
        if rest and rest[0] == (0, "no"):  # "No it is Paris"
            rest = rest[1:]
        name = "".join(self.words[self.at : self.to])
        numeric = any(c.isdigit() for c in name) or name in NUMBER_WORDS
        year = len(name) == 4 and name.isdigit()
        stems = {k: found for k, w in rest if (found := match(w, topic)) is not None}
        self.topic = set(stems.values())
        self.stems = stems
        self.core = topic - {stem(w) for w in GENERIC}
        self.size = len(topic)
        self.rest = {k: w for k, w in rest if k not in stems}
        self.bare = not rest
        self.numeric = numeric
        self.negations = [k for k, w in self.rest.items() if w in NEGATIONS] + [-1] * self.denying
        self.cues = [w for w in self.rest.values() if w in CUES]
        self.unknown = {
            k
            for k, w in self.rest.items()
            if w not in HARMLESS and w not in NEGATIONS and w not in CUES and not (w in DATES and (year or not numeric))
            and not (w.isdigit() and (not numeric or (year and int(w) <= 31)))
        }
        following = self.words[self.to : self.to + 1]
        if numeric and following and UNITS.match(following[0]):
            self.unknown.add(self.to)

    def answers(self) -> bool:
        """Whether the clause gives the name as the answer.

        It is alone, or with words that say nothing; or it is said in the question's own words; or those are all
        there, and a few words that are not understood come after them.
        """
        head = [w for k, w in self.rest.items() if k < self.at]
        subject = not (set(head) & COPULAS) and not any(k in self.unknown for k in range(self.at))
        after = [w for w in self.words[self.to :] if w not in ARTICLES]
        half = len(self.topic) >= 2 and 2 * len(self.topic) >= self.size
        opening = " ".join(w for w in self.words[: self.at] if w not in ARTICLES)
        if CLEFT.search(opening) and (not after or after[0] in RELATIVES or self.to in self.skipped):
            return True
        if not self.unknown:
            if self.topic and self.numeric:
                return True
            if self.topic:
                return half or 2 * len(self.topic) >= self.size or not (subject and self.to < len(self.words))
            if subject and COPULAS & set(after[:2]) and after[0] not in ("it", "that") and len(after) > 1:
                return THE_ANSWER.search(" ".join(self.words[self.to :])) is not None  # "Florence is gorgeous" is none
            said = [w for w in self.rest.values() if w not in PHATIC]
            return not (VERBS & set(self.rest.values())) or said[:1] == [] or said[0] in SUBJECTS
        if len(self.unknown) > FEW or self.core - self.topic:
            return False
        said = max((k for k, w in enumerate(self.words) if k in self.stems), default=0)
        return self.to not in self.unknown and min(self.unknown) > max(said, self.to - 1)

    def denies(self) -> bool:
        """Whether the clause is plainly negated about the name: "it is not X", "X isn't the ...", "not X"."""
        if len(self.negations) != 1 or self.cues or self.unknown:
            return False
        k = self.negations[0]
        if k == -1:
            return True
        between = self.words[k + 1 : self.at] if k < self.at else self.words[self.to : k]
        word = self.words[k]
        if word in ("no", "without", "nothing", "none", "nobody", "hardly", "nor", "neither", "nowhere"):
            return False
        if k < self.at:  # "it is not [in] X"; "X" may not be a condition of what is denied
            return all(w in ARTICLES or w in HARMLESS for w in between)
        verb = between[-1:] and between[-1] in COPULAS
        return len(between) <= 1 and (bool(verb) or word.endswith("nt"))

    def is_called_wrong(self) -> bool:
        """Whether the clause is "X is wrong" and nothing more."""
        after = self.words[self.to :]
        return (
            self.at == 0 and len(after) == 2 and after[0] in COPULAS and after[1] in DENIALS
        )


def _covered(text: str, pattern: re.Pattern[str]) -> set[int]:
    """Return the numbers of the words that a pattern's matches cover."""
    return {k for m in pattern.finditer(text) for k in range(text.count(" ", 0, m.start()), text.count(" ", 0, m.end()) + 1)}
