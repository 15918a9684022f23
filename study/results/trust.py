"""Whose judgments count: those of the one judge that is trusted, or of several together by their measured errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from warmeng.study.grading.grade import GRADES

# What several judges are called as one.
TOGETHER = "judges together"
# What a judge may call an answer, and what it may be.
KINDS = GRADES[:4]
# Added to each count of labelled answers: what was never seen is not impossible (Krichevsky and Trofimov 1981).
UNSEEN = 0.5

# Counts of labelled answers by what they are and what the judge calls them.
Confusion = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one judge said of one answer; ``shares`` are the four grades' probabilities, where they were recorded."""

    judge: str
    grade: str
    which: str | None = None
    reason: str = ""
    shares: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Trust:
    """The judges that are trusted, in the order in which they were given, with how each graded labelled answers.

    ``confusions`` has all of them, or, where an earlier version did not record one's, is empty: then the first counts.
    """

    judges: tuple[str, ...] = ()
    confusions: Mapping[str, Confusion] = field(default_factory=dict)

    @classmethod
    def of(cls, judges: Mapping[str, Mapping[str, Any]]) -> Trust:
        """Return it from a manifest's facts of judges."""
        names = tuple(name for name, outcome in judges.items() if outcome.get("trusted"))
        told: dict[str, Any] = {name: judges[name].get("confusion") for name in names}
        return cls(names, told if all(told.values()) else {})

    @property
    def name(self) -> str | None:
        """Whose judgments count, ``None`` where no judge is trusted."""
        if len(self.judges) > 1 and self.confusions:
            return TOGETHER
        return self.judges[0] if self.judges else None

    def together(self, verdicts: Sequence[Verdict]) -> Verdict | None:
        """Return what several trusted judges say together; ``None`` where one alone counts, or none graded the answer.

        ``shares`` is the probability of each kind of answer, given the grades: see ``posterior``. A judge that could
        not grade it counts for nothing. Where two kinds are equally likely it is the first judge's grade.
        """
        if self.name != TOGETHER:
            return None
        mine = [v for name in self.judges for v in verdicts if v.judge == name and v.grade in KINDS]
        if not mine:
            return None
        shares = posterior([(self.confusions[v.judge], v.grade) for v in mine])
        best = max(shares.values())
        first = [kind for kind, share in shares.items() if math.isclose(share, best, rel_tol=1e-9)]
        grade = next((v.grade for v in mine if v.grade in first), first[0])
        which = next((v.which for v in mine if v.grade == "incorrect"), None) if grade == "incorrect" else None
        said = ", ".join(f"{v.judge}: {v.grade}" for v in mine)
        return Verdict(TOGETHER, grade, which, "" if len({v.grade for v in mine}) == 1 else said, shares)


def posterior(given: Sequence[tuple[Confusion, str]]) -> dict[str, float]:
    """Return the probability of each kind of answer by several judges' grades and how they grade labelled answers.

    Bayes' rule for graders that err independently of each other, given what an answer is (Dawid and Skene 1979, with
    errors that were measured; for two kinds, the vote weighted by log-odds of Nitzan and Paroush 1982):
    p(kind | grades) is in proportion to the product over judges of p(grade | kind), the share of labelled answers of
    that kind which the judge graded so, with ``UNSEEN`` added to each count. All kinds are as likely before, as in the
    labelled answers. Judges that err alike are believed too much.
    """
    logs = []
    for kind in KINDS:
        total = 0.0
        for confusion, grade in given:
            row = confusion.get(kind) or {}
            counted = sum(row.get(name, 0) for name in KINDS) + UNSEEN * len(KINDS)
            total += math.log((row.get(grade, 0) + UNSEEN) / counted)
        logs.append(total)
    top = max(logs)
    weights = [math.exp(value - top) for value in logs]
    return {kind: weight / math.fsum(weights) for kind, weight in zip(KINDS, weights, strict=True)}
