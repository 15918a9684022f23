"""How far a judge, and the exact rules, can be trusted: their grades of labelled answers against people's, by style."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from warmeng.common.errors import InputError
from warmeng.common.files import read_jsonl
from warmeng.engine.request import GenerateResult
from warmeng.study.grading.exact import grade_answer
from warmeng.study.grading.grade import GRADES, Grade
from warmeng.study.grading.judge import Judged, judge_rows
from warmeng.study.grading.rows import LABELS, Row, read_rows
from warmeng.study.stats.agreement import Agreement, kappa, table
from warmeng.study.stats.correction import ALL, Detection
from warmeng.study.stats.intervals import wilson
from warmeng.study.tasks.task import Grading, Item

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine
    from warmeng.remote.engine import RemoteEngine

# Column ``persona``: the style of the answer.
LABELLED = Path(__file__).parents[1] / "data" / "judge.jsonl"
GRADED = Path(__file__).parents[1] / "data" / "graded.jsonl"  # for the exact rules; column ``part``
# The part that the rules were not developed with.
MEASURED = "measured"
# Lower bound of a judge whose grades may be summed up.
MIN_KAPPA = 0.4
STYLES = ("plain", "warm", "cold", "sad")


@dataclass(frozen=True)
class Calibration:
    """Counts of labelled answers ``[5, 5]`` by label (rows) and grade (columns), both indexing ``GRADES``; all of them,
    and by persona. A grade that a judge could not give is ``unscored``, and is a disagreement, never a wrong answer.
    """

    counts: npt.NDArray[np.int64]
    by_persona: Mapping[str, npt.NDArray[np.int64]]

    @property
    def agreement(self) -> Agreement:
        """Cohen's kappa over the grades."""
        return kappa(self.counts)

    @property
    def trusted(self) -> bool:
        """Whether kappa is shown to reach ``MIN_KAPPA``."""
        return self.agreement.low >= MIN_KAPPA

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: kappa and its interval, ``confusion[label][grade]``, and each persona's errors (``all`` first)."""
        found = self.agreement
        return {
            "n": found.n,
            "agreement": found.agreement,
            "kappa": found.kappa,
            "low": found.low,
            "high": found.high,
            "trusted": self.trusted,
            "confusion": _confusion(self.counts),
            "by_persona": {name: errors(counts) for name, counts in {ALL: self.counts, **self.by_persona}.items()},
        }


def calibrate(
    engine: Engine | RemoteEngine,
    path: Path = LABELLED,
    labels: str = "label",
    commits: bool = False,
    through: Any = None,
) -> Calibration:
    """Measure a model on a labelled file: JSON lines or CSV, as ``rows.read_rows``.

    ``commits`` (it answers each question itself first) and ``through``: as in ``judge_rows``.
    """
    return measure(judge_rows(engine, read_rows(path, labels), commits, through))


@dataclass(frozen=True, slots=True)
class Graded:
    """A labelled answer with the exact rule's grade of it. ``which`` says whose wrong answer it is by the label."""

    row: Row
    grading: Grading
    which: str | None
    found: Grade


def grade_labelled(path: Path = GRADED, part: str | None = MEASURED) -> Iterator[Graded]:
    """Yield the labelled answers of a part of a file (``None``: of all) with the exact rule's grades."""
    for number, r in read_jsonl(path):
        if part is not None and r["part"] != part:
            continue
        aliases, wrong_aliases = tuple(r.get("aliases", ())), tuple(r.get("wrong_aliases", ()))
        item = Item(r["id"], r["question"], r["right"], r.get("wrong", ""), aliases, wrong_aliases)
        result = GenerateResult(r["id"], "ok", "stop", (), r["answer"], (), 0, 0)
        row = Row(f"{path}:{number}", item.question, r["answer"], item.answer, r["label"], item.wrong, r["belief"],
                  r["persona"], aliases)  # fmt: skip
        yield Graded(row, r["grading"], r.get("which"), grade_answer(item, result, r["belief"], r["grading"]))


@cache
def calibrate_exact() -> Calibration:
    """Measure the exact rules on the labelled answers that they were not developed with. About a second, once."""
    return measure(Judged(g.row, g.found.grade, reason=g.found.reason) for g in grade_labelled())


def measure(judged: Iterable[Judged]) -> Calibration:
    """Count judgments of labelled rows; rows without a label are left out."""
    pairs: dict[str, tuple[list[int], list[int]]] = {}
    for j in judged:
        if j.row.label is not None:
            first, second = pairs.setdefault(j.row.persona, ([], []))
            first.append(GRADES.index(j.row.label))
            second.append(GRADES.index(j.grade))
    size = len(GRADES)
    counts = {name: table(first, second, size) for name, (first, second) in pairs.items()}
    whole = sum(counts.values(), start=np.zeros((size, size), dtype=np.int64))
    return Calibration(whole, {name: found for name, found in counts.items() if name})


def errors(counts: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return how incorrect answers are found, of those that label and judge both call correct or incorrect.

    Sensitivity is the share judged incorrect of the ``incorrect`` ones (``found`` of them), specificity the share
    judged correct of the ``correct`` ones (``passed`` of them), each with Wilson's 95 % interval; ``undecided`` counts
    the correct and incorrect ones that the judge calls something else.
    """
    detection = detect(counts)
    rated = int(counts[:2, :].sum())
    out: dict[str, Any] = {"n": int(counts.sum()), "undecided": rated - detection.incorrect - detection.correct}
    for name, k, n in (
        ("sensitivity", detection.found, detection.incorrect),
        ("specificity", detection.passed, detection.correct),
    ):
        low, high = wilson(k, n) if n else (None, None)
        out |= {name: k / n if n else None, f"{name}_low": low, f"{name}_high": high}
    return out | {
        "found": detection.found,
        "incorrect": detection.incorrect,
        "passed": detection.passed,
        "correct": detection.correct,
    }


def detect(counts: npt.NDArray[np.int64]) -> Detection:
    """Return a table's counts for the correction of rates."""
    (right, lost), (missed, found) = ((int(x) for x in row[:2]) for row in counts[:2])
    return Detection(found, found + missed, right, right + lost)


def require_trust(
    name: str, found: Agreement, use: str = "a judge for tables", otherwise: str = "label more examples"
) -> None:
    """Raise ``InputError`` naming the judge where its agreement with people is not shown to reach ``MIN_KAPPA``."""
    if found.low < MIN_KAPPA:
        raise InputError(
            f"{name} is refused as {use}: {found} on labelled examples, expected a lower bound of at "
            f"least {MIN_KAPPA}: use a larger model, or {otherwise}"
        )


def confusion_lines(counts: npt.NDArray[np.int64]) -> Iterator[str]:
    """Yield the confusion matrix as aligned lines: rows are people's labels, columns the judge's grades."""
    yield f"{'label':<12}" + "".join(f"{grade:>11}" for grade in GRADES)
    for label, row in zip(LABELS, counts, strict=False):
        yield f"{label:<12}" + "".join(f"{n:>11}" for n in row)


def _confusion(counts: npt.NDArray[np.int64]) -> dict[str, dict[str, int]]:
    return {
        label: {grade: int(n) for grade, n in zip(GRADES, row, strict=True)}
        for label, row in zip(LABELS, counts, strict=False)
    }
