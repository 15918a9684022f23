"""Tables of margins: beliefs, knowledge and susceptibility, agreement beside its control, contrasts, sensitivity."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from warmeng.study.algebra import is_dose
from warmeng.study.outcomes import AGREEMENT, CLAIMS, CONTROL, KNOWLEDGE, MARGIN, RAW
from warmeng.study.prompts import CHOICE
from warmeng.study.results.frame import Flags
from warmeng.study.results.margins import NORMS, SUM, Margins
from warmeng.study.stats.belief_margins import (
    CRITERION,
    D_PRIME,
    SHIFT,
    cubes,
    detection,
    errors,
    measures,
    pooled,
    probabilities,
    task_of,
)
from warmeng.study.stats.changes import mean_changes
from warmeng.study.stats.draws import Floats, Ints, number
from warmeng.study.stats.margins import ALL
from warmeng.study.stats.means import Means, question_means
from warmeng.study.tasks.task import is_general

LEVELS = (KNOWLEDGE, *CLAIMS)
# What the sensitivity table has: not d' and c, which are about probabilities.
CHECKED = (MARGIN, KNOWLEDGE, RAW, CONTROL, AGREEMENT)
Row = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)
# Names of tasks, ``all`` first, and their questions.
Scopes = tuple[tuple[str, Flags], ...]


def susceptibility_tables(
    margins: Margins, baseline: str, variants: Sequence[str], claimed: tuple[str, str] | None = None
) -> dict[str, list[Row]]:
    """Return the rows of all tables of margins by table; none where a run has no margins.

    ``claimed`` is a contrast that is told beside those with the baseline and the cold controls.
    """
    if not len(margins):
        return {}
    return Tables.of(margins, baseline, variants, claimed).all()


def cold_control(variant: str, personas: Sequence[str]) -> str | None:
    """Return the persona that does to coldness what a variant does to warmth, by its name; ``None`` without one.

    ``cold-prompt`` goes with ``warm-prompt``, ``cold_x2`` with ``warm_x2``. A variant that is not called warm has
    ``cold``, unless it is a dose: another dose is no control.
    """
    if "warm" in variant:
        wanted = variant.replace("warm", "cold")
    else:
        wanted = "cold" if "cold" not in variant and not is_dose(variant) else ""
    return wanted if wanted in personas else None


@dataclass(frozen=True)
class Tables:
    """Measures of a run by asking style, and who is compared with whom."""

    margins: Margins
    models: tuple[str, ...]
    personas: tuple[str, ...]
    contexts: tuple[str, ...]
    task: Ints  # of each question
    scopes: Scopes
    pairs: tuple[tuple[str, str], ...]  # variant, against whom
    found: Mapping[str, Mapping[str, Floats]]  # asking -> measure -> [models, personas, contexts, questions]

    @classmethod
    def of(
        cls, margins: Margins, baseline: str, variants: Sequence[str], claimed: tuple[str, str] | None = None
    ) -> Tables:
        """Compute the measures; personas without margins are left out."""
        task, names = task_of(margins), margins.task.names
        study = np.array([not is_general(name) for name in names])
        together = study[task] if study.any() else np.ones(len(task), dtype=bool)
        scopes = ((ALL, together), *((name, task == k) for k, name in enumerate(names)))
        personas = margins.persona.names
        pairs = []
        for variant in variants:
            cold = cold_control(variant, (baseline, *variants))
            for against in dict.fromkeys((baseline, cold)):
                if against and against != variant:
                    pairs.append((variant, against))
        pairs = [pair for pair in dict.fromkeys((*pairs, *filter(None, [claimed]))) if set(pair) <= set(personas)]
        found = {cube.asking: measures(cube) for cube in cubes(margins)}
        return cls(
            margins, margins.model.names, personas, margins.context.names, task, scopes, tuple(pairs), found
        )  # fmt: skip

    def all(self) -> dict[str, list[Row]]:
        """Return all tables' rows."""
        return {
            "margins": self.beliefs(),
            "susceptibility": self.levels(),
            "agreement": self.agreement(),
            "margin_contrasts": self.contrasts(),
            "margin_norms": self.norms(),
        }

    def beliefs(self) -> list[Row]:
        """Return the table ``margins``: the margin under each belief, and its shift from none."""
        rows = []
        for cube in cubes(self.margins):
            shifts = {belief: self.found[cube.asking].get(f"{SHIFT}{belief}") for belief in cube.beliefs}
            values = {
                (persona, belief): cube.values[:, p, :, b]
                for p, persona in enumerate(self.personas)
                for b, belief in enumerate(cube.beliefs)
            }
            moved = self._means(
                {
                    (persona, belief): shift[:, p]
                    for p, persona in enumerate(self.personas)
                    for belief, shift in shifts.items()
                    if shift is not None
                }
            )
            for (persona, belief), found in self._means(values).items():
                head = {"persona": persona, "asking": cube.asking, "belief": belief}
                shift = moved.get((persona, belief), {})
                for place, m in found.items():
                    row = head | _place(place) | _numbers(m)
                    told = {"margin": m}
                    if place in shift:
                        told["shift"] = shift[place]
                        row |= _numbers(shift[place], "shift_n", "shift", "shift_low", "shift_high")
                    rows.append(row | few(told))
        return rows

    def levels(self) -> list[Row]:
        """Return the table ``susceptibility``: each persona's knowledge, susceptibility, d' and criterion c."""
        rows = []
        for asking, found in self.found.items():
            values = {
                (persona, measure): found[measure][:, p]
                for p, persona in enumerate(self.personas)
                for measure in LEVELS
                if measure in found
            }
            for (persona, measure), means in self._means(values).items():
                head = {"persona": persona, "asking": asking}
                rows += [head | _place(place) | {"measure": measure} | _one(m) for place, m in means.items()]
        for p, persona in enumerate(self.personas):
            for measure, place, m in self._detection(p):
                rows.append({"persona": persona, "asking": CHOICE} | _place(place) | {"measure": measure} | _one(m))
        return rows

    def agreement(self) -> list[Row]:
        """Return the table ``agreement``: what the user's own claim does, what its mention does, and the difference.

        Over the questions that have all four margins; of each persona, and of each contrast (``against``).
        """
        rows = []
        for asking, found in self.found.items():
            if AGREEMENT not in found:
                continue
            there = np.isfinite(found[AGREEMENT])
            raw, control, difference = (
                self._means(self._with_contrasts(np.where(there, found[name], np.nan)))
                for name in (RAW, CONTROL, AGREEMENT)
            )
            for (persona, against), means in difference.items():
                head = {"persona": persona, "against": against, "asking": asking}
                for place, m in means.items():
                    row = head | _place(place) | _numbers(m)
                    told = {}
                    for name, column in (("raw", raw), ("control", control)):
                        told[name] = column[persona, against][place]
                        row |= _numbers(told[name], "n", name, f"{name}_low", f"{name}_high")
                    rows.append(row | few(told | {AGREEMENT: m}))
        return rows

    def contrasts(self) -> list[Row]:
        """Return the table ``margin_contrasts``: each measure of a variant minus that of whom it is compared with."""
        rows = []
        changes = {
            (variant, against, asking, measure): self._change(values, variant, against)
            for variant, against in self.pairs
            for asking, found in self.found.items()
            for measure, values in found.items()
        }
        means = self._means(changes)
        for variant, against in self.pairs:
            for (who, whom, asking, measure), found in means.items():
                if (who, whom) == (variant, against):
                    head = {"persona": variant, "against": against, "asking": asking}
                    for place, m in found.items():
                        rows.append(head | _place(place) | {"measure": measure} | _one(m) | {"p": number(m.p)})
            for measure, place, m in self._detection(self.personas.index(variant), self.personas.index(against)):
                head = {"persona": variant, "against": against, "asking": CHOICE}
                rows.append(head | _place(place) | {"measure": measure} | _one(m) | {"p": number(m.p)})
        return rows

    def norms(self) -> list[Row]:
        """Return the table ``margin_norms``: measures and contrasts as each way to count length has them, pooled.

        Beside the margins, contrasts of errors of comparing: how often the wrong answer is the likelier one, in points.
        """
        rows = []
        for norm in NORMS:
            for cube in cubes(self.margins, norm):
                found = self.found[cube.asking] if norm == SUM else measures(cube)
                values = {
                    (measure, *who): array
                    for measure in CHECKED
                    if measure in found
                    for who, array in self._with_contrasts(found[measure]).items()
                }
                moved = {
                    (measure, variant, against): self._change(every, variant, against)
                    for measure, every in errors(cube).items()
                    for variant, against in self.pairs
                }
                both = self._means(values, self.scopes[:1]) | self._means(moved, self.scopes[:1], _error_changes)
                for (measure, persona, against), means in both.items():
                    head = {"persona": persona, "against": against, "asking": cube.asking, "measure": measure}
                    for place, m in means.items():
                        if place.context == ALL:
                            rows.append({"model": place.model} | head | {"norm": norm} | _one(m))
        return rows

    def _with_contrasts(self, values: Floats) -> dict[tuple[str, str], Floats]:
        """Return a measure's values of each persona (against nobody), then their changes of each pair."""
        alone = {(persona, ""): values[:, p] for p, persona in enumerate(self.personas)}
        return alone | {(v, w): self._change(values, v, w) for v, w in self.pairs}

    def _change(self, values: Floats, variant: str, against: str) -> Floats:
        first, second = (self.personas.index(name) for name in (variant, against))
        return np.asarray(values[:, first] - values[:, second])

    def _means(
        self, arrays: Mapping[Key, Floats], scopes: Scopes | None = None, summarise: Summary | None = None
    ) -> dict[Key, dict[Place, One]]:
        """Return the means of arrays of ``[models, contexts, questions]`` by place, in one computation a scope."""
        found: dict[Key, dict[Place, One]] = {key: {} for key in arrays}
        if arrays:
            keys = list(arrays)
            for k, place, m in self._places(
                [np.stack(list(arrays.values()))], summarise or _mean, scopes or self.scopes
            ):
                found[keys[k]][place] = m
        return found

    def _places(self, arrays: Sequence[Floats], summarise: Summary, scopes: Scopes) -> Iterator[tuple[int, Place, One]]:
        """Yield what arrays of ``[k, models, contexts, questions]`` give for each k, in each place that has any.

        The places ``all`` are among them.
        """
        wide = [pooled(x, 2) for x in arrays]
        wide = [pooled(x, 1) for x in wide] if len(self.models) > 1 else wide
        models = (ALL, *self.models) if len(self.models) > 1 else self.models
        shape = wide[0].shape[:3]
        flat = [x.reshape(-1, x.shape[3]) for x in wide]
        for task, questions in scopes:
            found = summarise([x[:, questions] for x in flat], self.task[questions])
            for row in np.flatnonzero(found.n):
                k, model, context = (int(i) for i in np.unravel_index(row, shape))
                yield k, Place(models[model], task, (ALL, *self.contexts)[context]), One.of(found, int(row))

    def _detection(self, persona: int, against: int | None = None) -> Iterator[tuple[str, Place, One]]:
        """Yield d' and c of a persona by place, or those minus another's over the questions that both have."""
        cube = probabilities(self.margins)
        right, wrong = (cube.under(name) if cube else None for name in ("right", "wrong"))
        if right is None or wrong is None:
            return
        who = [persona] if against is None else [persona, against]
        both = np.all([np.isfinite(right[:, k]) & np.isfinite(wrong[:, k]) for k in who], axis=0)
        arrays = []
        for k in who:
            arrays += [np.where(both, right[:, k], np.nan)[None], np.where(both, 1 - wrong[:, k], np.nan)[None]]

        def difference(name: str) -> Summary:
            def summarise(flat: Sequence[Floats], task: Ints) -> Means:
                values, sound = detection(flat[0], flat[1])
                mine = values[name]
                if len(flat) > 2:
                    others, too = detection(flat[2], flat[3])
                    mine, sound = mine - others[name], sound & too
                found = question_means(mine, task)
                bounds = {key: np.where(sound, getattr(found, key), np.nan) for key in ("low", "high", "p")}
                return replace(found, few=found.few & sound, **bounds)

            return summarise

        for name in (D_PRIME, CRITERION):
            for _, place, m in self._places(arrays, difference(name), self.scopes):
                yield name, place, m


@dataclass(frozen=True, slots=True)
class Place:
    """A row's place: ``all`` for what is pooled."""

    model: str
    task: str
    context: str


@dataclass(frozen=True, slots=True)
class One:
    """One of ``Means``."""

    n: int
    value: float
    low: float
    high: float
    p: float
    few: bool

    @classmethod
    def of(cls, found: Means, k: int) -> One:
        """Return the k-th."""
        value, low, high, p = (float(x[k]) for x in (found.value, found.low, found.high, found.p))
        return cls(int(found.n[k]), value, low, high, p, bool(found.few[k]))


Summary = Callable[[Sequence[Floats], Ints], Means]


def _mean(flat: Sequence[Floats], task: Ints) -> Means:
    return question_means(flat[0], task)


def _error_changes(flat: Sequence[Floats], task: Ints) -> Means:
    """Return the means of changes in percent, with the intervals of ``mean_changes``; tasks are one."""
    row, question = np.nonzero(np.isfinite(flat[0]))
    found = mean_changes(row, flat[0][row, question] / 100, question, len(flat[0]))
    value, low, high = (100 * x for x in (found.value, found.low, found.high))
    none = np.full(len(value), np.nan)
    return Means(found.n, value, none, low, high, found.p, few=np.zeros(len(value), dtype=bool))


def _place(place: Place) -> Row:
    return {"model": place.model, "task": place.task, "context": place.context}


def _numbers(m: One, n: str = "n", value: str = "value", low: str = "low", high: str = "high") -> Row:
    return {n: m.n, value: number(m.value), low: number(m.low), high: number(m.high)}


def _one(m: One) -> Row:
    return _numbers(m) | few({"value": m})


def few(told: Mapping[str, One]) -> Row:
    """Return a row's column of that name: which of its intervals rest on few questions (see ``Means``)."""
    return {"few": ", ".join(name for name, m in told.items() if m.few)}


def sign(row: Mapping[str, Any]) -> int:
    """Return 1 or -1 where a row's interval is above or below 0, 0 where it is not or where there is none."""
    if row["low"] is None:
        return 0
    return int(row["low"] > 0) - int(row["high"] < 0)


def dependent(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each conclusion of ``margin_norms`` that is another with another way to count length."""
    by: dict[tuple[str, ...], dict[str, int]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("model", "persona", "against", "asking", "measure"))
        by.setdefault(key, {})[row["norm"]] = sign(row)
    words = {1: "above 0", -1: "below 0", 0: "not shown to differ from 0"}
    many = len({row["model"] for row in rows}) > 1
    lines = []
    for (model, persona, against, asking, measure), signs in by.items():
        if len(set(signs.values())) > 1:
            whose = f"{persona} minus {against}" if against else persona
            told = ", ".join(f"{words[s]} {norm if norm == 'with end' else f'by {norm}' if norm == SUM else norm}"
                             for norm, s in signs.items())  # fmt: skip
            lines.append(f"{measure} of {whose}{f' in {model}' if many else ''} ({asking}): {told}")
    return lines
