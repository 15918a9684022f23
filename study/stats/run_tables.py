"""What the second of two runs changes: tables of answers, of contrasts, of margins, and of runs that share nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from warmeng.common.errors import InputError
from warmeng.study.results.frame import Factor, Flags, Frame, Small
from warmeng.study.results.margins import Margins, concat_margins
from warmeng.study.stats.belief_margins import changes, task_of
from warmeng.study.stats.changes import SINGLE, TWICE, mean_changes
from warmeng.study.stats.draws import Floats, Ints, number
from warmeng.study.stats.flips import outcomes
from warmeng.study.stats.intervals import detectable
from warmeng.study.stats.margins import ALL, Margin, in_order
from warmeng.study.stats.margins import margins as margins_of
from warmeng.study.stats.means import question_means
from warmeng.study.stats.paired import tested
from warmeng.study.stats.shares import error_rates
from warmeng.study.stats.units import asked_plainly, pairs, pooled_tasks, unit_key

# What ``model`` is called in a frame of two runs.
FIRST, SECOND = "first", "second"
PLACE = ("task", "context", "belief")

Row = dict[str, Any]


def answers_table(frame: Frame, known: Small) -> list[Row]:
    """Return the table ``run_answers``: what became of each persona's answers, over the pairs of both runs.

    ``changed`` is the share of all pairs whose grade, or whose wrong answer, is another one; the rest is over pairs
    that were decided both times. ``known`` is ``views.outcome`` of the frame.
    """
    key = unit_key(frame.without("model")) * max(1, len(frame.persona.names)) + frame.persona.codes
    left, right = _matched(key, frame.model, asked_plainly(frame))
    if not len(left):
        raise InputError("the two runs have no answer in common: finish them first")
    part, place = frame.take(left), outcomes(frame)
    moved = place[left] != place[right]
    decided = (known[left] >= 0) & (known[right] >= 0)
    wrong = np.stack([known[left], known[right]]).astype(np.int64)
    rows: list[Row] = []
    for head, use, group in _groups(part, pooled_tasks(frame)[left]):
        for k, label in enumerate(head):
            here = use & (group == k)
            both = here & decided
            if not both.any():
                continue
            item = part.item.codes[both].astype(np.int64)
            test = tested(wrong[0, both] - wrong[1, both], item)
            tests = {name: test[name] for name in ("n", "questions", "b", "c", "p", "p_pairs")}
            errors = {name: float(wrong[i, both].mean()) for i, name in enumerate((FIRST, SECOND))}
            shift = _mean((wrong[1] - wrong[0])[both].astype(np.float64), item, SINGLE)
            # The test of the shift is the exact one.
            rows.append(label | {"changed": float(moved[here].mean())} | errors | shift | tests)
    return in_order(rows, _columns(part), (*PLACE, "persona"))


def contrasts_table(frame: Frame, known: Small, baseline: str, variants: tuple[str, ...]) -> list[Row]:
    """Return the table ``run_contrasts``: each persona's difference from the baseline in both runs.

    Errors in points over what all four answers decided, each question weighing alike; ``value`` is the second
    difference minus the first.
    """
    rows: list[Row] = []
    for variant in variants:
        left, right = pairs(frame, baseline, variant)
        use = (known[left] >= 0) & (known[right] >= 0) & asked_plainly(frame)[left]
        left, right = left[use], right[use]
        change = known[right].astype(np.float64) - known[left]
        model = frame.model.take(left)
        one, other = _matched(unit_key(frame.without("model"))[left], model, np.ones(len(left), dtype=bool))
        part = frame.take(right[one])
        for head, use, group in _groups(part, pooled_tasks(frame)[right[one]]):
            for k, label in enumerate(head):
                here = use & (group == k)
                if not here.any():
                    continue
                item = part.item.codes[here].astype(np.int64)
                each = {name: change[at[here]] for name, at in ((FIRST, one), (SECOND, other))}
                means = {name: _mean(values, item, SINGLE)["value"] for name, values in each.items()}
                found = _mean(each[SECOND] - each[FIRST], item, TWICE)
                rows.append(label | {"against": baseline} | means | found)
    return rows


def margins_table(parts: Sequence[Margins], baseline: str, personas: Sequence[str]) -> list[Row]:
    """Return the table ``run_margins``: what the second run changes in each outcome of margins, question by question.

    Of each persona's own outcome, and of its difference from the baseline (``against``), in nats.
    """
    both = concat_margins([_as_model(part, run) for part, run in zip(parts, (FIRST, SECOND), strict=True)])
    each = [both.take(both.model.is_(run)) for run in (FIRST, SECOND)]
    if not all(map(len, each)):
        return []
    task, rows = task_of(both), []
    for persona in personas:
        mine = both.take(both.persona.is_(persona))
        own = changes(replace(mine, persona=mine.model, model=mine.model.blank), FIRST)
        rows += [_shift(persona, "", name, values[SECOND], task) for name, values in own.items() if SECOND in values]
    found = [changes(part, baseline) for part in each]
    for name in found[0].keys() & found[1].keys():
        for persona in personas:
            if persona != baseline:
                values = found[1][name][persona] - found[0][name][persona]
                rows.append(_shift(persona, baseline, name, values, task))
    order = {name: k for k, name in enumerate(personas)}
    return sorted((r for r in rows if r["n"]), key=lambda r: (r["against"] != "", r["outcome"], order[r["persona"]]))


def _as_model(part: Margins, run: str) -> Margins:
    return replace(part, model=Factor((run,), np.zeros(len(part), dtype=np.int32)))


def _shift(persona: str, against: str, outcome: str, values: Floats, task: Ints) -> Row:
    found = question_means(values[None], task)
    numbers = {name: number(getattr(found, name)[0]) for name in ("value", "low", "high", "p")}
    row = {"persona": persona, "against": against, "outcome": outcome, "n": int(found.n[0]), **numbers}
    return row | {"few": "shift" if found.few[0] else ""}


def apart(frame: Frame, known: Small) -> list[Row]:
    """Return the table ``run_apart``: each persona's errors in two runs that share no question, as two samples.

    The interval of the difference is made of both shares' own: Newcombe's (1998, method 10), as Zou and Donner (2008)
    give it for any two intervals.
    """
    rows: list[Row] = []
    found = {(r["persona"], r["model"]): r for r in error_rates(frame, known) if all(r[k] == ALL for k in PLACE)}
    for persona in frame.persona.names:
        one, other = (found.get((persona, run)) for run in (FIRST, SECOND))
        if one is None or other is None or not (one["n"] and other["n"]):
            continue
        value = other["error"] - one["error"]
        below = math.hypot(other["error"] - other["low"], one["high"] - one["error"])
        above = math.hypot(other["high"] - other["error"], one["error"] - one["low"])
        points = {"value": 100 * value, "low": 100 * (value - below), "high": 100 * (value + above)}
        row = {"persona": persona, "first": one["error"], "second": other["error"], **points}
        rows.append(row | {"n_first": one["n"], "n_second": other["n"]})
    return rows


def _matched(key: Ints, model: Factor, use: Flags) -> tuple[Ints, Ints]:
    """Return the rows of both runs that have the same key: ``[pairs]`` each."""
    mine = [np.flatnonzero(model.is_(name) & use) for name in (FIRST, SECOND)]
    _, a, b = np.intersect1d(key[mine[0]], key[mine[1]], return_indices=True)
    return mine[0][a], mine[1][b]


def _columns(part: Frame) -> list[Margin]:
    return [Margin("persona", part.persona, False), *(Margin(name, getattr(part, name), True) for name in PLACE)]


def _groups(part: Frame, together: Flags) -> list[tuple[list[Row], Flags, Ints]]:
    """Return (labels, rows that are used, each row's group) of everything together and of each margin alone."""
    columns = _columns(part)
    found = []
    for kept, labels, group in margins_of(columns):
        if len(kept) <= 2:
            use = np.ones(len(part), dtype=bool) if "task" in kept else together
            found.append(([dict(zip((c.key for c in columns), one, strict=True)) for one in labels], use, group))
    return found


def _mean(change: Floats, item: Ints, changes: int) -> Row:
    """Return the mean of a change over questions, in points, with its interval and the smallest that would show."""
    found = mean_changes(np.zeros(len(change), dtype=np.int64), change, item, 1, changes)
    row = found.points(0)
    return {**row, "p": float(found.p[0]), "detectable": detectable(row["low"], row["high"])}
