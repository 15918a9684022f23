"""``labels.json`` of a run folder: which answers people were to label, with which probability, and what they said.

The probabilities are what makes a few labelled answers stand for all of them, so they are kept with the labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from warmeng.common.errors import InputError
from warmeng.common.files import read_json, write_atomic
from warmeng.study.grading.grade import GRADES
from warmeng.study.results.frame import Small

FILE = "labels.json"
# What people may call an answer.
KINDS = GRADES[:4]
_FORMAT = 1
# Of a row without a label.
NO_LABEL = -1

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """The answers that people are to label: by an answer's key its id on the sheet and its probability of being drawn.

    ``labels``: each labeller's grades by the answer's key.
    """

    seed: int
    budget: int
    answers: Mapping[str, tuple[str, float]]
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Labels:
    """People's labels of a frame's answers: ``chance`` of being drawn, 0 where an answer was not, ``[n]``.

    ``grades``: by labeller the code of ``KINDS``, ``NO_LABEL`` where there is none, ``[n]`` each.
    """

    chance: Floats
    grades: Mapping[str, Small]

    @property
    def weight(self) -> Floats:
        """1 / the probability that somebody labelled an answer, 0 where nobody did, ``[n]``.

        The sheet's order is random, so where only a part of what was drawn is labelled, it is as if that part alone had
        been drawn.
        """
        done = np.zeros(len(self.chance), dtype=bool)
        for found in self.grades.values():
            done |= found != NO_LABEL
        done &= self.chance > 0
        if not done.any():
            return np.zeros(len(self.chance))
        share = done.sum() / (self.chance > 0).sum()
        weight = np.zeros(len(self.chance))
        weight[done] = 1 / (self.chance[done] * share)
        return weight

    @property
    def means(self) -> Floats:
        """The share of an answer's labellers who call it incorrect, and who call it correct or incorrect: ``[n, 2]``.

        0 where nobody did. Where people differ the share counts: nobody's word goes before another's.
        """
        given = np.zeros(len(self.chance))
        votes = np.zeros((len(self.chance), 2))
        for found in self.grades.values():
            given += found != NO_LABEL
            wrong = found == KINDS.index("incorrect")
            votes += np.stack([wrong, wrong | (found == KINDS.index("correct"))], axis=1)
        return votes / np.maximum(given, 1.0)[:, None]


def write_labels(folder: Path, drawn: Drawn) -> Path:
    """Write a run's labels atomically. Raises ``OSError``."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SORT_KEYS
    write_atomic(folder / FILE, orjson.dumps({"format": _FORMAT} | asdict(drawn), option=options))
    return folder / FILE


def read_labels(folder: Path) -> Drawn | None:
    """Return a run's labels, ``None`` where none were drawn. Raises ``InputError`` for a file that is not one."""
    path = folder / FILE
    if not path.exists():
        return None
    raw = read_json(path)
    try:
        if raw["format"] != _FORMAT:
            raise ValueError(f"format {raw['format']}")
        answers = {str(key): (str(name), _probability(p)) for key, (name, p) in raw["answers"].items()}
        labels = {str(who): {str(k): _grade(g) for k, g in given.items()} for who, given in raw["labels"].items()}
        if strange := next((k for given in labels.values() for k in given if k not in answers), None):
            raise ValueError(f"a label of {strange}, which was not drawn")
        return Drawn(int(raw["seed"]), int(raw["budget"]), answers, labels)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: is not what `warmeng labels` writes ({error}): restore the file") from None


def _probability(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(f"probability {value!r}")
    return float(value)


def _grade(value: Any) -> str:
    if value not in KINDS:
        raise ValueError(f"grade {value!r}")
    return str(value)


def aligned(drawn: Drawn, rows: Mapping[str, int], size: int) -> Labels:
    """Return the labels of a frame of so many rows, by the row of each answer's key.

    Raises ``InputError`` for labels of an answer that the run does not have.
    """
    if lost := next((key for key in drawn.answers if key not in rows), None):
        raise InputError(f"{FILE}: has answer {lost}, which the run does not have: restore the file, or draw anew")
    chance = np.zeros(size)
    for key, (_, probability) in drawn.answers.items():
        chance[rows[key]] = probability
    grades = {}
    for who, given in drawn.labels.items():
        codes = np.full(size, NO_LABEL, dtype=np.int8)
        for key, grade in given.items():
            codes[rows[key]] = KINDS.index(grade)
        grades[who] = codes
    return Labels(chance, grades)
