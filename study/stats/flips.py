"""Where answers go: from the baseline's grade to the variant's, pair by pair; and differences in differences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from warmeng.study.contexts import UNMODIFIED
from warmeng.study.grading.grade import GRADES
from warmeng.study.results.frame import WHICH, Factor, Flags, Frame, Small
from warmeng.study.results.views import NONE, named
from warmeng.study.stats.changes import SINGLE, TWICE, mean_changes
from warmeng.study.stats.draws import Floats, Ints
from warmeng.study.stats.margins import ALL
from warmeng.study.stats.units import pairs, unit_key
from warmeng.study.tasks.task import is_general

OUTCOMES = ("correct", "user", "other", "refusal", "unclear", "unscored", "incorrect")
# Incorrect, and not told whose wrong answer it was.
UNTOLD = OUTCOMES.index("incorrect")


def outcomes(frame: Frame) -> Ints:
    """Return each answer's place in ``OUTCOMES``: grades, with an incorrect one told by whose wrong answer it gave."""
    of_grade = np.array([OUTCOMES.index(name) for name in GRADES])
    of_which = np.array([OUTCOMES.index(name) if name else UNTOLD for name in WHICH])
    return np.asarray(np.where(frame.grade == GRADES.index("incorrect"), of_which[frame.which], of_grade[frame.grade]))


def flips(frame: Frame, baseline: str, variants: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the table ``flips``: of the baseline's answers of one outcome (``from``), the shares of the variant's.

    ``n`` pairs go from one to the other, ``share`` is of all ``total`` pairs that come from there. Rows that no pair
    takes are given for ``from`` correct only (but for ``incorrect``, which only answers without a ``which`` have).
    Groups: all pairs, each task, each context, each belief, and each context with each belief; the same by model.
    """
    place = outcomes(frame)
    many = len(OUTCOMES)
    rows: list[dict[str, Any]] = []
    for variant in variants:
        left, right = pairs(frame, baseline, variant)
        move = place[left] * many + place[right]
        part = frame.take(left)
        for head, chosen in groups(part):
            counts = np.bincount(move[chosen], minlength=many * many).reshape(many, many)
            # where it is not told whose wrong answer some gave, "none to the user's" is not known either
            told = [k for k in range(UNTOLD) if not (counts[:, UNTOLD].any() and OUTCOMES[k] in WHICH)]
            for source, target in np.ndindex(many, many):
                total = int(counts[source].sum())
                shown = counts[source, target] or (source == 0 and target in told)
                if total and shown:
                    n = int(counts[source, target])
                    names = {"from": OUTCOMES[source], "to": OUTCOMES[target]}
                    rows.append({**head, "variant": variant, **names, "n": n, "total": total, "share": n / total})
    return rows


def groups(frame: Frame) -> Iterator[tuple[dict[str, str], Flags]]:
    """Yield (labels, rows) of the groups that ``flips`` tells of, only those with rows."""
    study = ~named(frame.task, is_general)
    models = [name for name in frame.model.names if frame.model.is_(name).any()]
    for model in ([ALL] if len(models) > 1 else []) + models:
        mine = frame.model.is_(model) if model != ALL else np.ones(len(frame), dtype=bool)
        choices = [(ALL, ALL, ALL)]
        choices += [(task, ALL, ALL) for task in frame.task.names]
        choices += [(ALL, context, belief) for context in (ALL, *frame.context.names) for belief in frame.belief.names]
        choices += [(ALL, context, ALL) for context in frame.context.names]
        for task, context, belief in choices:
            chosen = mine & (study if task == ALL else frame.task.is_(task))
            for name, factor in ((context, frame.context), (belief, frame.belief)):
                chosen = chosen & factor.is_(name) if name != ALL else chosen
            if chosen.any():
                yield {"model": model, "task": task, "context": context, "belief": belief}, chosen


def differences_in_differences(
    frame: Frame, outcome: Small, baseline: str, variants: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return the table ``did``: differences in differences of error, in points, each question weighing alike.

    ``kind`` persona: the variant's change from the baseline minus another variant's (``against``), over the questions
    that all three decided. ``belief``: a belief's effect on the variant minus its effect on ``against`` (``belief``
    reads "wrong - none"). ``context``: the same for a context against none. Over what is decided in all four cells.
    ``n`` counts questions; see ``mean_changes`` for the interval.
    """
    use = (outcome >= 0) & ~named(frame.task, is_general)
    frame, wrong = frame.take(use), outcome[use].astype(np.float64)
    rows: list[dict[str, Any]] = []
    for k, variant in enumerate(variants):
        for against in variants[k + 1 :]:
            rows += _persona(frame, wrong, baseline, variant, against)
    for variant, against in [(v, baseline) for v in variants] + [
        (v, w) for k, v in enumerate(variants) for w in variants[k + 1 :]
    ]:
        rows += _crossed(frame, wrong, variant, against, "belief")
        rows += _crossed(frame, wrong, variant, against, "context")
    return rows


def _persona(frame: Frame, outcome: Floats, baseline: str, variant: str, against: str) -> list[dict[str, Any]]:
    first, common = pairs(frame, baseline, variant)
    again, other = pairs(frame, baseline, against)
    _, a, b = np.intersect1d(first, again, assume_unique=True, return_indices=True)
    change = outcome[common[a]] - outcome[other[b]]  # the baseline's own outcome cancels
    head = {"kind": "persona", "variant": variant, "against": against}
    part = frame.take(first[a])
    labels = [(part.context.names[c], part.belief.names[d]) for c, d in np.ndindex(*_shape(part))]
    cell = part.context.codes.astype(np.int64) * len(part.belief.names) + part.belief.codes
    rows = _rows(head, [(ALL, ALL)], np.zeros(len(part), dtype=np.int64), change, part, SINGLE)
    return rows + _rows(head, labels, cell, change, part, SINGLE)


def _crossed(frame: Frame, outcome: Floats, variant: str, against: str, kind: str) -> list[dict[str, Any]]:
    """Differences of a factor's effect between two personas: both have both levels of it."""
    factor: Factor = getattr(frame, kind)
    reference = NONE if kind == "belief" else UNMODIFIED
    if reference not in factor.names:
        return []
    blind = frame.without(kind)
    left, right = pairs(frame, against, variant)
    change = outcome[right] - outcome[left]
    key = unit_key(blind)[left]
    at_reference = np.flatnonzero(factor.is_(reference)[left])
    rows: list[dict[str, Any]] = []
    for level in factor.names:
        here = np.flatnonzero(factor.is_(level)[left])
        if level == reference or not len(here) or not len(at_reference):
            continue
        _, a, b = np.intersect1d(key[at_reference], key[here], return_indices=True)
        if not len(a):
            continue
        part = frame.take(left[here[b]])
        twice = change[here[b]] - change[at_reference[a]]
        head = {"kind": kind, "variant": variant, "against": against}
        name = f"{level} - {reference}"
        other: Factor = part.context if kind == "belief" else part.belief

        def label(value: str, name: str = name) -> tuple[str, str]:
            return (value, name) if kind == "belief" else (name, value)

        if kind == "belief":
            rows += _rows(head, [label(ALL)], np.zeros(len(part), dtype=np.int64), twice, part, TWICE)
        rows += _rows(head, [label(x) for x in other.names], other.codes.astype(np.int64), twice, part, TWICE)
    return rows


def _rows(
    head: dict[str, Any], labels: list[tuple[str, str]], cell: Ints, value: Floats, part: Frame, changes: int
) -> list[dict[str, Any]]:
    """Return the mean of a value by cell with its interval, for the cells that have any."""
    found = mean_changes(cell, value, part.item.codes.astype(np.int64), len(labels), changes)
    return [
        {**head, "context": context, "belief": belief, **found.points(k), "p": float(found.p[k])}
        for k, (context, belief) in enumerate(labels)
        if found.n[k]
    ]


def _shape(part: Frame) -> tuple[int, int]:
    return len(part.context.names), len(part.belief.names)
