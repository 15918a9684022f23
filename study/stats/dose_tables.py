"""The tables of dose-response: every family's doses, their trend, and families at equal warmth and equal KL.

What is needed of a run is small: outcomes by question, the manipulation check's values by prompt, and which personas
are doses of what. A family is one direction (an adapter, a prompt, a placebo); its dose 0 is the baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from warmeng.common.errors import InputError
from warmeng.study.stats.curves import Curve, compare
from warmeng.study.stats.dose import Ratio, from_base, monotone, per_unit, strata, trend
from warmeng.study.stats.draws import BOOTSTRAP, Floats, Ints, number
from warmeng.study.stats.intervals import Summary, summarise
from warmeng.study.stats.means import Means, question_means

# Persona -> (family, dose); the baseline is every family's dose 0 and needs no entry, or has the family "".
Doses = Mapping[str, tuple[str, float]]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Measured:
    """Warmth and KL from the base by persona, ``[prompts]`` each, NaN where missing; empty where not measured."""

    warmth: Mapping[str, Floats] = field(default_factory=dict)
    kl: Mapping[str, Floats] = field(default_factory=dict)

    @classmethod
    def of(cls, manipulation: Mapping[str, Mapping[str, Any]]) -> Measured:
        """Read a manifest's manipulation check; a run of an earlier version kept no values by prompt.

        A divergence counts only of responses that were sampled at temperature 1: else it is no KL.
        """

        def column(rows: Mapping[str, Any]) -> dict[str, Floats]:
            return {
                name: np.array([np.nan if v is None else v for v in row["by_prompt"]], dtype=np.float64)
                for name, row in rows.items()
                if row and row.get("by_prompt")
            }

        kl = {name: row.get("kl") for name, row in manipulation.items()}
        kl = {name: row for name, row in kl.items() if row and row.get("temperature") == 1.0}
        return cls(column(manipulation), column(kl))


@dataclass(frozen=True)
class Family:
    """A family's doses, ascending, with the baseline as dose 0, and the persona at each."""

    name: str
    doses: Floats
    personas: tuple[str, ...]

    @property
    def base(self) -> int:
        """The baseline's place."""
        return int(np.flatnonzero(self.doses == 0)[0])

    def columns(self, values: Mapping[str, Floats]) -> Floats | None:
        """Return ``[rows, doses]`` of what every persona has; ``None`` where one has nothing."""
        if any(name not in values for name in self.personas):
            return None
        return np.stack([values[name] for name in self.personas], axis=1)

    def upward(self) -> Family:
        """Return the doses from 0 up."""
        return Family(self.name, self.doses[self.base :], self.personas[self.base :])


def families(doses: Doses, baseline: str) -> list[Family]:
    """Return the families in order of first appearance; a persona at dose 0 says no more than the baseline does.

    Raises ``InputError`` where two personas are the same dose of one family, or a dose is not finite.
    """
    found: dict[str, dict[float, str]] = {}
    for persona, (family, dose) in doses.items():
        if not family:
            continue
        at = found.setdefault(family, {0.0: baseline})
        if not np.isfinite(dose):
            raise InputError(f"persona {persona} is dose {dose} of {family}, expected a finite number")
        if dose in at and dose != 0:
            raise InputError(f"personas {at[dose]} and {persona} are both dose {dose:g} of {family}: keep one")
        at.setdefault(float(dose), persona)
    return [
        Family(name, np.array(sorted(at)), tuple(at[dose] for dose in sorted(at)))
        for name, at in found.items()
        if len(at) > 1
    ]


def dose_tables(
    outcomes: Mapping[str, Mapping[str, Floats]],
    doses: Doses,
    baseline: str,
    measured: Measured,
    seed: int = 0,
    replicates: int = BOOTSTRAP,
    task: Ints | None = None,
) -> dict[str, Rows]:
    """Return the rows of ``dose_response`` and ``equal_doses``; ``dose_trends`` has those of the third table.

    ``outcomes`` is each outcome's values by persona, ``[questions]`` with the questions in one order. A family whose
    personas lack an outcome is left out of that outcome's rows. ``task`` is each question's, the strata of means.
    """
    found: dict[str, Rows] = {"dose_response": [], "equal_doses": []}
    every = families(doses, baseline)
    for outcome, values in outcomes.items():
        known = _known(every, values)
        for family, columns in known:
            fit = monotone(family.doses, columns, family.base, seed, replicates)
            means = question_means(from_base(columns, family.base).T, strata(columns, task))
            for k in range(len(family.doses)):
                ends = (number(fit.low[k]), number(fit.high[k]))
                row = _dose(family, k, _summary(means, k, k == family.base), measured)
                row |= {"outcome": outcome, "fit": float(fit.value[k]), "fit_low": ends[0], "fit_high": ends[1]}
                found["dose_response"].append(row)
        for first, second in combinations([family for family, _ in known], 2):
            for row in _equal(first, second, values, measured, seed, replicates):
                found["equal_doses"].append({"outcome": outcome, **row})
    return found


def dose_trends(
    outcomes: Mapping[str, Mapping[str, Floats]], doses: Doses, baseline: str, task: Ints | None = None
) -> Rows:
    """Return the rows of ``dose_trends``; they need no draws but those of sign flips, which are always the same.

    Of families with two doses beside 0: with one, the trend is no more than that dose's change.
    """
    rows = []
    for outcome, values in outcomes.items():
        for family, columns in _known(families(doses, baseline), values):
            if len(family.doses) < 3:
                continue
            found = trend(family.doses, columns, task)
            rows.append(
                {
                    "outcome": outcome, "family": family.name, "n": found.n,
                    "doses": ", ".join(f"{d:g}" for d in family.doses), "slope": found.slope,
                    "low": found.low, "high": found.high, "p": found.p, "p_flips": found.p_flips,
                    "curve": "falling" if found.slope is not None and found.slope < 0 else "rising",
                }
            )  # fmt: skip
    return rows


def _summary(means: Means, k: int, base: bool) -> Summary:
    """Return the k-th mean; the base's change from itself is 0 without an error."""
    parts = (0.0,) * 4 if base else (means.value[k], means.error[k], means.low[k], means.high[k])
    return Summary(int(means.n[k]), *(number(float(x)) for x in parts))


def _known(every: Sequence[Family], values: Mapping[str, Floats]) -> list[tuple[Family, Floats]]:
    """Return the families that have an outcome at all their doses, with its columns."""
    return [(f, c) for f in every if (c := f.columns(values)) is not None and _enough(f, c)]


def _enough(family: Family, columns: Floats) -> bool:
    paired = np.isfinite(from_base(columns, family.base))
    return bool(paired.sum(0).min() >= 2)


def _dose(family: Family, k: int, mean: Summary, measured: Measured) -> dict[str, Any]:
    persona = family.personas[k]
    row: dict[str, Any] = {"family": family.name, "persona": persona, "dose": float(family.doses[k])}
    row |= {"n": mean.n, "value": mean.mean, "low": mean.low, "high": mean.high}
    refused = []
    for what, key, values in (
        ("warmth", "warmth", _warmth(family, measured)),
        ("KL", "kl", family.columns(measured.kl)),
    ):
        if values is None:
            continue
        cost = summarise(values[np.isfinite(values[:, k]), k].tolist())
        row[key] = cost.mean
        if k == family.base:
            continue
        unit: Ratio = per_unit(mean, cost, what)
        row |= {f"per_{key}": unit.value, f"per_{key}_low": unit.low, f"per_{key}_high": unit.high}
        refused += [unit.refused] if unit.refused else []
    return row | {"refused": "; ".join(refused)}


def _warmth(family: Family, measured: Measured) -> Floats | None:
    """Return each prompt's warmth less the baseline's."""
    values = family.columns(measured.warmth)
    return None if values is None else from_base(values, family.base)


def _equal(
    first: Family,
    second: Family,
    values: Mapping[str, Floats],
    measured: Measured,
    seed: int,
    replicates: int,
) -> Iterator[dict[str, Any]]:
    # KL is as great on either side of the base, so the doses above it alone have one KL each.
    pairs: Sequence[tuple[str, tuple[Family, Family]]] = (
        ("warmth", (first, second)),
        ("KL", (first.upward(), second.upward())),
    )
    for what, both in pairs:
        row: dict[str, Any] = {"first": first.name, "second": second.name, "what": what}
        if any(len(family.doses) < 2 for family in both):
            yield row | {"refused": f"{' or '.join(f.name for f in both if len(f.doses) < 2)} has no dose above 0"}
            continue
        x = [_warmth(f, measured) if what == "warmth" else f.columns(measured.kl) for f in both]
        y = [f.columns(values) for f in both]
        curves = [
            Curve(f.name, f.doses, a, from_base(b, f.base))
            for f, a, b in zip(both, x, y, strict=True)
            if a is not None and b is not None
        ]
        if len(curves) < 2:
            yield row | {"refused": f"{what} was not measured"}
            continue
        found = compare(curves[0], curves[1], what, None, seed, replicates)
        covered = found.covered or (None, None)
        yield row | {
            "at": found.at, "value": found.value, "low": found.low, "high": found.high,
            "from": covered[0], "to": covered[1], "refused": found.refused,
        }  # fmt: skip
