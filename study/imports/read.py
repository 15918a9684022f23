"""Sources of answers that are no runs of ours, told apart by what they hold, as one frame."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from warmeng.common.errors import InputError, UsageError, name_some, one_line, show
from warmeng.common.files import opened, read_json, reading
from warmeng.study.contexts import UNMODIFIED
from warmeng.study.grading.grade import GRADES
from warmeng.study.grading.refusals import RULES, refusals
from warmeng.study.imports.inspect_ai import read_inspect
from warmeng.study.imports.lm_eval import PREFIX, is_sample, read_lm_eval
from warmeng.study.imports.mapping import FileMapping, Mappings
from warmeng.study.imports.promptfoo import read_promptfoo
from warmeng.study.imports.rows import NAMES, Log, Row
from warmeng.study.imports.tables import read_table
from warmeng.study.personas import BASELINE
from warmeng.study.prompts import BELIEFS
from warmeng.study.results.authors import ENDING
from warmeng.study.results.combine import combine
from warmeng.study.results.frame import WHICH, Frame
from warmeng.study.results.read import GRADE_CODE, MISSING, WHICH_CODE, Columns, RunInfo, reorder
from warmeng.study.tasks.task import is_disinformation

# Of a JSON file, which has to be in memory as a whole.
MAX_JSON = 2**29
SUFFIXES = (".eval", ".json", ".jsonl", ".csv")
DEFAULTS = {"context": UNMODIFIED, "belief": "none", "framing": "plain", "which": None, "text": None}
# How a log of Inspect begins.
_INSPECT = re.compile(rb'\s*\{\s*"version"\s*:\s*\d+\s*,\s*"status"\s*:')
# Names longer than this are no names.
MAX_NAME = 4096


def files_of(source: Path, mapped: bool = False) -> list[Path]:
    """Return the files of a source that are read here: none where it is the authors'. Raises ``InputError``.

    A folder is searched for Inspect's logs and the harness's samples; a CSV file in the authors' columns is ours only
    where a mapping says what its columns mean.
    """
    if source.is_file():
        if source.suffix not in SUFFIXES:
            raise InputError(f"{source}: is named as no file that is understood, expected one of {', '.join(SUFFIXES)}")
        return [source] if mapped or not source.name.endswith(ENDING) else []
    samples = sorted(source.rglob(f"{PREFIX}*.jsonl"))
    return samples or sorted(source.rglob("*.eval"))


def read_imports(files: Sequence[Path], mappings: Mappings | None = None) -> tuple[Frame, RunInfo]:
    """Return the answers of all files together. Raises ``InputError`` for a file that is damaged or not understood, for
    an answer that is there twice, and where two personas have no question in common.
    """
    mappings = mappings or Mappings()
    gathered = _Gathered()
    for path in files:
        mapping = mappings.of(path)
        log = read_log(path, mapping)
        gathered.read(log, mapping)
    return gathered.frame()


def read_log(path: Path, mapping: FileMapping) -> Log:
    """Return the answers of one file."""
    if path.suffix == ".eval":
        return read_inspect(path)
    if path.suffix == ".jsonl":
        with reading(path), opened(path) as file:
            first = file.readline()
        return read_lm_eval(path, bool(mapping.where)) if is_sample(first) else read_table(path)
    if path.suffix == ".csv":
        return read_table(path)
    with reading(path), opened(path) as file:
        # Inspect's own reader may take what is no strict JSON, such as NaN.
        if _INSPECT.match(file.read(1024)):
            return read_inspect(path)
    data = read_json(path, MAX_JSON)
    if isinstance(data.get("results"), dict) and "results" in data["results"]:
        return read_promptfoo(path, data)
    raise InputError(f"{path}: is neither a log of Inspect nor results of promptfoo: it has {name_some(data)}")


class _Gathered:
    """Grows one frame from many files."""

    def __init__(self) -> None:
        self._columns = Columns()
        self._statuses: Counter[str] = Counter()
        self._planned = 0
        self._notes: dict[str, None] = {}
        self._orders: dict[str, Sequence[str]] = {}
        # What was read, by hash: a place with its sample.
        self._seen: dict[int, int] = {}
        self._files: list[str] = []
        # Where each answer stood among all, where the files tell it.
        self._places = array("q")

    def read(self, log: Log, mapping: FileMapping) -> None:
        """Add a file's answers."""
        samples: Counter[tuple[str, ...]] = Counter()
        before = len(self._columns)
        self._files.append("")
        for row in log.rows:
            if mapping.keeps(row):
                self._add(row, {**DEFAULTS, **mapping.apply(row)}, samples)
        count = len(self._columns) - before
        missing = max(0, (log.planned or 0) - count) if not mapping.where else 0
        self._planned += count + missing
        if missing:
            self._statuses[MISSING] += missing
        self._notes |= dict.fromkeys(
            [
                f"Some answers come from other software's files ({log.kind}), with the grades that they have there.",
                *log.notes,
            ]
        )
        self._orders = {**log.orders, **self._orders}

    def _add(self, row: Row, found: dict[str, Any], samples: Counter[tuple[str, ...]]) -> None:
        names = {name: _name(row, name, found.get(name)) for name in NAMES}
        if names["belief"] not in BELIEFS:
            raise InputError(f"{row.where}: the belief is {show(names['belief'])}, expected {', '.join(BELIEFS)}")
        task, item = names["task"], names["item"]
        names["item"] = f"{task}/{item}"
        unit = tuple(names.values())
        sample = samples[unit] if found.get("sample") is None else _whole(row, "sample", found["sample"])
        samples[unit] += 1
        self._files[-1] = self._files[-1] or row.where
        key = hash((unit, sample))
        if key in self._seen:
            raise InputError(
                f"{row.where}: sample {sample} of {one_line(item, 80)} by {names['persona']} was read before, from a "
                f"file that begins at {self._files[self._seen[key]]}: give each once, or tell them apart in --mapping"
            )
        self._seen[key] = len(self._files) - 1
        text = found["text"]
        if text is not None and not isinstance(text, str):
            raise InputError(f"{row.where}: the text is {show(text)}, expected text: name another column in --mapping")
        which = found["which"] or ""
        if which not in WHICH:
            raise InputError(
                f"{row.where}: which is {show(which)}, expected {' or '.join(filter(None, WHICH))}, or nothing"
            )
        grade, exact = found["grade"], found.get("exact") or None
        if exact is not None and exact not in GRADES:
            raise InputError(f"{row.where}: exact is {show(exact)}, expected {', '.join(GRADES)}")
        binary = combine({"grade": grade}, None, is_disinformation(task)).binary
        if found.get("binary") is not None:
            binary = _whole(row, "binary", found["binary"], -1)
        self._columns.add(
            names,
            sample,
            -1 if text is None else len(text),
            refusals(text) if text else dict.fromkeys(RULES, False),
            grade=GRADE_CODE[grade],
            which=WHICH_CODE[which],
            binary=binary,
            exact=-1 if exact is None else GRADE_CODE[exact],
        )
        for judge, verdict in (found.get("judged") or {}).items():
            if verdict not in GRADES:
                raise InputError(
                    f"{row.where}: judge {one_line(judge)} says {show(verdict)}, expected {', '.join(GRADES)}"
                )
            self._columns.judge(judge, len(self._columns) - 1, GRADE_CODE[verdict])
        if isinstance(found.get("place"), int):
            self._places.append(found["place"])
        self._statuses[str(found.get("status") or "ok")] += 1

    def frame(self) -> tuple[Frame, RunInfo]:
        """Return the answers; names come in the order that a file knows, the baseline first where none does."""
        orders = dict(self._orders)
        frame = self._columns.frame(orders.pop("persona", (BASELINE,)), **orders)
        if len(self._places) == len(frame):
            frame = frame.take(np.argsort(np.array(self._places), kind="stable"))
            named = dict.fromkeys(frame.item.names[code] for code in frame.item.codes)
            frame = replace(frame, item=reorder(frame.item, named))
        _refuse_apart(frame)
        statuses = dict(self._statuses)
        return frame, RunInfo(self._planned, statuses, frame.model.names, notes=tuple(self._notes))


def _refuse_apart(frame: Frame) -> None:
    """Raise ``UsageError`` where personas of one task have no question in common: nothing could be paired."""
    by_task: dict[int, dict[int, set[int]]] = {}
    for task, persona, item in set(
        zip(*(f.codes.tolist() for f in (frame.task, frame.persona, frame.item)), strict=True)
    ):
        by_task.setdefault(task, {}).setdefault(persona, set()).add(item)
    for task, personas in by_task.items():
        first, *others = personas
        for other in others:
            if not personas[first] & personas[other]:
                names = [frame.persona.names[code] for code in (first, other)]
                raise UsageError(
                    f"{' and '.join(names)} have no question of {frame.task.names[task]} in common: say in --mapping "
                    "what a question is known by (item)"
                )


def _name(row: Row, name: str, value: Any) -> str:
    if value is None or isinstance(value, dict | list) or not (text := str(value)) or len(text) > MAX_NAME:
        got = "nothing" if value is None or value == "" else show(value)
        raise InputError(f"{row.where}: the {name} is {got}, expected a name: say in --mapping which column it is")
    return text


def _whole(row: Row, name: str, value: Any, least: int = 0) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = least - 1
    if not least <= number < 2**31 or (isinstance(value, float) and value != number):
        raise InputError(f"{row.where}: {name} is {show(value)}, expected a whole number from {least}")
    return number
