"""Whether two short texts are about the same thing: what the embedded training texts may not be with the study's.

Three rules, each with its threshold: the same words; many of the content words (Jaccard index); few, but rare ones.
Rare means in at most ``RARE`` of the study's texts and ``RARE`` of the training texts.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

JACCARD = 0.5  # of content words, where at least two are shared
SHARED_RARE = 2  # rare words in common, where they are also LEAST of the shorter text's content words
LEAST = 0.4
RARE = 3
STOP = frozenset(
    re.findall(
        r"\S+",
        """a about actually after again all also always am an and another any anyone anything are as ask at away back be
        because been before being best better between both but by call called can cannot come could day days did do does
        doing done down each else even every everyone feel few find first for from gave get gets getting give go goes
        going good got great had has have having he help her here hers him his how i if in into is it its itself just
        keep kind know last least less let like little long lot made main mainly make makes many may me mean means might
        mine month more most much must my name need never new next no nobody none not nothing now of off often ok old on
        once one only or order other others our ours out over own part people person place please put quick really right
        said same say says see seem seems she should show since so some someone something start still such take tell
        than thank thanks that the their them then there these they thing things think this those though three through
        time to today together told too try two up us use used using usually very want was way we week well went were
        what when where which while who whom whose why will with without word work would year years yes yet you your
        yours""",
    )
)


# Names and phrases of several words that say as little as one.
PHRASES = ("united states", "united kingdom", "olympic games", "social media", "new york", "north pole", "south pole")
ITEM_SHARE = 0.7  # of an item's content words, which with its answer make a text that gives the item away


@lru_cache(20_000)
def words(text: str) -> tuple[str, ...]:
    """Return the words in small letters, without apostrophes."""
    return tuple(re.findall(r"[^\W_]+", re.sub(r"['’]\w{1,2}\b", "", text.casefold())))


@lru_cache(20_000)
def content(text: str) -> frozenset[str]:
    """Return the words that carry content, without endings that only bend them."""
    plain = " ".join(words(text))
    for phrase in PHRASES:
        plain = plain.replace(phrase, phrase.replace(" ", ""))
    return frozenset(_stem(word) for word in plain.split() if word not in STOP and len(word) > 1)


def _stem(word: str) -> str:
    for ending in ("ings", "ing", "ies", "ied", "es", "ed", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


def overlaps(ours: Mapping[str, str], theirs: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Return (our id, their id, why) for every pair of texts that is about the same thing.

    ``ours`` are training texts by id, ``theirs`` (id, text) of the study.
    """
    index: dict[str, set[int]] = defaultdict(set)
    their_content = [content(text) for _, text in theirs]
    for k, found in enumerate(their_content):
        for word in found:
            index[word].add(k)
    our_content = {name: content(text) for name, text in ours.items()}
    counts = Counter(word for found in our_content.values() for word in found)
    same = {" ".join(words(text)): name for name, text in theirs}
    flagged = []
    for name, text in ours.items():
        if (plain := " ".join(words(text))) in same:
            flagged.append((name, same[plain], "the same words"))
        found = our_content[name]
        for k in {k for word in found for k in index[word]}:
            shared = found & their_content[k]
            jaccard = len(shared) / len(found | their_content[k])
            rare = {word for word in shared if len(index[word]) <= RARE and counts[word] <= RARE}
            least = min(len(found), len(their_content[k]))
            if len(shared) >= 2 and jaccard >= JACCARD:
                flagged.append((name, theirs[k][0], f"Jaccard {jaccard:.2f}: {', '.join(sorted(shared))}"))
            elif len(rare) >= SHARED_RARE and len(shared) >= LEAST * least:
                flagged.append((name, theirs[k][0], f"rare words: {', '.join(sorted(rare))}"))
    return sorted(flagged)


def gives_away(text: str, question: str, answers: Sequence[str]) -> bool:
    """Return whether a text has most of a question's content words, two at least, and one of its answers."""
    asked = content(question)
    shared = asked & content(text)
    if len(shared) < 2 or len(shared) < ITEM_SHARE * len(asked):
        return False
    plain = f" {' '.join(words(text))} "
    return any(f" {' '.join(words(answer))} " in plain for answer in answers if words(answer))
