"""Error rates and differences by people's labels of a run's own answers, beside those by the graders alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from warmeng.study.grading.grade import GRADES
from warmeng.study.results.frame import Flags, Frame, Small
from warmeng.study.results.labels import Labels
from warmeng.study.stats.correction import Corrected, Detection, corrected_difference, corrected_rate
from warmeng.study.stats.draws import Floats, Ints
from warmeng.study.stats.judges import ALL, error_groups
from warmeng.study.stats.ppi import (
    Estimate,
    Sample,
    graded_difference,
    graded_rate,
    powered_difference,
    powered_rate,
)

# The grade that counts: of the exact rules, and of a judge that is trusted.
TOGETHER = "all rules"
CORRECT, INCORRECT = GRADES.index("correct"), GRADES.index("incorrect")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Labelled:
    """Generated answers with a grader's grades and people's labels of some; ``item`` numbers the questions."""

    frame: Frame
    grade: Small
    means: Floats
    weight: Floats
    item: Ints

    @classmethod
    def of(cls, frame: Frame, grade: Small, means: Floats, weight: Floats) -> Labelled:
        """Put them together."""
        _, item = np.unique(frame.item.codes, return_inverse=True)
        return cls(frame, grade, means, weight, item.astype(np.int64))

    def take(self, rows: Flags) -> Labelled:
        """Return some of the answers."""
        return Labelled.of(self.frame.take(rows), self.grade[rows], self.means[rows], self.weight[rows])

    def sample(self, persona: str) -> Sample:
        """Return a persona's answers for ``ppi``."""
        rows = self.frame.persona.is_(persona)
        wrong = self.grade[rows] == INCORRECT
        graded = np.stack([wrong, wrong | (self.grade[rows] == CORRECT)], axis=1).astype(np.float64)
        return Sample(graded, self.means[rows], self.weight[rows], self.item[rows])

    def detection(self, persona: str) -> Detection:
        """Return how the grader finds a persona's incorrect answers, by the labels.

        Each label stands for as many answers as it was drawn for, scaled to as many as they are worth (Kish 1965).
        """
        rows = self.frame.persona.is_(persona)
        grade, (wrong, decided) = self.grade[rows], self.means[rows].T
        weight = self.weight[rows] * ((grade == CORRECT) | (grade == INCORRECT))
        if weight.any():
            weight = weight * weight.sum() / np.sum(weight**2)
        of_wrong, of_right = weight * wrong, weight * (decided - wrong)
        found, passed = of_wrong @ (grade == INCORRECT), of_right @ (grade == CORRECT)
        return Detection(float(found), float(of_wrong.sum()), float(passed), float(of_right.sum()))


def labelled_parts(frame: Frame, labels: Labels) -> dict[str, Labelled]:
    """Return the generated answers by grader: all rules together, then each judge. No other answers are labelled."""
    written = frame.chars >= 0
    part, means, weight = frame.take(written), labels.means[written], labels.weight[written]
    graders = {TOGETHER: part.grade, **part.judges}
    return {name: Labelled.of(part, grade, means, weight) for name, grade in graders.items()}


def labelled_tables(
    frame: Frame, labels: Labels | None, baseline: str, variants: tuple[str, ...], seed: int, draws: int
) -> dict[str, Rows]:
    """Return the tables of labels; none where nobody labelled anything."""
    if labels is None or not labels.weight.any():
        return {}
    return {
        "labelled_rates": labelled_rates(frame, labels, seed, draws),
        "labelled_differences": labelled_differences(frame, labels, baseline, variants, seed, draws),
    }


def labelled_rates(frame: Frame, labels: Labels, seed: int, draws: int) -> Rows:
    """Return the table ``labelled_rates``: each persona's error rate as graded, corrected, and prediction-powered."""
    rows: Rows = []
    for grader, part in labelled_parts(frame, labels).items():
        for group, chosen in error_groups(part.frame).items():
            for persona in frame.persona.names:
                mine = part.take(chosen & part.frame.persona.is_(persona))
                if not len(mine.frame):
                    continue
                sample = mine.sample(persona)
                size = 1 + int(sample.cluster.max())
                found = corrected_rate(*_counts(sample, size), mine.detection(persona), draws=draws, seed=seed)
                head: dict[str, Any] = {"grader": grader, "persona": persona, "group": group}
                head |= {"n": len(sample.weight), "labels": sample.labels}
                rows.append(head | _beside(graded_rate(sample), found, powered_rate(sample), 1))
    return rows


def labelled_differences(
    frame: Frame, labels: Labels, baseline: str, variants: tuple[str, ...], seed: int, draws: int
) -> Rows:
    """Return the table ``labelled_differences``: each variant's errors minus the baseline's, as ``labelled_rates``."""
    rows: Rows = []
    for grader, part in labelled_parts(frame, labels).items():
        for group, chosen in error_groups(part.frame).items():
            for variant in variants:
                both = part.take(chosen & (part.frame.persona.is_(baseline) | part.frame.persona.is_(variant)))
                first, second = both.sample(baseline), both.sample(variant)
                if not len(first.weight) or not len(second.weight):
                    continue
                size = 1 + int(both.item.max())
                (wrong, decided), (wrong_too, decided_too) = _counts(first, size), _counts(second, size)
                skills = (both.detection(baseline), both.detection(variant))
                found = corrected_difference((wrong, wrong_too), (decided, decided_too), skills, draws=draws, seed=seed)
                head: dict[str, Any] = {"grader": grader, "persona": variant, "against": baseline, "group": group}
                head |= {"n": len(both.frame), "labels": first.labels + second.labels}
                plain, powered = graded_difference(first, second), powered_difference(first, second)
                rows.append(head | _beside(plain, found, powered, 100))
    return rows


def labelled_errors(frame: Frame, labels: Labels | None) -> Rows:
    """Return further rows of the table ``judge_error``: a grader's errors by the labels of each persona's answers."""
    rows: Rows = []
    for grader, part in labelled_parts(frame, labels).items() if labels else ():
        for persona in frame.persona.names:
            done = part.frame.persona.is_(persona) & (part.weight > 0)
            if not done.any():
                continue
            found = part.detection(persona)
            unsure = done & (part.means[:, 1] > 0) & (part.grade != CORRECT) & (part.grade != INCORRECT)
            row: dict[str, Any] = {"judge": grader, "persona": persona, "labelled": "of this run"}
            row |= {"n": int(done.sum()), "sensitivity": found.sensitivity, "specificity": found.specificity}
            row |= {"incorrect": round(found.incorrect), "correct": round(found.correct)}
            rows.append(row | {"undecided": int(unsure.sum())})
    return rows


def labelled_notes(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each difference on plain questions: what people's labels make of it."""
    lines = []
    for row in rows:
        if (row["grader"], row["group"]) == (TOGETHER, ALL) and row.get("powered") is not None:
            told, plain = (
                f"{row[name]:+.1f} ({row[f'{name}_low']:+.1f} to {row[f'{name}_high']:+.1f})"
                for name in ("powered", "raw")
            )
            lines.append(
                f"Errors of {row['persona']} minus {row['against']}, by people's labels of {row['labels']} answers: "
                f"{told} points; by the grades alone {plain}."
            )
    return lines


def _counts(sample: Sample, size: int) -> tuple[Ints, Ints]:
    """Return how many incorrect and decided answers each question has, by the grader: ``[size]`` each."""
    wrong, decided = (np.bincount(sample.cluster, x, size).astype(np.int64) for x in sample.graded.T)
    return wrong, decided


def _beside(plain: Estimate | None, corrected: Corrected, powered: Estimate | None, unit: float) -> dict[str, Any]:
    """Return the three as a row has them: ``unit`` is 1 for shares, 100 for points."""
    found: dict[str, Any] = {}
    for name, estimate in (("raw", plain), ("powered", powered)):
        if estimate is not None:
            found[name] = unit * estimate.value
            found |= {f"{name}_low": unit * estimate.low, f"{name}_high": unit * estimate.high}
    found |= {"corrected": corrected.value, "corrected_low": corrected.low, "corrected_high": corrected.high}
    return found | ({"tuning": min(powered.tuning)} if powered is not None else {})
