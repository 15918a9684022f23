"""The answers that the report page carries: chosen, put into columns, compressed.

A *comparison* is one question in one context, belief, framing and sample over all personas: it is kept or left out as a
whole, so that every answer can be read beside the baseline's.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from warmeng.study.personas import baseline_of
from warmeng.study.report.figure_data import BELIEFS, CONTEXTS
from warmeng.study.results.answers import Answer, read_answers, read_verdicts
from warmeng.study.results.items import Asked
from warmeng.study.results.trust import Trust, Verdict

MOST_RECORDS = 20_000  # answers that a page carries
MOST_BYTES = 30_000_000  # of their text, before compression
# Of a sample's places that flipped comparisons may take.
FLIP_SHARE = 0.75

# Task, item, context, belief, framing, sample.
Place = tuple[str, str, str, str, str, int]


@dataclass
class Comparison:
    """One place over the personas: their grades, and the bytes that their texts take."""

    grades: dict[str, str] = field(default_factory=dict)
    size: int = 0


@dataclass(frozen=True)
class Survey:
    """What one reading of the records tells without keeping their texts."""

    places: Mapping[Place, Comparison]
    grades: Mapping[str, int]
    statuses: Mapping[str, int]
    items: Mapping[str, int]  # questions by task
    judged: Mapping[str, int]  # grades given by judge
    verdicts: Mapping[bytes, tuple[Verdict, ...]]
    samples: int
    disputed: Mapping[str, int] = field(
        default_factory=dict
        # Answers that a trusted judge grades otherwise, by persona.
    )
    # By ``Answer.length``.
    lengths: Mapping[str, int] = field(default_factory=dict)
    # Grades by hand, by who gave them.
    overruled: Mapping[str, int] = field(default_factory=dict)
    # Scores that give margins and no answer.
    beside: int = 0

    @property
    def answers(self) -> int:
        """All answers."""
        return sum(self.grades.values())


def survey(path: Path, trust: Trust) -> Survey:
    """Read all records of a file once for the judges and once for the answers."""
    verdicts = read_verdicts(path)
    judged = Counter(v.judge for found in verdicts.values() for v in found)
    places: dict[Place, Comparison] = {}
    grades: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    items: dict[str, set[str]] = {}
    most = 0
    disputed: Counter[str] = Counter()
    lengths: Counter[str] = Counter()
    overruled: Counter[str] = Counter()
    for a in read_answers(path, verdicts, trust):
        disputed[a.persona] += a.disputed
        found = places.setdefault(place_of(a), Comparison())
        found.grades[a.persona] = a.grade
        found.size += len(a.text.encode()) if a.text else 60
        grades[a.grade] += 1
        statuses[a.status] += 1
        lengths[a.length] += 1
        overruled.update([a.overruled_by] if a.overruled_by else ())
        items.setdefault(a.task, set()).add(a.item)
        most = max(most, a.sample + 1)
    counted = {task: len(found_) for task, found_ in items.items()}
    return Survey(places, grades, statuses, counted, judged, verdicts, most, +disputed, lengths, overruled)


def place_of(answer: Answer) -> Place:
    """Return the comparison that an answer belongs to."""
    return (answer.task, answer.item, answer.context, answer.belief, answer.framing, answer.sample)


def flipped(grades: Mapping[str, str], baseline: str) -> bool:
    """Whether a persona is right where the baseline is not, or the reverse; unscored answers say nothing."""
    mine = grades.get(baseline, "unscored")
    if mine == "unscored":
        return False
    return any(g != "unscored" and (g == "correct") != (mine == "correct") for g in grades.values())


def choose(
    found: Survey, baseline: str, seed: int, most: int = MOST_RECORDS, most_bytes: int = MOST_BYTES
) -> list[Place]:
    """Return the comparisons to carry, sorted by task, item, context, belief, in the orders that the study names them.

    All of them where they fit. Else flipped ones first, in an order drawn by the seed, up to ``FLIP_SHARE`` of the
    room, then the others in such an order, then flipped ones again while there is room.
    """
    records = found.answers
    if records <= most and sum(c.size for c in found.places.values()) <= most_bytes:
        return sorted(found.places, key=in_order(found))

    def drawn(place: Place) -> bytes:
        return hashlib.sha256(orjson.dumps([seed, *place])).digest()

    order = sorted(found.places, key=drawn)
    flips = [p for p in order if flipped(found.places[p].grades, baseline)]
    among = set(flips)
    others = [p for p in order if p not in among]
    kept: list[Place] = []
    used = size = 0

    def take(places: Iterable[Place], share: float) -> list[Place]:
        nonlocal used, size
        left = []
        for place in places:
            cost, weight = len(found.places[place].grades), found.places[place].size
            if used + cost <= share * most and size + weight <= share * most_bytes:
                kept.append(place)
                used += cost
                size += weight
            else:
                left.append(place)
        return left

    left = take(flips, FLIP_SHARE)
    take(others, 1.0)
    take(left, 1.0)
    return sorted(kept, key=in_order(found))


def in_order(found: Survey) -> Callable[[Place], tuple[object, ...]]:
    """Return the key that sorts comparisons: tasks as they come, contexts and beliefs as the study names them."""
    tasks, contexts, beliefs = list(found.items), list(CONTEXTS), list(BELIEFS)

    def rank(names: list[str], name: str) -> int:
        return names.index(name) if name in names else len(names)

    def key(place: Place) -> tuple[object, ...]:
        task, item, context, belief, framing, sample = place
        ranks = (rank(contexts, context), context, rank(beliefs, belief), belief)
        return (rank(tasks, task), item, *ranks, framing != "plain", framing, sample)

    return key


class Names:
    """Numbers names in order of first appearance."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.codes = {name: k for k, name in enumerate(names)}

    def __call__(self, name: str) -> int:
        """Return a name's number."""
        return self.codes.setdefault(name, len(self.codes))


def columns(
    path: Path,
    found: Survey,
    places: list[Place],
    trust: Trust,
    items: Mapping[tuple[str, str], Asked],
    orders: Mapping[str, list[str]],
) -> dict[str, Any]:
    """Return the page's data: names once, and numbers that index them.

    ``orders`` gives the names of personas, tasks, contexts and beliefs in the order of the settings. ``groups`` has one
    entry a comparison, ``rows`` one an answer, sorted by comparison and persona.
    """
    wanted = {place: k for k, place in enumerate(places)}
    names = {key: Names(orders.get(key, ())) for key in ("persona", "task", "context", "belief")}
    names |= {key: Names() for key in ("framing", "grade", "which", "reason", "finish", "judge", "statement")}
    numbers: dict[tuple[str, str], int] = {}
    groups = {key: [0] * len(places) for key in ("task", "item", "context", "belief", "framing", "sample")}
    for k, (task, item, context, belief, framing, sample) in enumerate(places):
        groups["task"][k] = names["task"](task)
        groups["item"][k] = numbers.setdefault((task, item), len(numbers))
        groups["context"][k], groups["belief"][k] = names["context"](context), names["belief"](belief)
        groups["framing"][k], groups["sample"][k] = names["framing"](framing), sample
    rows: list[tuple[int, int, list[Any]]] = []
    for a in read_answers(path, found.verdicts, trust):
        group = wanted.get(place_of(a))
        if group is None:
            continue
        body = a.text if a.text is not None else dict(a.labels or {})
        judged = [[names["judge"](v.judge), names["grade"](v.grade)] for v in a.verdicts]
        rows.append(
            (
                group,
                names["persona"](a.persona),
                [
                    names["grade"](a.grade),
                    names["which"](a.which),
                    names["reason"](a.reason),
                    names["finish"](a.finish),
                    body,
                    judged,
                ],
            )
        )
    rows.sort(key=lambda row: row[:2])
    texts = []
    for task, item_id in numbers:
        asked = items.get((task, item_id)) or Asked.unknown(task, item_id)
        i = asked.item
        told = {str(names["context"](c)): names["statement"](s) for c, s in asked.statements.items()}
        texts.append([i.id, i.question, i.answer, i.wrong, i.original, list(i.marks), told, list(i.others)])
    fixed = {str(k): text for k, p in enumerate(places) if (text := _fixed(items, p))}
    keys = ("grade", "which", "reason", "finish", "body", "judged")
    return {
        "names": {key: list(n.codes) for key, n in names.items()},
        "items": texts,
        "groups": groups,
        "prompts": fixed,
        "rows": {
            "group": [row[0] for row in rows],
            "persona": [row[1] for row in rows],
            **{key: [row[2][k] for row in rows] for k, key in enumerate(keys)},
        },
        "baseline": baseline_of(list(names["persona"].codes) or ["original"]),
    }


def _fixed(items: Mapping[tuple[str, str], Asked], place: Place) -> str:
    task, item, context, belief, framing, _ = place
    found = items.get((task, item))
    return found.fixed(context, belief, framing) if found else ""


def pack(data: Mapping[str, Any]) -> str:
    """Return JSON, gzip, base64: letters, digits, ``+``, ``/`` and ``=`` only, so nothing in it can end an element."""
    return base64.b64encode(gzip.compress(orjson.dumps(data), compresslevel=6, mtime=0)).decode("ascii")
