"""Margins of simulated subjects, whose knowledge, repetition of what is named and agreement with users are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from warmeng.study.prompts import BELIEFS
from warmeng.study.results.frame import Factor
from warmeng.study.results.margins import Margins

# By belief: which answer the sentence names, which one the user and which one a friend takes: 1 right, -1 wrong.
SENTENCES = {
    "none": (0, 0, 0),
    "wrong": (-1, -1, 0),
    "doubt": (1, -1, 0),
    "right": (1, 1, 0),
    "mention-wrong": (-1, 0, 0),
    "mention-right": (1, 0, 0),
    "friend-wrong": (-1, 0, -1),
    "friend-right": (1, 0, 1),
    "deny-wrong": (-1, 1, 0),
    "unrelated": (0, 0, 0),
}
assert set(SENTENCES) == set(BELIEFS)
TASKS = {"facts": 24, "myths": 36}


@dataclass(frozen=True)
class Subject:
    """What moves a subject's margin, in nats: the mean over questions, each question's own differs."""

    knowledge: float = 1.0
    repeats: float = 0.0  # towards what a sentence names, whoever says it
    agrees: float = 0.0  # towards what the user takes to be right
    friend: float = 0.0

    def agreement(self) -> float:
        """The true agreement without a ceiling: right and wrong claims pull to either side."""
        return 2 * self.agrees


def simulate(
    rng: np.random.Generator,
    subjects: Mapping[str, Subject],
    tasks: Mapping[str, int] = TASKS,
    contexts: Sequence[str] = ("unmodified", "emotion:sad"),
    beliefs: Sequence[str] = BELIEFS,
    askings: Sequence[str] = ("open", "choice"),
    missing: float = 0.0,
    ceiling: float = np.inf,
) -> Margins:
    """Return the margins of all subjects in every place; margins beyond the ceiling are cut, some scores are missing.

    A question is a cluster: what it adds to knowledge, repetition and agreement is shared by all places and subjects,
    and a part of it is of the subject alone. Tasks differ in how much is known; repetition varies most between
    questions, as it depends on the answers' words.
    """
    names = [f"{task}/{k}" for task, n in tasks.items() for k in range(n)]
    task = np.repeat(np.arange(len(tasks)), list(tasks.values()))
    who, size = list(subjects.values()), len(names)
    shared = rng.normal(size=(3, 1, size)) + 0.5 * rng.normal(size=(3, len(who), size))

    def parts(key, spread, k):
        means = np.array([getattr(s, key) for s in who])[:, None]
        return means * (1 + spread * shared[k]) if key != "knowledge" else means + spread * shared[k]

    knowledge = parts("knowledge", 2.0, 0) + np.where(task == 0, 1.0, -0.5)
    signs = np.array([SENTENCES[b] for b in beliefs]).T[:, None, None, :, None]  # [3, 1, 1, beliefs, 1]
    pull = [parts(key, 0.4, k)[:, None, None] for key, k in (("repeats", 1), ("agrees", 2), ("friend", 2))]
    true = knowledge[:, None, None] + sum(s * x for s, x in zip(signs, pull, strict=True))
    orders = [asking for asking in askings for _ in range(2 if asking == "choice" else 1)]
    shape = (len(orders), len(who), len(contexts), len(beliefs), size)
    values = true + 0.3 * rng.normal(size=(1, *shape[1:])) + 0.2 * rng.normal(size=shape)
    values = np.clip(np.broadcast_to(values, shape), -ceiling, ceiling)
    # A choice leans to the answer that is named first, which both orders together take out.
    first = np.zeros(len(orders))
    for k, asking in enumerate(orders):
        first[k] = 0 if asking == "open" else 0.8 if orders[:k].count("choice") == 0 else -0.8
    values = values + first[:, None, None, None, None]
    kept = np.flatnonzero(rng.random(values.size) >= missing)
    order, persona, context, belief, item = np.unravel_index(kept, shape)
    margin = values.reshape(-1)[kept]
    length = rng.integers(3, 12, size)[item]

    def factor(labels, codes):
        return Factor(tuple(labels), np.asarray(codes, dtype=np.int32))

    asking = np.array([list(askings).index(name) for name in orders])[order]
    return Margins(
        model=factor(["m"], np.zeros(len(kept))),
        persona=factor(subjects, persona),
        task=factor(tasks, task[item]),
        context=factor(contexts, context),
        belief=factor(beliefs, belief),
        framing=factor(["plain"], np.zeros(len(kept))),
        asking=factor(askings, asking),
        item=factor(names, item),
        sum=margin,
        per_byte=margin / (4 * length),
        per_token=margin / length,
        with_end=margin + rng.normal(0, 0.3, size)[item],
    )
