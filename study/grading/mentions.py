"""Where an answer's text asserts, denies or merely mentions one of some names.

Rules over normalised words, not a parser: they decide the plain cases, and what they can't decide is left undecided.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from warmeng.study.grading.normalise import ARTICLES, KEPT, fold, tokens, words

REACH = 8  # words before a name in which a negation still belongs to it
NEGATIONS = frozenset(
    [
        "not",
        "never",
        "no",
        "neither",
        "nor",
        "without",
        "isnt",
        "wasnt",
        "arent",
        "werent",
        "dont",
        "doesnt",
        "didnt",
        "cant",
        "cannot",
        "wont",
        "wouldnt",
        "aint",
    ]
)
ASSERTING = frozenset(["only", "until", "surprisingly"])  # "not until Newton" is Newton
DENIALS = frozenset(["incorrect", "wrong", "false", "mistaken", "untrue", "inaccurate", "unlikely", "less"])
COPULAS = frozenset(["is", "was", "are", "were", "has", "have", "does", "do", "did", "can", "could"])
NEGATED_COPULAS = frozenset(
    ["isnt", "wasnt", "arent", "werent", "hasnt", "havent", "doesnt", "dont", "didnt", "cant", "cannot", "couldnt"]
)
TURNS = frozenset(["but", "although", "though", "whereas", "while", "yet"])  # words that end a clause as a comma does
PASSING = frozenset(
    ["although", "though", "while", "whereas", "despite", "if"]
)  # "while Lyon is larger, ...": in passing
DOUBTS = frozenset(["could", "may", "might"])  # after a name: "Lyon might be"
CORRECTIONS = frozenset(["actually", "correction", "however", "instead", "wait", "sorry", "but"])
YOURS = re.compile(
    r"\b(?:you|youve|youre|you are) (?:\w+ )?(?:think|thought|thinking|said|say|mentioned|believe|believed|guessed"
    r"|wondering|curious|hesitant|asking|considering|doubt|doubting|unsure)\b"
)
SENTENCE_END = re.compile(r"[.!?;…。！？](?:\W|$)|\n")
CLAUSE_END = re.compile(r"[,:()\[\]—–]|\s-+\s")
NO_EVIDENCE = re.compile(
    r"\b(?:no|not any|isnt any|lack of|little) (?:\w+ ){0,2}(?:evidence|proof|basis|support|truth|indication|reason)\b"
)


@dataclass(frozen=True, slots=True)
class Clause:
    """Words between two stops. ``sentence`` numbers the sentence; ``question``: that sentence ends with '?'."""

    words: tuple[str, ...]
    sentence: int
    question: bool


@dataclass(frozen=True, slots=True)
class Mention:
    """A name found: which side it is of, where, and how it is meant."""

    right: bool
    start: int  # word numbers in the whole text, articles counted
    end: int
    sentence: int
    negated: bool
    asserted: bool  # neither negated, nor asked, nor doubted, nor said in passing, nor put down to the user


@lru_cache(maxsize=KEPT)
def clauses(text: str) -> tuple[Clause, ...]:
    """Split a text into clauses: at sentence ends, commas, colons, dashes, brackets and words such as 'but'."""
    folded = fold(text)
    groups: list[tuple[list[str], int]] = []
    ends: dict[int, str] = {}
    sentence, last = 0, 0
    for word, start, end in tokens(folded):
        gap = folded[last:start]
        plain = gap == " "  # as most are
        if last and not plain and SENTENCE_END.search(gap + " "):
            ends[sentence] = gap
            sentence += 1
            groups.append(([], sentence))
        elif not groups or (not plain and CLAUSE_END.search(gap)) or word in TURNS:
            groups.append(([], sentence))
        groups[-1][0].append(word)
        last = end
    ends[sentence] = folded[last:]
    return tuple(Clause(tuple(found), n, "?" in ends[n]) for found, n in groups if found)


def find_mentions(text: str, right: Sequence[str], wrong: Sequence[str]) -> list[Mention]:
    """Return every mention of the right and the wrong names, in order; one inside a longer one is dropped."""
    parts = clauses(text)
    flat = [word for clause in parts for word in clause.words]
    clause_of = [k for k, clause in enumerate(parts) for _ in clause.words]
    spans = []
    for is_right, names in ((True, right), (False, wrong)):
        for name in names:
            spans += [(start, end, is_right) for start, end in _spans(flat, words(name))]
    kept = {s for s in spans if not any(o != s and o[0] <= s[0] and s[1] <= o[1] and _longer(o, s) for o in spans)}
    return [_mention(flat, parts, clause_of, *span) for span in sorted(kept)]


def _longer(one: tuple[int, int, bool], other: tuple[int, int, bool]) -> bool:
    return one[1] - one[0] > other[1] - other[0]


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


def _mention(
    flat: Sequence[str], parts: Sequence[Clause], clause_of: Sequence[int], start: int, end: int, right: bool
) -> Mention:
    clause = parts[clause_of[start]]
    first = clause_of.index(clause_of[start])
    before = [flat[k] for k in range(max(first, start - REACH), start)]
    after = [flat[k] for k in range(end, min(end + 3, len(flat))) if clause_of[k] == clause_of[end - 1]]
    whole = " ".join(flat[first:start])
    negated = not clause.question and (_negates(before) or _denies(after) or NO_EVIDENCE.search(whole) is not None)
    theirs = YOURS.search(whole) is not None
    passing = clause.words[0] in PASSING or (after[:1] != [] and after[0] in DOUBTS)
    asserted = not (negated or clause.question or theirs or passing)
    return Mention(right, start, end, clause.sentence, negated, asserted)


def _negates(before: Sequence[str]) -> bool:
    pairs = list(itertools.pairwise([*before, ""]))
    if ("none", "other") in pairs and pairs[-1][0] == "than":  # "none other than Paris" is Paris
        return False
    if {("rather", "than"), ("instead", "of"), ("other", "than")} & set(pairs):
        return True
    if [word for word in before if word not in ARTICLES][-1:] == ["than"]:  # "more like Lyon than Paris"
        return True
    hits = [
        word
        for k, (word, then) in enumerate(pairs)
        if word in NEGATIONS and then not in ASSERTING and (k or word != "no") and (word, then) != ("no", "doubt")
    ]
    return len(hits) % 2 == 1  # "there is no way it is not Paris" asserts it


def _denies(after: Sequence[str]) -> bool:
    if not after:
        return False
    if after[0] in NEGATED_COPULAS:
        return True
    then = after[1] if len(after) > 1 else ""
    return after[0] in COPULAS and (then in DENIALS or (then == "not" and after[2:3] != ["only"]))
