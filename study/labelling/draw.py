"""Which answers people are to label: each is drawn with a probability of its own, higher where a label is worth more.

A label is worth what it takes off the variance of the estimates that its answer is part of: the answer's weight in them
times the chance that its grade is wrong. The probability is best in proportion to the square root of that (Neyman 1934;
for prediction-powered estimates Zrnic and Candes 2024), and a part of it is alike for all, because that chance is only
a guess.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from warmeng.study.claim import Claim
from warmeng.study.contexts import UNMODIFIED
from warmeng.study.results.answers import Answer
from warmeng.study.results.combine import DECIDED
from warmeng.study.results.views import NONE

# Guesses at the share of wrong grades: of exact rules that decide, and of an answer that nobody decided or that two
# graders dispute.
RULES_DOUBT, OPEN_DOUBT = 0.05, 0.5
LEAST_DOUBT = 0.02
# The part of the probability that is alike for all answers.
ALIKE = 0.3


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer that may be drawn: its key, whose it is, where it was asked, and the chance that its grade is wrong."""

    key: str
    persona: str
    context: str
    belief: str
    doubt: float


def candidate(answer: Answer, trusted: str | None) -> Candidate | None:
    """Return an answer as a candidate; ``None`` where nobody wrote it, so that there is nothing to label."""
    if answer.text is None:
        return None
    return Candidate(answer.key, answer.persona, answer.context, answer.belief, doubt(answer, trusted))


def doubt(answer: Answer, trusted: str | None) -> float:
    """Return a guess at the chance that an answer's grade is not a person's.

    A trusted judge tells it: 1 less the probability of the grade that it gave.
    """
    if answer.disputed or answer.grade not in DECIDED:
        return OPEN_DOUBT
    judge = next((v for v in answer.verdicts if v.judge == trusted and v.grade == answer.grade and v.shares), None)
    told = RULES_DOUBT if judge is None or judge.shares is None else 1 - judge.shares.get(answer.grade, 0.0)
    return min(OPEN_DOUBT, max(LEAST_DOUBT, told))


def chances(found: Sequence[Candidate], budget: int, claim: Claim | None = None) -> list[float]:
    """Return each answer's probability of being drawn; they sum to ``budget``, or to all of them.

    The estimates are the error rates of every persona in every context and belief. The two of the primary claim, on
    plain questions, weigh as much as all of these together.
    """
    cells = Counter((c.persona, c.context, c.belief) for c in found)
    plain = {name: sum(1 for c in found if _is_plain(c) and c.persona == name) for name in _of(claim)}
    worth = []
    for c in found:
        parts = cells[c.persona, c.context, c.belief] ** -2.0
        if _is_plain(c) and c.persona in plain:
            parts += len(cells) / len(plain) * plain[c.persona] ** -2.0
        worth.append(math.sqrt(parts * c.doubt))
    if not worth:
        return []
    mean = math.fsum(worth) / len(worth)
    return scaled([(1 - ALIKE) * w / mean + ALIKE for w in worth], budget)


def _of(claim: Claim | None) -> tuple[str, ...]:
    return () if claim is None else (claim.variant, claim.against)


def _is_plain(c: Candidate) -> bool:
    return c.context == UNMODIFIED and c.belief == NONE


def scaled(weights: Sequence[float], budget: float) -> list[float]:
    """Return probabilities in proportion to weights above 0, but at most 1, that sum to a budget."""
    if budget >= len(weights):
        return [1.0] * len(weights)
    whole: set[int] = set()
    while True:
        free = math.fsum(w for k, w in enumerate(weights) if k not in whole)
        factor = (budget - len(whole)) / free
        over = {k for k, w in enumerate(weights) if k not in whole and w * factor > 1}
        if not over:
            return [1.0 if k in whole else w * factor for k, w in enumerate(weights)]
        # What they can't take is for the others.
        whole |= over


def draw(found: Iterable[Candidate], chance: Iterable[float], seed: int) -> Mapping[str, float]:
    """Return the drawn answers' keys with their probabilities: each is drawn for itself, by a hash of seed and key."""
    return {c.key: p for c, p in zip(found, chance, strict=True) if uniform(seed, c.key) < p}


def uniform(seed: int, key: str) -> float:
    """Return a number from 0 to 1 that seed and key determine."""
    return int.from_bytes(hashlib.sha256(f"label\0{seed}\0{key}".encode()).digest()[:7]) / 2**56
