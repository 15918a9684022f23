"""Grading a file of answers with a judge: rows, agreement with people's labels, and a summary where it is earned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson

from warmeng.engine.errors import InputError, one_line
from warmeng.study.grading import GRADES
from warmeng.study.judge import CALIBRATION, LABELS, Judged, agreement, judge_rows, read_rows, require_trust
from warmeng.study.run import load_engine
from warmeng.study.settings import StudySettings
from warmeng.study.stats import wilson


def grade_file(settings: StudySettings, path: Path, labels: str | None, table: bool, form: str) -> Iterator[str]:
    """Yield lines to print: a line a row as it is graded (``form`` text or jsonl), then agreement and summary.

    The whole file is checked before the model is loaded. Raises ``InputError`` for a file that is not sound and,
    after the rows, for a judge that is not to be trusted where ``table`` asks for a summary.
    """
    count = sum(1 for _ in read_rows(path, labels))
    if not count:
        raise InputError(f"{path}: has no rows to grade")
    engine = load_engine(settings)
    if form == "text":
        yield f"{'':12}{'grade':<11}" + "".join(f"{label:>11}" for label in LABELS) + f"{'mass':>8}  question"
    grades: Counter[str] = Counter()
    labelled: list[Judged] = []
    for number, judged in enumerate(judge_rows(engine, read_rows(path, labels)), start=1):
        yield _text(number, judged) if form == "text" else _json(judged)
        grades[judged.grade] += 1
        if labels is not None:
            labelled.append(judged)
    if labels is None and not table:
        return
    if labels is None:
        labelled = list(judge_rows(engine, read_rows(CALIBRATION, "label")))
    found = agreement(labelled)
    if form == "text":
        where = f"column {labels}" if labels else "the embedded labelled examples"
        yield f"{settings.model} against {where}: {found}"
    if table:
        require_trust(settings.model, found)
        for name in GRADES:
            low, high = wilson(grades[name], count)
            share = f"{100 * grades[name] / count:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f}"
            if form == "text":
                yield f"{name:<11} {share}, n = {grades[name]} of {count}"
            else:
                row = {"grade": name, "count": grades[name], "n": count, "low": low, "high": high}
                yield orjson.dumps({"summary": row}).decode()


def _text(number: int, judged: Judged) -> str:
    cells = "".join(f"{judged.shares[label]:>11.3f}" if judged.shares else f"{'–':>11}" for label in LABELS)
    return f"{number:<12}{judged.grade:<11}{cells}{judged.mass:>8.3f}  {one_line(judged.row.question, 60)}"


def _json(judged: Judged) -> str:
    row = {
        "row": judged.row.where,
        "grade": judged.grade,
        "probabilities": judged.shares,
        "mass": judged.mass,
        "reason": judged.reason,
        "label": judged.row.label,
    }
    return orjson.dumps(row).decode()
