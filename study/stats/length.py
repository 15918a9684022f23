"""Response length: is a persona less accurate because it says less? The main effect without and with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from warmeng.study.results.frame import Frame, Small
from warmeng.study.results.views import named
from warmeng.study.stats import design as designs
from warmeng.study.stats.draws import number
from warmeng.study.stats.logit import NotEstimable
from warmeng.study.stats.published import CHARACTERS, EFFECTS, WITH_LENGTH, is_warm_by_training
from warmeng.study.stats.regression import MODELS
from warmeng.study.tasks.task import is_general

# Characters: the coefficient is for 100 more of them.
UNIT = 100.0


def length(frame: Frame, outcome: Small, baseline: str, variants: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the table ``length``: mean characters of both, and regression 1's effect in points without and with them.

    Over decided answers that were generated. Length is an outcome of the persona too, so the effect with it is what
    remains when answers of equal length are compared, not the persona's whole effect.
    """
    rows = []
    main = MODELS[0]
    for variant in variants:
        two = frame.persona.is_(baseline) | frame.persona.is_(variant)
        use = two & main.rows(frame) & (frame.chars >= 0) & (outcome >= 0) & ~named(frame.task, is_general)
        part, found = frame.take(use), outcome[use]
        row: dict[str, Any] = {"variant": variant, "n": len(part)}
        for key, name in (("mean_chars", variant), ("mean_chars_baseline", baseline)):
            chars = part.chars[part.persona.is_(name)]
            row[key] = float(chars.mean()) if len(chars) else None
        row |= dict.fromkeys(("effect_without", "effect_with", "effect_with_se_clustered", "beta_length", "se_length"))
        row["limits"] = "no group has answers of both personas"
        group = main.groups(part)
        if len(part) and (design := designs.build(part, found, variant, group)) is not None:
            row["limits"] = ""
            try:
                row["effect_without"] = number(designs.Fitted.of(design).effect(0)[0])
                fitted = designs.Fitted.of(_with_length(design, part, found, variant))
                effect, _, clustered, _ = fitted.effect(0)
                beta, se, _ = fitted.combination(np.eye(len(fitted.fit.beta))[-1])
                row |= {
                    "effect_with": number(effect),
                    "effect_with_se_clustered": number(clustered),
                    "beta_length": number(beta),
                    "se_length": number(se),
                    "limits": fitted.fit.limits,
                }
            except NotEstimable as error:
                row["limits"] = str(error)
        warm = is_warm_by_training(variant)
        row |= {
            "published_chars": CHARACTERS["warm"] if warm else None,
            "published_chars_baseline": CHARACTERS["original"] if warm else None,
            "published_without": EFFECTS[1, "all"] if warm else None,
            "published_with": WITH_LENGTH if warm else None,
        }
        rows.append(row)
    return rows


def _with_length(design: designs.Design, part: Frame, outcome: Small, variant: str) -> designs.Design:
    """Return the design with one row an answer, and its length as last column."""
    answers = design.answers
    n = len(answers)
    chars = part.chars[answers].astype(float)[:, None] / UNIT
    x, off, on = (np.hstack([table[design.at], chars]) for table in (design.x, design.off, design.on))
    return replace(
        design,
        terms=(*design.terms, "length, 100 characters"),
        x=x,
        off=off,
        on=on,
        group=np.zeros(n, dtype=np.int64),
        persona=part.persona.is_(variant)[answers],
        cluster=part.item.codes[answers].astype(np.int64),
        row=np.arange(n),
        n=np.ones(n),
        y=outcome[answers].astype(float),
    )
