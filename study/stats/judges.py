"""How far the rules that grade agree, how judges err, and effects corrected for that."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from types import MappingProxyType
from typing import Any

import numpy as np

from warmeng.study.contexts import UNMODIFIED
from warmeng.study.grading.grade import GRADES
from warmeng.study.results.frame import Flags, Frame, Small
from warmeng.study.results.views import BELIEF, MISTAKEN, NONE, named
from warmeng.study.stats.correction import corrected_difference, detection_of
from warmeng.study.stats.draws import Floats, Ints
from warmeng.study.stats.intervals import Z
from warmeng.study.tasks.task import is_general

ALL = "all"
# Grades that say something: all but unscored.
KINDS = 4


def raters(frame: Frame, people: Mapping[str, Small] = MappingProxyType({})) -> list[dict[str, Any]]:
    """Return the table ``raters``: every two of the exact rule, the judges and people, over what both graded."""
    graders = {"exact": frame.exact, **frame.judges} if np.any(frame.exact >= 0) else dict(frame.judges)
    graders |= people
    rows = []
    for (first, a), (second, b) in combinations(graders.items(), 2):
        both = (a >= 0) & (a < KINDS) & (b >= 0) & (b < KINDS)
        pair = a[both].astype(np.int64) * KINDS + b[both]
        n, equal = len(pair), float(np.mean(a[both] == b[both])) if len(pair) else None
        found = clustered_kappa(pair, frame.item.codes[both].astype(np.int64), KINDS)
        kappa = dict(zip(("kappa", "low", "high"), found, strict=True))
        rows.append({"first": first, "second": second, "n": n, "equal": equal} | kappa)
    return rows


def clustered_kappa(pair: Ints, cluster: Ints, k: int) -> tuple[float | None, float | None, float | None]:
    """Return Cohen's kappa of pairs of codes, ``first * k + second``, and its 95 % interval; ``None`` where none is.

    The interval is of kappa with two clusters (questions) more, each of the mean size: in one the graders agree, in one
    they don't, over the grades that occur (as Bonett and Price, 2012, add two pairs, so that it has a width where all
    agree). The variance is between clusters, of kappa linearised (as in Fleiss, Cohen and Everitt 1969).
    """
    counts = np.bincount(pair, minlength=k * k).astype(np.float64)
    value, _ = _kappa(counts, k)
    if not np.isfinite(value):
        return None, None, None
    questions, at = np.unique(cluster, return_inverse=True)
    table = np.bincount(at * k * k + pair, minlength=len(questions) * k * k).reshape(-1, k * k).astype(np.float64)
    occurs = (counts.reshape(k, k).sum(axis=0) + counts.reshape(k, k).sum(axis=1)) > 0
    agree = np.diag(occurs).astype(np.float64).ravel()
    differ = np.outer(occurs, occurs).astype(np.float64).ravel() - agree
    added = [x * len(pair) / len(questions) / x.sum() for x in (agree, differ)]
    table = np.vstack([table, *added])
    centre, slope = _kappa(table.sum(axis=0), k)
    half = Z * float(np.sqrt(np.sum((table @ slope / table.sum()) ** 2)))
    return float(value), max(-1.0, centre - half), min(1.0, centre + half)


def _kappa(counts: Floats, k: int) -> tuple[float, Floats]:
    """Return kappa of a flattened table and its slope in each cell's share; NaN where neither grader varies."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = counts.reshape(k, k) / counts.sum()
        row, column = p.sum(axis=1), p.sum(axis=0)
        seen, chance = float(np.trace(p)), float(row @ column)
        if not chance < 1 - 1e-12:
            return float("nan"), np.zeros(k * k)
        more = column[:, None] + row[None, :] - 2 * chance
        slope = (np.eye(k) - seen) / (1 - chance) - more * (1 - seen) / (1 - chance) ** 2
        return (seen - chance) / (1 - chance), np.asarray(slope).ravel()


def judge_error(exact_rule: Mapping[str, Any], judges: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the table ``judge_error`` from a manifest's facts: the exact rules and the judges that were calibrated,
    by labelled persona or style.
    """
    exact = {"exact": exact_rule} if exact_rule else {}
    rows = []
    for judge, measured in {**exact, **judges}.items():
        for persona, found in (measured.get("by_persona") or {}).items():
            row = {"judge": judge, "persona": persona, "labelled": "examples"}
            row |= {"n": found["incorrect"] + found["correct"]}
            kept = ("sensitivity", "specificity", "incorrect", "correct", "undecided")
            rows.append(row | {key: found.get(key) for key in kept})
    return rows


def disputed(frame: Frame, judge: str | None) -> list[dict[str, Any]]:
    """Return the table ``disputed``: answers that the exact rule decides and the trusted judge grades otherwise, by
    persona. They are counted by the judge.
    """
    if judge is None or judge not in frame.judges:
        return []
    given, exact = frame.judges[judge], frame.exact
    right, wrong = GRADES.index("correct"), GRADES.index("incorrect")
    both = (exact >= 0) & (exact < GRADES.index("unclear")) & (given >= 0) & (given < KINDS)
    rows = []
    for name in frame.persona.names:
        mine = both & frame.persona.is_(name)
        if not (n := int(mine.sum())):
            continue
        differ = mine & (exact != given)
        counts = {
            "n": n,
            "disputed": int(differ.sum()),
            "share": float(differ.sum()) / n,
            "to_incorrect": int((differ & (exact == right) & (given == wrong)).sum()),
            "to_correct": int((differ & (exact == wrong) & (given == right)).sum()),
        }
        rows.append({"judge": judge, "persona": name, **counts})
    return rows


def error_groups(frame: Frame) -> dict[str, Flags]:
    """Return the answers by which a grader's errors are corrected, by group: no context and no belief (``all``, as in
    regression 1), no belief, each belief by which the user is wrong, and both as one (``wrong belief``, as in
    regression 4) where both were asked.
    """
    study = ~named(frame.task, is_general)
    none = frame.belief.is_(NONE)
    groups: dict[str, Flags] = {
        ALL: study & none & frame.context.is_(UNMODIFIED),
        "no belief": study & none,
        **{name: study & frame.belief.is_(name) for name in MISTAKEN},
    }
    if all(groups[name].any() for name in MISTAKEN):
        groups[BELIEF] = study & named(frame.belief, lambda name: name in MISTAKEN)
    return groups


def corrected(
    frame: Frame, judges: Mapping[str, Any], baseline: str, variants: tuple[str, ...], seed: int, draws: int
) -> list[dict[str, Any]]:
    """Return the table ``corrected``: differences in error by a judge's own grades, corrected for its errors.

    Each persona by the labelled answers that stand for it (``labelled``; see ``calibrate.detection_of``), in the groups
    of ``error_groups``.
    """
    if not draws:
        return []
    groups = error_groups(frame)
    rows = []
    for judge, facts in judges.items():
        if judge not in frame.judges or not facts.get("by_persona"):
            continue
        grade = frame.judges[judge]
        decided = (grade == GRADES.index("correct")) | (grade == GRADES.index("incorrect"))
        for variant in variants:
            (first, style), (second, other) = (detection_of(facts, name) for name in (baseline, variant))
            # The same labelled answers: drawn once for both.
            second = first if style == other else second
            for group, chosen in groups.items():
                use = chosen & decided & (frame.persona.is_(baseline) | frame.persona.is_(variant))
                _, item = np.unique(frame.item.codes[use], return_inverse=True)
                if not len(item):
                    continue
                on = frame.persona.is_(variant)[use]
                wrong = grade[use] == GRADES.index("incorrect")
                sides = [(~on), on]
                size = int(item.max()) + 1
                decisions = [np.bincount(item[side], minlength=size) for side in sides]
                errors = [np.bincount(item[side & wrong], minlength=size) for side in sides]
                result = corrected_difference(
                    (errors[0], errors[1]), (decisions[0], decisions[1]), (first, second), draws=draws, seed=seed
                )
                row = {"judge": judge, "variant": variant, "group": group, "n": len(item), "effect": result.value}
                row |= {"low": result.low, "high": result.high, "effect_raw": result.raw}
                rows.append(row | {"labelled": style if style == other else f"{style}, {other}"})
    return rows
