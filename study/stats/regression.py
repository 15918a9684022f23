"""The paper's four regressions: does a persona answer incorrectly more often, and in which contexts and beliefs?

Each is ``incorrect ~ persona * group + task + model`` on other answers and with other groups:

1. no context, no belief (with the plain and the neutral framing); one group.
2. no belief; groups of contexts (unmodified is the reference).
3. no belief; each context.
4. all answers in which the user is not right: without against with a wrong belief; and by belief and emotion, whose
   four groups span the same columns as belief x emotion with all interactions; and each belief.

Effects are average marginal effects over the group's answers. The paper's standard errors take answers as independent;
the clustered ones take a question's answers together, whatever the model, persona or context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from warmeng.study.contexts import UNMODIFIED
from warmeng.study.results.frame import Factor, Flags, Frame, Small
from warmeng.study.results.views import BELIEF, MISTAKEN, NONE, group_of, named
from warmeng.study.stats import design as designs
from warmeng.study.stats.draws import number
from warmeng.study.stats.logit import NotEstimable
from warmeng.study.stats.published import effect_of
from warmeng.study.tasks.task import is_general

NO_BELIEF = "no belief"
EACH_BELIEF = "each belief"
NEITHER, EMOTION_ONLY, BELIEF_ONLY, BOTH = "neither", "emotion only", "belief only", "emotion + belief"


@dataclass(frozen=True)
class Model:
    """One regression: its number, name, the answers it takes and how they are grouped."""

    number: int
    name: str
    rows: Callable[[Frame], Flags]
    groups: Callable[[Frame], Factor]


def _no_belief(frame: Frame) -> Flags:
    return frame.belief.is_(NONE)


def _plain(frame: Frame) -> Flags:
    return np.asarray(_no_belief(frame) & frame.context.is_(UNMODIFIED))


def _not_right(frame: Frame) -> Flags:
    return named(frame.belief, lambda name: name in (NONE, *MISTAKEN))


def _one(frame: Frame) -> Factor:
    return Factor(("all",), np.zeros(len(frame), dtype=np.int32))


def _context_groups(frame: Frame) -> Factor:
    return _relabel(frame.context, group_of, (UNMODIFIED,))


def _contexts(frame: Frame) -> Factor:
    return _relabel(frame.context, str, (UNMODIFIED,))


def _belief_groups(frame: Frame) -> Factor:
    return _relabel(frame.belief, lambda name: NO_BELIEF if name == NONE else BELIEF, (NO_BELIEF, BELIEF))


def _emotion_groups(frame: Frame) -> Factor:
    emotion = named(frame.context, lambda name: group_of(name) == "emotion")
    belief = ~frame.belief.is_(NONE)
    return Factor((NEITHER, EMOTION_ONLY, BELIEF_ONLY, BOTH), (emotion + 2 * belief).astype(np.int32))


def _beliefs(frame: Frame) -> Factor:
    return _relabel(frame.belief, str, (NONE,))


def _relabel(factor: Factor, label: Callable[[str], str], first: tuple[str, ...]) -> Factor:
    """Give a factor's names other names, some of which come first; equal ones become one."""
    names = Factor.of((label(name) for name in factor.names), first)
    codes = names.codes[factor.codes] if len(names) else np.zeros(0, dtype=np.int32)
    return Factor(names.names, codes)


MODELS = (
    Model(1, "main effect", _plain, _one),
    Model(2, "context group", _no_belief, _context_groups),
    Model(3, "each context", _no_belief, _contexts),
    Model(4, "belief", _not_right, _belief_groups),
    Model(4, "belief and emotion", _not_right, _emotion_groups),
    Model(4, EACH_BELIEF, lambda frame: np.ones(len(frame), dtype=bool), _beliefs),
)


def scopes(frame: Frame) -> Iterator[tuple[str, Flags]]:
    """Yield ``all`` (without tasks of general ability), then each task and each model where there is more than one."""
    study = ~named(frame.task, is_general)
    if study.any():
        yield "all", study
    tasks = [name for name in frame.task.names if frame.task.is_(name).any()]
    models = [name for name in frame.model.names if frame.model.is_(name).any()]
    if len(tasks) > 1 or not study.any():
        yield from ((f"task: {name}", frame.task.is_(name)) for name in tasks)
    if len(models) > 1:
        yield from ((f"model: {name}", study & frame.model.is_(name)) for name in models)


def regressions(
    frame: Frame, outcome: Small, baseline: str, variants: tuple[str, ...]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of the tables ``regressions`` and ``coefficients``: every model, scope and variant.

    Where outcomes are separated, ``limits`` names what has no finite estimate; the effect is then its limit. A fit that
    does not exist at all is refused by name there, beside the raw rates and their difference, which need no fit.
    Missing numbers are ``None``.
    """
    rows: list[dict[str, Any]] = []
    coefficients: list[dict[str, Any]] = []
    for variant in variants:
        two = frame.persona.is_(baseline) | frame.persona.is_(variant)
        for model in MODELS:
            chosen = two & model.rows(frame)
            if model.name == EACH_BELIEF and len(np.unique(frame.belief.codes[chosen])) < 3:
                # One belief against none: that is the regression before it.
                continue
            for scope, within in scopes(frame):
                head = {"number": model.number, "regression": model.name, "scope": scope, "variant": variant}
                at = np.flatnonzero(chosen & within)
                part = frame.take(at)
                found, table = regression(part, outcome[at], variant, model.groups(part))
                rows += [
                    {**head, **row, "published": effect_of(model.number, scope, row["group"], variant)}
                    for row in found
                    if not (model.name == EACH_BELIEF and row["group"] == NONE)  # a group of the one before
                ]
                coefficients += [{**head, **row} for row in table]
    return rows, coefficients


def regression(
    part: Frame, outcome: Small, variant: str, group: Factor
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Fit one regression to the answers of two personas; return a row for each group, and one for each coefficient.

    Intervals are those of the design with two questions more: see ``design.smoothed``.
    """
    design = designs.build(part, outcome, variant, group)
    if design is None:
        return [_row(group.names[0], limits="no group has answers of both personas")], []
    wider = designs.smoothed(design)
    fitted, around, limits = None, None, ""
    try:
        fitted, around = designs.Fitted.of(design), designs.Fitted.of(wider)
        limits = fitted.fit.limits
    except NotEstimable as error:
        limits = str(error)
    rows = []
    for k, name in enumerate(design.groups):
        n, before, after, difference = designs.raw(design, k)
        raw_low, raw_high = designs.interval(*designs.raw_error(wider, k))
        row = _row(
            name, n=n, limits=limits, error_baseline=before, error_variant=after,
            raw=difference, raw_low=raw_low, raw_high=raw_high,
        )  # fmt: skip
        if fitted is not None and around is not None:
            beta, se, clustered = fitted.log_odds(k)
            effect, effect_se, effect_clustered, without = fitted.effect(k)
            centre, _, spread, _ = around.effect(k)
            low, high = designs.interval(centre, spread) if np.isfinite(effect) else (None, None)
            row |= {
                "beta": number(beta),
                "se": number(se),
                "se_clustered": number(clustered),
                "effect": number(effect),
                "effect_se": number(effect_se),
                "effect_se_clustered": number(effect_clustered),
                "low": low,
                "high": high,
                "relative": number(effect / 100 / without) if without > 0 else None,
            }
        rows.append(row)
    return rows, _coefficients(fitted) if fitted is not None else []


def _row(group: str, n: int = 0, limits: str = "", **more: Any) -> dict[str, Any]:
    empty = ("beta", "se", "se_clustered", "effect", "effect_se", "effect_se_clustered", "low", "high", "relative")
    raw = ("error_baseline", "error_variant", "raw", "raw_low", "raw_high")
    return {"group": group, "n": n, **dict.fromkeys((*empty, *raw)), "limits": limits, **more}


def _coefficients(fitted: designs.Fitted) -> list[dict[str, Any]]:
    from scipy.special import ndtr

    rows = []
    for pick, term in zip(np.eye(len(fitted.fit.beta)), fitted.design.terms, strict=True):
        beta, plain, clustered = fitted.combination(pick)
        row: dict[str, Any] = {"term": term, "beta": number(beta)}
        for name, se in (("", plain), ("_clustered", clustered)):
            row[f"se{name}"] = number(se)
            row[f"p{name}"] = number(2 * float(ndtr(-abs(beta / se))))
        rows.append(row)
    return rows
