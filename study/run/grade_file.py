"""Grading a file of answers with judges: rows, agreement with people's labels, and a summary where it is earned."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import orjson

from warmeng.common.errors import InputError, one_line
from warmeng.common.progress import Silent
from warmeng.engine.request import GenerateResult
from warmeng.remote.budget import Budget
from warmeng.remote.names import is_api
from warmeng.study.grading.exact import grade_answer
from warmeng.study.grading.grade import GRADES, Grade
from warmeng.study.grading.judge import Judged, judge_rows
from warmeng.study.grading.rows import LABELS, Row, read_rows, wordless
from warmeng.study.results.combine import DECIDED, combine
from warmeng.study.run.api import limits_of, open_model
from warmeng.study.run.calibrate import Calibration, calibrate, confusion_lines, measure, require_trust
from warmeng.study.run.models import AnyEngine, load_engine
from warmeng.study.settings import StudySettings
from warmeng.study.stats.agreement import cohen, kappa
from warmeng.study.stats.intervals import wilson
from warmeng.study.tasks.task import Grading


@dataclass(frozen=True)
class Wanted:
    """What to print beside the grades: ``labels`` is the column with people's grades, ``form`` text or jsonl."""

    labels: str | None = None
    table: bool = False
    form: str = "text"
    confusion: bool = False
    # The judge answers each question itself first.
    commits: bool = False


def exact_grade(row: Row) -> Grade | None:
    """Return the grade by the exact rules of a row, ``None`` where there is none: a judge alone grades it, or the file
    tells neither its grading nor a wrong answer to look for.
    """
    if not (row.grading or row.wrong.strip()) or row.grading == "judge":
        return None
    result = GenerateResult(row.where, "ok", "length" if row.cut else "stop", (), row.answer, (), 0, 0)
    return grade_answer(row.item, result, row.belief, cast(Grading, row.grading or "alias"))


def grade_file(settings: StudySettings, path: Path, wanted: Wanted, more: Sequence[str] = ()) -> Iterator[str]:
    """Yield lines to print: a line a row as it is graded, then agreement, errors and summary.

    The judge is the settings' model, ``more`` are further ones, each loaded after the one before it was freed. The
    whole file is checked before the first is loaded. Raises ``InputError`` for a file that is not sound and, after the
    rows, for a judge that is not to be trusted where a ``table`` asks for a summary.
    """
    count = sum(1 for _ in read_rows(path, wanted.labels))
    without = wordless(path)
    if not count:
        why = f": none of its {without} rows has the text of an answer" if without else ""
        raise InputError(f"{path}: has no rows to grade{why}")
    if without and wanted.form == "text":
        yield f"left out: {without} of {count + without} rows, which have no text (compared answers, failed requests)"
    elif without:
        yield orjson.dumps({"left_out": {"rows": without, "of": count + without, "why": "no text"}}).decode()
    codes: dict[str, list[int]] = {}
    for name in dict.fromkeys((settings.model, *more)):
        chosen = settings if name == settings.model else replace(settings, model=name, revision=None)
        if more and wanted.form == "text":
            yield f"judge {name}"
        codes[name] = []
        yield from _by_judge(chosen, path, wanted, count, codes[name])
        gc.collect()
    names = list(codes)
    for k, first in enumerate(names):
        for second in names[k + 1 :]:
            found = cohen(codes[first], codes[second], len(LABELS))
            if wanted.form == "text":
                yield f"{first} and {second} agree: {found}, unscored ones left out"
            else:
                yield orjson.dumps({"agreement": {"first": first, "second": second, **found.as_dict()}}).decode()


def _by_judge(settings: StudySettings, path: Path, wanted: Wanted, count: int, codes: list[int]) -> Iterator[str]:
    engine: AnyEngine
    if is_api(settings.model):
        engine = open_model(settings, Budget(limits_of(settings), {}), Silent())
    else:
        engine = load_engine(settings)
    text = wanted.form == "text"
    if text:
        yield (
            f"{'':12}{'grade':<11}{'exact':<11}"
            + "".join(f"{label:>11}" for label in LABELS)
            + f"{'mass':>8}  question"
        )
    grades: Counter[str] = Counter()
    labelled: list[Judged] = []
    exact: list[Grade | None] = []
    for number, judged in enumerate(judge_rows(engine, read_rows(path, wanted.labels), wanted.commits), start=1):
        mine = exact_grade(judged.row)
        yield _text(number, judged, mine) if text else _json(judged, mine)
        grades[judged.grade] += 1
        codes.append(GRADES.index(judged.grade))
        exact.append(mine)
        labelled.append(judged)
    if wanted.labels is None and not (wanted.table or wanted.confusion):
        return
    own = measure(labelled) if wanted.labels is not None else calibrate(engine, commits=wanted.commits)
    found = own.agreement
    if text:
        where = f"column {wanted.labels}" if wanted.labels else "the embedded labelled examples"
        yield f"{settings.model} against {where}: {found}"
    if wanted.labels is not None:
        yield from _exact_and_combined(labelled, exact, own.trusted, text)
    if wanted.confusion:
        yield from _confusion(own, text)
    if wanted.table:
        require_trust(settings.model, found)
        yield from _summary(grades, count, text)


def compare(judged: Sequence[Judged], exact: Sequence[Grade | None], trusted: bool) -> dict[str, list[int]]:
    """Return codes of ``GRADES`` by rule: people's ``label``, the ``exact`` rule, the ``judge``, and both ``combined``.

    The judge counts in the last one where it is trusted. -1 where a rule was not applied, or did not decide.
    """
    rules: dict[str, list[int]] = {"label": [], "exact": [], "judge": [], "combined": []}
    for j, mine in zip(judged, exact, strict=True):
        rules["label"].append(GRADES.index(j.row.label) if j.row.label is not None else -1)
        record = {"grade": mine.grade if mine else "unscored", "which": None, "reason": ""}
        other = {"grade": j.grade, "which": None, "reason": "", "shares": j.shares, "judge": "judge"}
        # The judge's, where it disputes the exact rule's.
        final = combine(record, other if trusted else None).grade
        rules["exact"].append(GRADES.index(mine.grade) if mine and mine.grade in DECIDED else -1)
        rules["judge"].append(GRADES.index(j.grade) if j.grade != "unscored" else -1)
        rules["combined"].append(GRADES.index(final) if trusted or final in DECIDED else -1)
    return rules


def _exact_and_combined(
    judged: Sequence[Judged], exact: Sequence[Grade | None], trusted: bool, text: bool
) -> Iterator[str]:
    if not any(exact):
        return
    rules = compare(judged, exact, trusted)
    for rule in ("exact", "combined"):
        found = cohen(rules["label"], rules[rule], len(GRADES))
        if not text:
            yield orjson.dumps({"rule": rule, "rows": len(judged), **found.as_dict()}).decode()
        elif found.n:
            same = f"{100 * (found.agreement or 0):.1f} % equal"
            beside = "" if trusted or rule == "exact" else " (the judge is not trusted: the exact rule alone)"
            yield f"{rule} grades against the labels: {same}, {found}; {len(judged) - found.n} undecided{beside}"
        else:
            yield f"{rule} grades against the labels: none is decided"


def _confusion(own: Calibration, text: bool) -> Iterator[str]:
    if not text:
        yield orjson.dumps({"calibration": own.as_dict()}).decode()
        return
    yield from confusion_lines(own.counts)
    yield f"{'persona':<16}{'n':>5}{'sensitivity':>28}{'specificity':>28}{'undecided':>11}{'kappa':>8}"
    tables = {"all": own.counts, **own.by_persona}
    for name, e in own.as_dict()["by_persona"].items():
        cells = "".join(f"{_interval(e, key):>28}" for key in ("sensitivity", "specificity"))
        value = kappa(tables[name])
        yield f"{name:<16}{e['n']:>5}{cells}{e['undecided']:>11}" + (f"{value.kappa:>8.2f}" if value.n else "")


def _interval(entry: dict[str, float | None], key: str) -> str:
    value, low, high = (entry[f"{key}{end}"] for end in ("", "_low", "_high"))
    if value is None or low is None or high is None:
        return "–"
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _summary(grades: Counter[str], count: int, text: bool) -> Iterator[str]:
    for name in GRADES:
        low, high = wilson(grades[name], count)
        share = f"{100 * grades[name] / count:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f}"
        if text:
            yield f"{name:<11} {share}, n = {grades[name]} of {count}"
        else:
            row = {"grade": name, "count": grades[name], "n": count, "low": low, "high": high}
            yield orjson.dumps({"summary": row}).decode()


def _text(number: int, judged: Judged, exact: Grade | None) -> str:
    cells = "".join(f"{judged.shares[label]:>11.3f}" if judged.shares else f"{'–':>11}" for label in LABELS)
    names = f"{judged.grade:<11}{exact.grade if exact else '–':<11}"
    return f"{number:<12}{names}{cells}{judged.mass:>8.3f}  {one_line(judged.row.question, 60)}"


def _json(judged: Judged, exact: Grade | None) -> str:
    row = {
        "row": judged.row.where,
        "grade": judged.grade,
        "exact": exact.grade if exact else None,
        "probabilities": judged.shares or None,
        "mass": judged.mass,
        "reason": judged.reason,
        "label": judged.row.label,
        "persona": judged.row.persona or None,
    }
    return orjson.dumps(row).decode()
