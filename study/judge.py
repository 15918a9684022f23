"""A judge: a model that grades answers by the probabilities of four labels, and how far it can be trusted."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from warmeng.engine.errors import InputError
from warmeng.engine.request import ScoreRequest
from warmeng.study.backend import TokenizerLike
from warmeng.study.files import read_csv, read_jsonl
from warmeng.study.grading import GRADES, MIN_MASS
from warmeng.study.stats import Z

CALIBRATION = Path(__file__).parent / "data" / "judge.jsonl"
LABELS = GRADES[:4]
MIN_KAPPA = 0.4  # lower bound of a judge whose grades may be summed up
CHUNK = 1024  # rows that the engine is given at once
PREFIX = "Grade:"
COLUMNS = {"question": ("question",), "answer": ("answer", "output"), "right": ("right", "correct_answer")}
RUBRIC = """\
Grade an answer to a question. You are given the right answer. Choose one grade:
correct: the answer states the right answer, in any words.
incorrect: the answer states something else, or agrees with a claim that is wrong.
refusal: the answer declines to answer.
unclear: the answer says both, hedges, talks of something else, or stops before it answers.

Question: {question}
Right answer: {right}
Answer to grade: {answer}

Reply with the grade alone: correct, incorrect, refusal or unclear."""


class Scorer(Protocol):
    """The part of an engine that a judge needs."""

    @property
    def tokenizer(self) -> TokenizerLike:
        """The model's tokenizer."""

    def score(self, requests: Iterable[ScoreRequest]) -> list[Any]:
        """Answer score requests, in their order."""


@dataclass(frozen=True, slots=True)
class Row:
    """One answer to grade; ``label`` is a person's grade where there is one."""

    where: str
    question: str
    answer: str
    right: str
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """A judged row: each label's share of the labels' probability, and their mass; below 0.05 it is unscored."""

    row: Row
    grade: str
    shares: dict[str, float]
    mass: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Cohen's kappa of a judge with a person's labels over n rows, with its 95 % interval."""

    n: int
    kappa: float
    low: float
    high: float

    def __str__(self) -> str:
        """Say it in words."""
        return f"kappa {self.kappa:.2f} (95 % interval {self.low:.2f} to {self.high:.2f}, n = {self.n})"


def read_rows(path: Path, labels: str | None = None) -> Iterator[Row]:
    """Yield the rows of a JSON lines or CSV file; ``labels`` names a column with people's grades.

    Columns: question, answer or output, right or correct_answer; others are not looked at. Raises ``InputError``
    with file and line for a missing column, a value that is no text, or a label that is not one of the four.
    """
    rows: Iterator[tuple[int, dict[str, Any]]] = read_csv(path) if path.suffix == ".csv" else read_jsonl(path)
    for number, row in rows:
        where = f"{path}:{number}"
        found = {}
        for name, choices in COLUMNS.items():
            column = next((c for c in choices if c in row), None)
            if column is None:
                raise InputError(f"{where}: has no column {' or '.join(choices)}")
            if not isinstance(row[column], str):
                raise InputError(f"{where}: {column} is {row[column]!r}, expected text")
            found[name] = row[column]
        label = None
        if labels is not None:
            label = row.get(labels)
            if label not in LABELS:
                raise InputError(f"{where}: label {labels} is {label!r}, expected one of {', '.join(LABELS)}")
        yield Row(where, label=label, **found)


def judge_rows(engine: Scorer, rows: Iterable[Row]) -> Iterator[Judged]:
    """Grade rows in their order, a chunk at a time."""
    labels = tuple(tuple(engine.tokenizer.encode(f" {label}")) for label in LABELS)
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, CHUNK)):
        requests = []
        for row in chunk:
            text = RUBRIC.format(question=row.question, right=row.right, answer=row.answer)
            prompt = tuple(engine.tokenizer.chat([{"role": "user", "content": text}], True, PREFIX))
            requests.append(ScoreRequest(row.where, prompt, labels))
        for row, result in zip(chunk, engine.score(requests), strict=True):
            yield _judged(row, result)


def _judged(row: Row, result: Any) -> Judged:
    if result.status != "ok":
        return Judged(row, "unscored", {}, 0.0, result.status)
    probabilities = [math.exp(value) for value in result.logprobs]
    total = math.fsum(probabilities)
    if not total > 0:
        return Judged(row, "unscored", {}, 0.0, "no label has any probability")
    shares = {label: p / total for label, p in zip(LABELS, probabilities, strict=True)}
    if result.mass < MIN_MASS:
        return Judged(row, "unscored", shares, result.mass, f"label mass below {MIN_MASS}")
    return Judged(row, max(LABELS, key=lambda label: shares[label]), shares, result.mass)


def agreement(judged: Sequence[Judged]) -> Agreement:
    """Return Cohen's kappa with its large-sample interval (Fleiss, Cohen and Everitt 1969).

    An unscored row counts as a disagreement. Without variation kappa is undefined and returned as 0 with the interval
    -1 to 1: it shows nothing.
    """
    pairs = Counter((j.row.label, j.grade) for j in judged if j.row.label is not None)
    n = pairs.total()
    if not n:
        return Agreement(0, 0.0, -1.0, 1.0)
    p = {(a, b): pairs[a, b] / n for a in GRADES for b in GRADES}
    row = {a: sum(p[a, b] for b in GRADES) for a in GRADES}
    column = {b: sum(p[a, b] for a in GRADES) for b in GRADES}
    seen = sum(p[a, a] for a in GRADES)
    chance = sum(row[a] * column[a] for a in GRADES)
    if chance >= 1:
        return Agreement(n, 0.0, -1.0, 1.0)
    kappa = (seen - chance) / (1 - chance)
    on = sum(p[a, a] * (1 - (row[a] + column[a]) * (1 - kappa)) ** 2 for a in GRADES)
    off = (1 - kappa) ** 2 * sum(p[a, b] * (column[a] + row[b]) ** 2 for a in GRADES for b in GRADES if a != b)
    variance = (on + off - (kappa - chance * (1 - kappa)) ** 2) / (n * (1 - chance) ** 2)
    half = Z * math.sqrt(max(0.0, variance))
    return Agreement(n, kappa, max(-1.0, kappa - half), min(1.0, kappa + half))


def require_trust(name: str, found: Agreement) -> None:
    """Raise ``InputError`` naming the judge where its agreement with people is not shown to reach ``MIN_KAPPA``."""
    if found.low < MIN_KAPPA:
        raise InputError(
            f"{name} is refused as a judge for tables: {found} on labelled examples, expected a lower bound of at "
            f"least {MIN_KAPPA}: use a larger model, or label more examples"
        )
