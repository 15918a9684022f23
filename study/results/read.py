"""Reads a run folder into a frame: answers, judgments and what the manifest says of them, in bounded memory."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from warmeng.common.errors import InputError, UsageError, show
from warmeng.study.algebra import recipes_of
from warmeng.study.claim import Claim
from warmeng.study.contexts import UNMODIFIED
from warmeng.study.grading.grade import GRADES
from warmeng.study.grading.refusals import RULES, refusals
from warmeng.study.personas import BASELINE
from warmeng.study.results.answers import Answer, read_answers, read_verdicts
from warmeng.study.results.frame import WHICH, Factor, Frame
from warmeng.study.results.labels import Labels, aligned, read_labels
from warmeng.study.results.manifest import require_manifest
from warmeng.study.results.records import FILE
from warmeng.study.results.trust import Trust

COLUMNS = ("model", "persona", "task", "context", "belief", "framing", "item")
MISSING = "missing"
GRADE_CODE = {name: k for k, name in enumerate(GRADES)}
WHICH_CODE = {name: k for k, name in enumerate(WHICH)}


@dataclass(frozen=True)
class RunInfo:
    """What a frame's answers come from. ``statuses`` sum up to ``planned``.

    ``judges`` and ``exact_rule`` are the manifest's facts of them.

    ``reasons`` counts why answers have the grade that they have, ``judged`` the judgments of each judge. ``doses`` and
    ``manipulation`` are the manifest's, ``claim`` the primary one that it names.
    """

    planned: int
    statuses: Mapping[str, int]
    models: tuple[str, ...] = ()
    rule: str = "grades"  # the view that fits these answers
    judges: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    exact_rule: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    judged: Mapping[str, int] = field(default_factory=dict)
    doses: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    manipulation: Mapping[str, Any] = field(default_factory=dict)
    claim: Claim | None = None
    # By recipe: the personas that are its training seeds.
    recipes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    # How many answers are whole and how many were cut: see ``Answer.length``.
    lengths: Mapping[str, int] = field(default_factory=dict)
    # Grades by hand, by who gave them.
    overruled: Mapping[str, int] = field(default_factory=dict)
    # People's labels of the frame's answers, where some were drawn.
    labels: Labels | None = None


class Columns:
    """Grows a frame row by row: names become numbers at once, so that a million rows take some 60 bytes each."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, int]] = {name: {} for name in COLUMNS}
        self.codes = {name: array("i") for name in COLUMNS}
        self.sample, self.chars = array("i"), array("i")
        self.small = {name: array("b") for name in ("grade", "which", "binary", "exact")}
        self.judges: dict[str, array[int]] = {}
        self.refused = {name: array("b") for name in RULES}

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.sample)

    def add(self, names: Mapping[str, str], sample: int, chars: int, refused: Mapping[str, bool], **small: int) -> None:
        """Append a row: a name for each of ``COLUMNS``, refusals by rule, and the ``small`` columns."""
        for name in COLUMNS:
            table = self.tables[name]
            self.codes[name].append(table.setdefault(names[name], len(table)))
        self.sample.append(sample)
        self.chars.append(chars)
        for name, column in self.small.items():
            column.append(small[name])
        for name, column in self.refused.items():
            column.append(refused[name])

    def judge(self, name: str, row: int, grade: int) -> None:
        """Set a judge's grade of a row."""
        column = self.judges.setdefault(name, array("b"))
        column.extend([-1] * (len(self) - len(column)))
        column[row] = grade

    def frame(self, personas: Iterable[str] = (), judges: Iterable[str] = (), **others: Iterable[str]) -> Frame:
        """Return the rows; ``personas``, ``judges`` and other columns' names come in this order where they occur."""
        factors: dict[str, Any] = {
            name: Factor(tuple(self.tables[name]), np.array(self.codes[name], dtype=np.int32)) for name in COLUMNS
        }
        for name, first in {"persona": personas, **others}.items():
            factors[name] = reorder(factors[name], first)
        small: dict[str, Any] = {name: np.array(column, dtype=np.int8) for name, column in self.small.items()}
        for column in self.judges.values():
            column.extend([-1] * (len(self) - len(column)))
        names = dict.fromkeys((*(name for name in judges if name in self.judges), *self.judges))
        return Frame(
            **factors,
            sample=np.array(self.sample, dtype=np.int32),
            chars=np.array(self.chars, dtype=np.int32),
            **small,
            judges={name: np.array(self.judges[name], dtype=np.int8) for name in names},
            refused={name: np.array(column, dtype=bool) for name, column in self.refused.items()},
        )


def reorder(factor: Factor, first: Iterable[str]) -> Factor:
    """Return a factor whose names begin with those of ``first`` that it has."""
    names = tuple(dict.fromkeys((*(name for name in first if name in factor.names), *factor.names)))
    place = np.array([names.index(name) for name in factor.names], dtype=np.int32)
    return Factor(names, place[factor.codes] if len(place) else factor.codes)


def read_run(folder: Path) -> tuple[Frame, RunInfo]:
    """Return a run's answers and what its manifest says. Raises ``InputError`` for a folder that is not a whole run.

    A judgment counts in the final grade only where its judge is trusted: see ``trust.Trust``.
    """
    manifest = require_manifest(folder)
    path = folder / FILE
    model = Path(str(manifest.setting.get("model") or "model")).name
    columns = Columns()
    statuses: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    lengths: Counter[str] = Counter()
    overruled: Counter[str] = Counter()
    verdicts = read_verdicts(path)
    drawn = read_labels(folder)
    rows: dict[str, int] = {}
    for a in read_answers(path, verdicts, Trust.of(manifest.facts.judges)):
        if drawn is not None and a.key in drawn.answers:
            rows[a.key] = len(columns)
        _add(columns, a, model)
        statuses[a.status] += 1
        lengths[a.length] += 1
        overruled.update([a.overruled_by] if a.overruled_by else ())
        if a.reason:
            reasons[f"{a.grade}: {a.reason}"] += 1
    planned = manifest.planned
    if planned > len(columns):
        statuses[MISSING] = planned - len(columns)
    judges = manifest.facts.judges
    info = RunInfo(
        planned,
        dict(statuses),
        (model,),
        judges=judges,
        exact_rule=manifest.facts.exact_rule,
        reasons=dict(reasons.most_common()),
        judged=dict(Counter(v.judge for found in verdicts.values() for v in found)),
        doses=_doses(folder, manifest.facts.doses),
        manipulation=manifest.facts.manipulation,
        claim=Claim.parse(manifest.facts.claim),
        recipes=recipes_of(manifest.setting.get("personas") or ()),
        lengths=dict(lengths),
        overruled=dict(overruled),
        labels=None if drawn is None else aligned(drawn, rows, len(columns)),
    )
    return columns.frame(judges=list(judges), **orders(manifest.inputs)), info


def _doses(folder: Path, given: Any) -> dict[str, tuple[str, float]]:
    try:
        return {str(name): (str(family), float(dose)) for name, (family, dose) in given.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{folder}: the manifest's doses are {show(given)}: restore the file") from None


def _add(columns: Columns, a: Answer, model: str) -> None:
    names = {
        "model": model,
        "persona": a.persona,
        "task": a.task,
        "context": a.context,
        "belief": a.belief,
        "framing": a.framing,
        "item": f"{a.task}/{a.item}",
    }
    columns.add(
        names,
        a.sample,
        -1 if a.text is None else len(a.text),
        refusals(a.text) if a.text else dict.fromkeys(RULES, False),
        grade=GRADE_CODE[a.grade],
        which=WHICH_CODE[a.which],
        binary=a.binary,
        exact=GRADE_CODE[a.exact],
    )
    for verdict in a.verdicts:
        columns.judge(verdict.judge, len(columns) - 1, GRADE_CODE[verdict.grade])


def orders(inputs: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return ``personas`` and the names of tasks, contexts and beliefs in the order that a run's settings tell."""
    setting = inputs.get("setting") or {}
    known = (UNMODIFIED, *(inputs.get("statements") or ()))
    asked = setting.get("contexts") or ()  # names, groups or ``all``
    return {
        "personas": [str(name).partition("=")[0] for name in setting.get("personas") or ()],
        "task": list(inputs.get("items") or ()),
        "context": [c for name in asked for c in known if name in ("all", c) or c.startswith(f"{name}:")],
        "belief": list(setting.get("beliefs") or ()),
    }


def concat(parts: Sequence[tuple[Frame, RunInfo]]) -> tuple[Frame, RunInfo]:
    """Return several runs as one, as the paper pools its models; a model's personas may be in several of them.

    Raises ``UsageError`` where a model's persona comes twice.
    """
    frames = [frame for frame, _ in parts]
    if len(parts) == 1:
        return parts[0]
    models = list(dict.fromkeys(name for _, info in parts for name in info.models))
    given = Counter(pair for frame in frames for pair in _compared(frame))
    if twice := next((pair for pair, count in given.items() if count > 1), None):
        raise UsageError(f"persona {twice[1]!r} of model {twice[0]!r} comes twice: give each once")
    if len({info.rule for _, info in parts}) > 1:
        raise UsageError("runs and folders of the authors' files can't be pooled: their grades follow other rules")
    factors: dict[str, Any] = {name: joined([getattr(frame, name) for frame in frames]) for name in COLUMNS}
    factors["persona"] = reorder(factors["persona"], (BASELINE,))
    judges = dict.fromkeys(name for frame in frames for name in frame.judges)
    refused = [name for name in frames[0].refused if all(name in frame.refused for frame in frames)]
    names = ("sample", "grade", "which", "binary", "chars", "exact")
    plain: dict[str, Any] = {name: np.concatenate([getattr(frame, name) for frame in frames]) for name in names}
    none = [np.full(len(frame), -1, dtype=np.int8) for frame in frames]
    frame = Frame(
        **factors,
        **plain,
        judges={j: np.concatenate([f.judges.get(j, n) for f, n in zip(frames, none, strict=True)]) for j in judges},
        refused={name: np.concatenate([frame.refused[name] for frame in frames]) for name in refused},
    )
    infos = [info for _, info in parts]
    statuses = sum((Counter(info.statuses) for info in infos), Counter())
    notes = dict.fromkeys(note for info in infos for note in info.notes)
    if any(info.doses for info in infos):
        notes["Doses are left out: their families belong to a run, and this is a pool of several."] = None
    claims = {info.claim for info in infos}
    pooled = replace(infos[0], planned=sum(i.planned for i in infos), statuses=dict(statuses), models=tuple(models))
    # Calibrations, warmth and doses belong to a run: a pool of several has none.
    return frame, replace(
        pooled, notes=tuple(notes), judges={}, exact_rule={}, reasons={}, judged={}, doses={}, manipulation={},
        recipes={}, lengths={}, overruled={}, labels=None, claim=infos[0].claim if len(claims) == 1 else None,
    )  # fmt: skip


def _compared(frame: Frame) -> set[tuple[str, str]]:
    """Return each model with each of its personas."""
    codes = set(zip(frame.model.codes.tolist(), frame.persona.codes.tolist(), strict=True))
    return {(frame.model.names[model], frame.persona.names[persona]) for model, persona in codes}


def joined(factors: Sequence[Factor]) -> Factor:
    """Return several columns of names as one."""
    names = tuple(dict.fromkeys(name for factor in factors for name in factor.names))
    place = {name: k for k, name in enumerate(names)}

    def parts() -> Iterator[np.ndarray[Any, np.dtype[np.int32]]]:
        for factor in factors:
            table = np.array([place[name] for name in factor.names], dtype=np.int32)
            yield table[factor.codes] if len(table) else factor.codes

    return Factor(names, np.concatenate(list(parts())))
