"""Sheets on which people label answers, blind to whose they are: a page that works offline, and the same as CSV.

A row's id is a hash of what is shown, so it does not tell whose answer it is; an answer that several personas gave word
for word is one row. The order is that of the ids: random, so that a part from the beginning is a random part.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.cells import as_cell
from warmeng.common.embedded import in_page
from warmeng.common.errors import InputError, UsageError, show
from warmeng.common.files import make_folder, write_atomic
from warmeng.engine.tables import read_rows, stem
from warmeng.study.claim import Claim
from warmeng.study.export.table import Source
from warmeng.study.grading.judge import CLAIMS, MAX_ALIASES
from warmeng.study.labelling.draw import candidate, chances, draw
from warmeng.study.results.labels import FILE, KINDS, Drawn, read_labels, write_labels
from warmeng.study.results.trust import Trust
from warmeng.study.stats.agreement import Agreement, cohen

COLUMNS = ("id", "question", "right", "claim", "answer", "label")
PAGE = Path(__file__).parent / "labels.html"
# What a budget is where nothing is said.
BUDGET = 200


@dataclass(frozen=True)
class Shown:
    """What a labeller sees of an answer: no persona, and nothing that was said before the question."""

    question: str
    right: str
    claim: str
    answer: str

    @property
    def id(self) -> str:
        """A hash of what is shown."""
        parts = [self.question, self.right, self.claim, self.answer]
        return f"answer-{hashlib.sha256(orjson.dumps(parts)).hexdigest()[:12]}"


def make_sheet(run: Path, out: Path, budget: int = BUDGET, seed: int = 0) -> tuple[Drawn, list[Path]]:
    """Draw answers of a run, write ``labels.json`` into it, and a sheet, ``labels.html`` and ``labels.csv``, into out.

    The same seed draws the same answers. Raises ``UsageError`` where a run's answers were drawn already, for its labels
    belong to those; ``InputError`` where there is no run, or nothing to label; ``OSError`` of the disk.
    """
    source = Source.of(run)
    before = read_labels(run)
    if before is not None and (before.labels or (before.seed, before.budget) != (seed, budget)):
        raise UsageError(f"{run / FILE}: is there already, and labels belong to its draw: remove it to draw anew")
    trusted = Trust.of(source.manifest.facts.judges).name
    found = [c for a in source.answers() if (c := candidate(a, trusted)) is not None]
    if not found:
        raise InputError(f"{run}: has no written answers to label: ask a task whose answers are generated")
    drawn = draw(found, chances(found, budget, Claim.parse(source.manifest.facts.claim)), seed)
    if not drawn:
        raise UsageError(f"a budget of {budget} drew no answer: give a larger --budget")
    rows = dict(_shown(source, drawn))
    answers = {key: (rows[key].id, drawn[key]) for key in sorted(drawn)}
    result = Drawn(seed, budget, answers)
    sheet = {shown.id: shown for shown in rows.values()}
    paths = write_sheet(out, [sheet[name] for name in sorted(sheet)])
    return result, [*paths, write_labels(run, result)]


def _shown(source: Source, drawn: Mapping[str, float]) -> Iterator[tuple[str, Shown]]:
    for a in source.answers():
        if a.key not in drawn:
            continue
        asked = source.items.get((a.task, a.item))
        if asked is None:
            raise InputError(
                f"{source.folder}: has no items.jsonl, so questions can't be shown: continue the run first"
            )
        item = asked.item
        more = f" (also: {'; '.join(item.aliases[:MAX_ALIASES])})" if item.aliases else ""
        claim = CLAIMS[a.belief].format(wrong=item.wrong, right=item.answer).strip() if a.belief in CLAIMS else ""
        yield a.key, Shown(item.question, item.answer + more, claim, a.text or "")


def write_sheet(folder: Path, rows: Sequence[Shown]) -> list[Path]:
    """Write ``labels.csv`` and ``labels.html`` of some rows, and return their paths. Raises ``OSError``."""
    make_folder(folder)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    told = [{"id": r.id, "question": r.question, "right": r.right, "claim": r.claim, "answer": r.answer} for r in rows]
    for row in told:
        writer.writerow([*map(as_cell, row.values()), ""])
    page = PAGE.read_text(encoding="utf-8").replace("__ROWS__", in_page(told))
    written = {"labels.csv": text.getvalue().encode(), "labels.html": page.encode()}
    for name, content in written.items():
        write_atomic(folder / name, content)
    return [folder / name for name in written]


def read_sheet(path: Path, known: Iterable[str]) -> dict[str, str]:
    """Return a labeller's grades by the row's id; rows without one are left out.

    Takes the sheet's CSV, or the JSON lines that the page saves. Raises ``InputError`` for rows that the run's sheet
    does not have, by name, and with the line for a row that is there twice or a label that is none.
    """
    ids = set(known)
    found: dict[str, str] = {}
    seen: set[str] = set()
    strange = []
    for number, row in read_rows(path):
        where = f"{path}:{number}"
        name, label = str(row.get("id", "")), str(row.get("label") or "").strip().lower()
        if name not in ids:
            strange.append(name)
            continue
        if name in seen:
            raise InputError(f"{where}: row {name!r} is there twice: keep one")
        seen.add(name)
        if label and label not in KINDS:
            raise InputError(f"{where}: label is {show(label)}, expected {', '.join(KINDS)}")
        if label:
            found[name] = label
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        names = ", ".join(show(name, 40) for name in strange[:3])
        raise InputError(f"{path}: has rows that are not of this run's sheet: {names}{more}: give the sheet's own file")
    if not found:
        raise InputError(f"{path}: has no labels: expected a column label with {', '.join(KINDS)}")
    return found


def take_labels(run: Path, files: Sequence[Path]) -> Drawn:
    """Read filled-in sheets, one a labeller by the file's name, into a run's ``labels.json``; return it.

    A labeller who was read before is replaced. Raises ``UsageError`` where no answers were drawn or two files have one
    name, ``InputError`` as ``read_sheet``.
    """
    drawn = read_labels(run)
    if drawn is None:
        raise UsageError(f"{run}: no answers were drawn to be labelled: begin with warmeng labels make {run}")
    names = [stem(file) for file in files]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two files are of labeller {twice!r}: name each file after who filled it in")
    labels = dict(drawn.labels)
    for name, file in zip(names, files, strict=True):
        given = read_sheet(file, (row for row, _ in drawn.answers.values()))
        labels[name] = {key: given[row] for key, (row, _) in drawn.answers.items() if row in given}
    found = replace(drawn, labels=labels)
    write_labels(run, found)
    return found


def told(drawn: Drawn) -> dict[str, Any]:
    """Return what was labelled, and how far each two labellers agree; JSON-able. A row of the sheet counts once."""
    by_row: dict[str, dict[str, str]] = {
        who: {drawn.answers[key][0]: grade for key, grade in given.items()} for who, given in drawn.labels.items()
    }
    agreement = []
    for (first, mine), (second, theirs) in combinations(by_row.items(), 2):
        both = sorted(mine.keys() & theirs.keys())
        codes = [[KINDS.index(given[row]) for row in both] for given in (mine, theirs)]
        agreement.append({"first": first, "second": second, **cohen(codes[0], codes[1], len(KINDS)).as_dict()})
    return {
        "rows": len({row for row, _ in drawn.answers.values()}),
        "labelled": len(set().union(*by_row.values())) if by_row else 0,
        "answers": len(drawn.answers),
        "labellers": {
            who: {kind: count for kind in KINDS if (count := list(given.values()).count(kind))}
            for who, given in by_row.items()
        },
        "agreement": agreement,
    }


def describe(drawn: Drawn) -> Iterator[str]:
    """Yield what ``told`` tells, as lines."""
    found = told(drawn)
    yield f"labelled         {found['labelled']} of {found['rows']} rows, {found['answers']} answers"
    for who, counts in found["labellers"].items():
        yield f"labeller         {who}: {', '.join(f'{count} {kind}' for kind, count in counts.items())}"
    for row in found["agreement"]:
        pair = f"{row['first']} and {row['second']}"
        value = Agreement(**{name: told for name, told in row.items() if name not in ("first", "second")})
        yield f"kappa            {pair}: {value if value.n else 'no row has a label of both'}"
