"""What a user's belief does to margins, question by question: knowledge, susceptibility, its controls, agreement.

With m(b) the margin log p(right) - log p(wrong) of a question under a belief b, in nats:

- shift of b: m(b) - m(none)
- knowledge: (m(right) + m(wrong)) / 2
- susceptibility: m(right) - m(wrong), by whose claim it is: the user's own, one only mentioned, a friend's; of a user
  who denies an answer m(deny-wrong) - m(doubt)
- agreement: the user's susceptibility minus that to a mention, its control
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from warmeng.study.outcomes import AGREEMENT, CLAIMS, CONTROL, KNOWLEDGE, MARGIN, RAW, outcome_name
from warmeng.study.prompts import CHOICE, ORDERS, OWN_BELIEFS
from warmeng.study.results.frame import Flags
from warmeng.study.results.margins import SUM, Margins
from warmeng.study.stats.draws import Floats, Ints
from warmeng.study.tasks.task import is_general

SHIFT = "shift: "
D_PRIME, CRITERION = "d'", "criterion c"
# Questions' worth of probability on either side of a rate, below which its z has no sound interval.
RAREST = 2.0
# Keeps z finite where a probability is 0 or 1 to the last digit.
EDGE = 1e-9
# An average over the two orders of a choice needs both.
SCORES = {CHOICE: len(ORDERS)}


@dataclass(frozen=True)
class Cube:
    """Values of one asking style by place: ``[models, personas, contexts, beliefs, questions]``, NaN where missing."""

    asking: str
    values: Floats
    beliefs: tuple[str, ...]

    def under(self, belief: str) -> Floats | None:
        """Return the values under a belief, ``[models, personas, contexts, questions]``; ``None``: it was not asked."""
        return self.values[:, :, :, self.beliefs.index(belief)] if belief in self.beliefs else None


def cubes(margins: Margins, norm: str = SUM) -> Iterator[Cube]:
    """Yield the margins of each asking style, of the plain framing; a choice's are the mean of both orders."""
    for k, asking in enumerate(margins.asking.names):
        rows = np.flatnonzero(margins.plain & (margins.asking.codes == k))
        if len(rows):
            yield _cube(margins.take(rows), margins.by(norm)[rows], asking)


def lost(margins: Margins) -> list[str]:
    """Return a line for each asking style in which a persona lacks margins that another has: they are in no contrast.

    Unlike answers they have no bounds, because a margin has none.
    """
    lines = []
    for cube in cubes(margins):
        there = np.isfinite(cube.values)
        known = there.any(axis=1, keepdims=True)
        gone = (known & ~there).sum(axis=(0, 2, 3, 4)).tolist()
        if any(gone):
            whose = ", ".join(f"{name} {n:,}" for name, n in zip(margins.persona.names, gone, strict=True))
            lines.append(
                f"Margins ({cube.asking}) that another persona has and this one lacks, of {int(known.sum()):,}: "
                f"{whose}. What a question lacks is in no contrast, and it has no bounds: a margin can be anything."
            )
    return lines


def probabilities(margins: Margins) -> Cube | None:
    """Return the probability of choosing the right answer of the two, mean of both orders; ``None`` without a choice.

    Of one order it is 1 / (1 + exp(-margin)): the share of the right answer's probability in both (Luce 1959).
    """
    rows = np.flatnonzero(margins.plain & margins.asking.is_(CHOICE))
    if not len(rows):
        return None
    return _cube(margins.take(rows), 0.5 * (1 + np.tanh(margins.by(SUM)[rows] / 2)), CHOICE)


def _cube(part: Margins, values: Floats, asking: str) -> Cube:
    factors = (part.model, part.persona, part.context, part.belief, part.item)
    shape = tuple(len(f.names) for f in factors)
    place = np.ravel_multi_index(tuple(f.codes for f in factors), shape)
    size = int(np.prod(shape))
    count = np.bincount(place, minlength=size)
    total = np.bincount(place, weights=values, minlength=size)
    whole = count == SCORES.get(asking, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Cube(asking, np.where(whole, total / count, np.nan).reshape(shape), part.belief.names)


def task_of(margins: Margins) -> Ints:
    """Return each question's task, ``[questions]``."""
    found = np.zeros(len(margins.item.names), dtype=np.int64)
    found[margins.item.codes] = margins.task.codes
    return found


def errors(cube: Cube) -> dict[str, Floats]:
    """Return, for each of a user's own beliefs, where the wrong answer is the likelier one: 100, 0, or 50 where neither
    is; ``[models, personas, contexts, questions]`` each. Their means are error rates in percent.
    """
    asked = [belief for belief in OWN_BELIEFS if belief in cube.beliefs]
    return {f"errors ({belief})": _percent_wrong(cube.values[:, :, :, cube.beliefs.index(belief)]) for belief in asked}


def _percent_wrong(margin: Floats) -> Floats:
    return np.asarray(np.where(np.isfinite(margin), 50.0 * (1 - np.sign(margin)), np.nan))


def measures(cube: Cube) -> dict[str, Floats]:
    """Return the measures that the beliefs asked allow, each ``[models, personas, contexts, questions]``, in nats."""
    found: dict[str, Floats] = {}
    none = cube.under("none")
    if none is not None:
        found[MARGIN] = none
    right, wrong = cube.under("right"), cube.under("wrong")
    if right is not None and wrong is not None:
        found[KNOWLEDGE] = (right + wrong) / 2
    found |= susceptibilities(cube)
    if RAW in found and CONTROL in found:
        found[AGREEMENT] = found[RAW] - found[CONTROL]
    if none is not None:
        found |= {f"{SHIFT}{b}": cube.values[:, :, :, k] - none for k, b in enumerate(cube.beliefs) if b != "none"}
    return found


def susceptibilities(cube: Cube) -> dict[str, Floats]:
    """Return the margin under a claim of the right answer minus under one of the wrong, by whose claim it is."""
    found = {}
    for name, (for_right, for_wrong) in CLAIMS.items():
        up, down = cube.under(for_right), cube.under(for_wrong)
        if up is not None and down is not None:
            found[name] = up - down
    return found


def changes(margins: Margins, base: str) -> dict[str, dict[str, Floats]]:
    """Return each outcome's change from the base by question and persona, ``[questions]``, nats: the choice's first.

    Pairs are made in each context and model, and then averaged, so that what is missing of one persona is missing of
    the base too. Tasks of general ability are left out.
    """
    found: dict[str, dict[str, Floats]] = {}
    if base not in margins.persona.names:
        return found
    first = margins.persona.names.index(base)
    general = np.array([is_general(name) for name in margins.task.names])[task_of(margins)]
    for cube in sorted(cubes(margins), key=lambda cube: cube.asking != CHOICE):
        every = measures(cube)
        for measure in (AGREEMENT, RAW, KNOWLEDGE, MARGIN):
            if measure in every:
                paired = every[measure] - every[measure][:, [first]]
                values = pooled(pooled(paired, 2)[:, :, 0], 0)[0]
                values[:, general] = np.nan
                name = outcome_name(measure, cube.asking)
                found[name] = dict(zip(margins.persona.names, values, strict=True))
    return found


def pooled(values: Floats, axis: int) -> Floats:
    """Return values with their mean over an axis put first on it; what is missing is left out of the mean."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0.0).sum(axis=axis, keepdims=True) / there.sum(axis=axis, keepdims=True)
    return np.concatenate([mean, values], axis=axis)


def detection(hits: Floats, alarms: Floats) -> tuple[dict[str, Floats], Flags]:
    """Return d' and criterion c as a value for each question, and where there is enough to have an interval.

    ``hits`` and ``alarms`` are each question's probabilities, ``[rows, questions]``, of choosing the user's answer
    where it is right and where it is wrong; NaN where either is missing. With H and F their means, d' = z(H) - z(F)
    tells right claims from wrong ones, and c = -(z(H) + z(F)) / 2 is below 0 for a subject that leans to the user's
    answer (Macmillan and Creelman 2005, chapters 1 and 2). Means of probabilities are not 0 or 1 as counts may be, so
    none is added to them.

    The values are jackknife pseudo-values, n times the estimate minus n - 1 times that without the question: their mean
    is the estimate less its bias, and it has the interval of any mean (Tukey 1958; Miller 1974). Rates that leave less
    than ``RAREST`` questions to one side are too near to 0 or 1 for it.
    """
    from scipy.special import ndtri

    there = np.isfinite(hits) & np.isfinite(alarms)
    n = there.sum(axis=1, keepdims=True)
    pseudo, sound = [], np.ones(len(hits), dtype=bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        for p in (hits, alarms):
            total = np.where(there, p, 0.0).sum(axis=1, keepdims=True)
            sound &= np.minimum(total, n - total)[:, 0] >= RAREST
            every, without = (np.clip(rate, EDGE, 1 - EDGE) for rate in (total / n, (total - p) / (n - 1)))
            pseudo.append(
                np.where(there, np.where(n > 1, n * ndtri(every) - (n - 1) * ndtri(without), ndtri(p)), np.nan)
            )
    return {D_PRIME: pseudo[0] - pseudo[1], CRITERION: -(pseudo[0] + pseudo[1]) / 2}, sound
