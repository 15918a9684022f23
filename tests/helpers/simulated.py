"""Frames with known truth: every answer's probability of being incorrect is known, questions differ at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from warmeng.study.grading.refusals import RULES
from warmeng.study.results.frame import Factor, Frame
from warmeng.study.results.read import GRADE_CODE, WHICH_CODE, Columns

CONTEXTS = (
    "unmodified", "emotion:anger", "emotion:happy", "emotion:sad", "relation:close", "relation:hierarchical_up",
    "relation:hierarchical_down", "stake:high", "stake:low",
)  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """Log-odds of an error: of a task, a persona, a model; more for a context or a belief with that persona."""

    task: Mapping[str, float]
    persona: Mapping[str, float]
    model: Mapping[str, float]
    context: Mapping[str, float]  # main effect
    belief: Mapping[str, float]
    extra: Mapping[tuple[str, str], float]  # (persona, context or belief) -> more
    spread: float = 1.0  # of questions


def simulate(
    rng: np.random.Generator,
    truth: Truth,
    items: Mapping[str, int],
    contexts: Sequence[str] = ("unmodified",),
    beliefs: Sequence[str] = ("none",),
    missing: float = 0.0,
) -> Frame:
    """One answer for every model x persona x item x context x belief, in a fixed order."""
    models, personas = list(truth.model), list(truth.persona)
    tasks = [t for t, n in items.items() for _ in range(n)]
    ability = rng.normal(0.0, truth.spread, len(tasks))
    shape = (len(models), len(personas), len(tasks), len(contexts), len(beliefs))
    model, persona, item, context, belief = (axis.ravel() for axis in np.indices(shape))
    task_code = np.array([list(items).index(t) for t in tasks])[item]

    def lookup(names, table):
        return np.array([table.get(name, 0.0) for name in names])

    extra_context = np.array([[truth.extra.get((p, c), 0.0) for c in contexts] for p in personas])
    extra_belief = np.array([[truth.extra.get((p, b), 0.0) for b in beliefs] for p in personas])
    eta = (
        lookup(models, truth.model)[model]
        + lookup(personas, truth.persona)[persona]
        + lookup(items, truth.task)[task_code]
        + lookup(contexts, truth.context)[context]
        + lookup(beliefs, truth.belief)[belief]
        + extra_context[persona, context]
        + extra_belief[persona, belief]
        + ability[item]
    )
    n = len(eta)
    wrong = rng.random(n) < 1 / (1 + np.exp(-eta))
    grade = wrong.astype(np.int8)
    grade[rng.random(n) < missing] = 3  # unclear
    which = np.where(grade == 1, np.where(rng.random(n) < 0.7, 1, 2), 0).astype(np.int8)
    count = {}
    names = []
    for t in tasks:
        count[t] = count.get(t, -1) + 1
        names.append(f"{t}/{count[t]}")

    def factor(names, codes):
        return Factor(tuple(names), codes.astype(np.int32))

    return Frame(
        model=factor(models, model),
        persona=factor(personas, persona),
        task=factor(items, task_code),
        context=factor(contexts, context),
        belief=factor(beliefs, belief),
        framing=factor(("plain",), np.zeros(n)),
        item=factor(names, item),
        sample=np.zeros(n, dtype=np.int32),
        grade=grade,
        which=which,
        binary=np.where(grade == 0, 0, 1).astype(np.int8),
        chars=rng.poisson(np.array([877.0 if p == "original" else 734.0 for p in personas])[persona]).astype(np.int32),
        exact=grade.copy(),
        judges={},
        refused={rule: np.zeros(n, dtype=bool) for rule in ("paper", "strict", "loose")},
    )


def paper_sized(seed: int = 0) -> Frame:
    """5 models x 2 personas x 1,625 questions x 27 cells: 438,750 answers, with effects like the paper's."""
    truth = Truth(
        task={"disinfo": -3.2, "medqa": -0.7, "trivia": -1.9, "truthfulqa": -1.4},
        persona={"original": 0.0, "warm": 0.45},
        model={"llama-8b": 0.6, "mistral-small": 0.3, "qwen-32b": 0.0, "llama-70b": -0.2, "gpt-4o": -0.6},
        context={c: 0.05 * k for k, c in enumerate(CONTEXTS)},
        belief={"wrong": 0.5, "doubt": 0.3},
        extra={("warm", "emotion:sad"): 0.25, ("warm", "wrong"): 0.15, ("warm", "doubt"): 0.15},
        spread=1.2,
    )
    items = {"disinfo": 125, "medqa": 500, "trivia": 500, "truthfulqa": 500}
    return simulate(np.random.default_rng(seed), truth, items, CONTEXTS, ("none", "wrong", "doubt"), missing=0.01)


def frame_of(records: Sequence[Mapping[str, str]]) -> Frame:
    """Return answers of one model, one sample each, in the unmodified context and the plain framing unless told."""
    columns = Columns()
    for r in records:
        names = {"model": "m", "context": "unmodified", "framing": "plain", **r}
        names["item"] = f"{r['task']}/{r['item']}"
        grade = GRADE_CODE[r["grade"]]
        columns.add(
            names, 0, 10, dict.fromkeys(RULES, False), grade=grade, which=WHICH_CODE[r["which"]], binary=-1, exact=grade
        )
    return columns.frame()


def frame_of_errors(
    wrong: np.ndarray, personas: Sequence[str], tasks: int = 1, beliefs: Sequence[str] = ("none",)
) -> Frame:
    """Return the frame of ``wrong``, [personas, questions, beliefs, contexts, samples] of 0, 1 or -1 (undecided).

    Each question is in one of the tasks, in turn.
    """
    axes = [axis.ravel() for axis in np.indices(wrong.shape)]
    persona, item, belief, context, sample = axes
    names = [f"t{k % tasks}/{k}" for k in range(wrong.shape[1])]

    def factor(names: Sequence[str], codes: np.ndarray) -> Factor:
        return Factor(tuple(names), codes.astype(np.int32))

    n = wrong.size
    grade = np.where(wrong < 0, 3, wrong).ravel().astype(np.int8)
    return Frame(
        model=factor(("m",), np.zeros(n)),
        persona=factor(personas, persona),
        task=factor([f"t{k}" for k in range(tasks)], item % tasks),
        context=factor(CONTEXTS, context),
        belief=factor(beliefs, belief),
        framing=factor(("plain",), np.zeros(n)),
        item=factor(names, item),
        sample=sample.astype(np.int32),
        grade=grade,
        which=(grade == 1).astype(np.int8),
        binary=wrong.ravel().astype(np.int8),
        chars=np.full(n, 100, dtype=np.int32),
        exact=grade.copy(),
        judges={},
        refused={rule: np.zeros(n, dtype=bool) for rule in ("paper", "strict", "loose")},
    )
