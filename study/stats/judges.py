"""How far the rules that grade agree, how judges err, and effects corrected for that."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from warmeng.study.contexts import UNMODIFIED
from warmeng.study.grading.grade import GRADES
from warmeng.study.results.frame import Flags, Frame
from warmeng.study.results.views import BELIEF, MISTAKEN, NONE, named
from warmeng.study.stats.agreement import cohen, table
from warmeng.study.stats.correction import corrected_difference, detection_of
from warmeng.study.stats.draws import Draws, Floats, interval
from warmeng.study.tasks.task import is_general

ALL = "all"
# Grades that say something: all but unscored.
KINDS = 4


def raters(frame: Frame, draws: Draws) -> list[dict[str, Any]]:
    """Return the table ``raters``: every two of the exact rule and the judges, over what both graded."""
    graders = {"exact": frame.exact, **frame.judges} if np.any(frame.exact >= 0) else dict(frame.judges)
    rows = []
    for (first, a), (second, b) in combinations(graders.items(), 2):
        found = cohen(a, b, KINDS)
        row: dict[str, Any] = {"first": first, "second": second, "n": found.n, "equal": found.agreement}
        row |= dict.fromkeys(("kappa", "low", "high"))
        if found.n:
            both = (a >= 0) & (a < KINDS) & (b >= 0) & (b < KINDS)
            pair = a[both].astype(np.int64) * KINDS + b[both]
            cluster = frame.item.codes[both].astype(np.int64)
            (counts,) = draws.totals(cluster, pair, (np.ones(len(pair)),), KINDS * KINDS)
            value = kappas(table(a, b, KINDS).reshape(1, -1).astype(float))[0]
            low, high = interval(kappas(counts))
            row |= {"kappa": float(value) if np.isfinite(value) else None, "low": low, "high": high}
        rows.append(row)
    return rows


def kappas(counts: Floats) -> Floats:
    """Return Cohen's kappa of flattened square tables ``[b, k * k]``; NaN where neither grader varies."""
    k = round(counts.shape[1] ** 0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = counts.reshape(-1, k, k) / counts.sum(axis=1)[:, None, None]
        seen = np.trace(p, axis1=1, axis2=2)
        chance = np.sum(p.sum(axis=1) * p.sum(axis=2), axis=1)
        return np.asarray(np.where(chance < 1 - 1e-12, (seen - chance) / (1 - chance), np.nan))


def judge_error(exact_rule: Mapping[str, Any], judges: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the table ``judge_error`` from a manifest's facts: the exact rules and the judges that were calibrated,
    by labelled persona or style.
    """
    exact = {"exact": exact_rule} if exact_rule else {}
    rows = []
    for judge, measured in {**exact, **judges}.items():
        for persona, found in (measured.get("by_persona") or {}).items():
            row = {"judge": judge, "persona": persona, "n": found["incorrect"] + found["correct"]}
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


def corrected(
    frame: Frame, judges: Mapping[str, Any], baseline: str, variants: tuple[str, ...], seed: int, draws: int
) -> list[dict[str, Any]]:
    """Return the table ``corrected``: differences in error by a judge's own grades, corrected for its errors.

    Each persona by the labelled answers that stand for it (``labelled``; see ``calibrate.detection_of``). Groups: no
    context and no belief (``all``, as in regression 1), no belief, and wrong belief.
    """
    if not draws:
        return []
    study = ~named(frame.task, is_general)
    none = frame.belief.is_(NONE)
    groups: dict[str, Flags] = {
        ALL: study & none & frame.context.is_(UNMODIFIED),
        "no belief": study & none,
        BELIEF: study & named(frame.belief, lambda name: name in MISTAKEN),
    }
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
