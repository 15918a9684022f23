"""What the figures show: plain numbers out of ``analysis.json``, read once for the page's figures and the saved ones.

Everything is in percentage points or per cent. What the analysis could not give is absent, never zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warmeng.study.prompts import CHOICE, OPEN, OWN_BELIEFS
from warmeng.study.results.manifest import Manifest

Row = Mapping[str, Any]

BELIEFS = {
    "none": "no belief",
    "wrong": "wrong answer claimed",
    "doubt": "right answer doubted",
    "right": "right answer claimed",
    "mention-wrong": "wrong answer only mentioned",
    "mention-right": "right answer only mentioned",
    "friend-wrong": "wrong answer of a friend",
    "friend-right": "right answer of a friend",
    "deny-wrong": "wrong answer denied",
    "unrelated": "something else claimed",
}
GROUPS = {
    "all": "plain question, no belief",
    "emotion": "with an emotion",
    "relation": "with a relation",
    "stake": "with stakes",
    "stakes": "with stakes",
    "no belief": "no belief",
    "wrong belief": "a wrong belief, either kind",
    "neither": "neither emotion nor belief",
    "emotion only": "emotion alone",
    "belief only": "wrong belief alone",
    "emotion + belief": "emotion and wrong belief",
}
CONTEXTS = {
    "unmodified": "unmodified",
    "emotion:sad": "sad",
    "emotion:anger": "anger",
    "emotion:happy": "happy",
    "relation:close": "close",
    "relation:hierarchical_up": "looks up",
    "relation:hierarchical_down": "looks down",
    "stake:high": "high stakes",
    "stake:low": "low stakes",
}
# Each part's column, and the beginning of its interval's columns.
AGREEMENT_PARTS = {
    "the user's own claim": ("raw", "raw_"),
    "the claim only mentioned": ("control", "control_"),
    "agreement, the difference": ("value", ""),
}
OUTCOMES = {
    "user": "the user's wrong answer",
    "other": "another wrong answer",
    "refusal": "a refusal",
    "unclear": "an unclear answer",
    "incorrect": "a wrong answer, whose is not told",
}


@dataclass(frozen=True, slots=True)
class Effect:
    """A persona's effect on errors in one group, in points, with the paper's value where it has one."""

    group: str
    variant: str
    number: int
    n: int
    value: float | None
    low: float | None
    high: float | None
    published: float | None
    limits: str


@dataclass(frozen=True, slots=True)
class Agreed:
    """What a claim does to a persona's margin, in nats with intervals: the user's, a mention, and the difference."""

    persona: str
    asking: str
    n: int
    parts: Mapping[str, tuple[float | None, float | None, float | None]]


@dataclass(frozen=True, slots=True)
class Point:
    """Error rates, %, of the baseline (x) and of a variant (y) in one task, context and belief; n is the variant's."""

    model: str
    variant: str
    task: str
    context: str
    belief: str
    x: float
    y: float
    n: int


@dataclass(frozen=True, slots=True)
class Rate:
    """An error rate, %, of a persona under one belief (or in one context)."""

    persona: str
    group: str
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Flips:
    """Where a variant's answers went, of the ``n`` questions that the baseline answered correctly; counts by outcome.

    ``gained`` of ``n_gained`` questions that the baseline did not answer correctly became correct.
    """

    variant: str
    belief: str
    n: int
    counts: Mapping[str, int]
    gained: int
    n_gained: int


@dataclass(frozen=True, slots=True)
class Warmth:
    """A persona's measured warmth and its error rate, %."""

    persona: str
    warmth: float
    low: float | None
    high: float | None
    error: float


def table(analysis: Mapping[str, Any] | None, name: str) -> list[Row]:
    """Return a table's rows; none where the analysis has no such table."""
    found = ((analysis or {}).get("tables") or {}).get(name) or {}
    return list(found.get("rows") or [])


def number(value: Any) -> float | None:
    """Return a finite number, or nothing."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def pooled(rows: Sequence[Row]) -> list[Row]:
    """Return the rows over all models, where the analysis has several; else all rows."""
    return [r for r in rows if r.get("model") == "all"] or list(rows)


def effects(analysis: Mapping[str, Any] | None) -> list[Effect]:
    """Return the regressions' effects over all tasks, numbers 1 to 4 in turn."""
    found = []
    for r in table(analysis, "regressions"):
        if r.get("scope", "all") != "all":
            continue
        found.append(
            Effect(
                str(r.get("group") or "all"),
                str(r.get("variant") or ""),
                int(r.get("number") or 0),
                int(r.get("n") or 0),
                number(r.get("effect")),
                number(r.get("low")),
                number(r.get("high")),
                number(r.get("published")),
                str(r.get("limits") or ""),
            )
        )
    return sorted(found, key=lambda e: e.number)


def label(group: str) -> str:
    """Return a group of a regression, a context or a belief in words."""
    return GROUPS.get(group) or CONTEXTS.get(group) or BELIEFS.get(group) or group


def error_points(analysis: Mapping[str, Any] | None, baseline: str) -> list[Point]:
    """Pair each variant's error rate with the baseline's, one point per model, task, context and belief.

    Only what the user believes: the other beliefs are controls of it.
    """
    rates: dict[tuple[str, str, str, str], dict[str, Row]] = defaultdict(dict)
    for r in table(analysis, "error_rates"):
        place = (str(r.get("model") or ""), r["task"], r["context"], r["belief"])
        own = r["belief"] in OWN_BELIEFS
        if "all" not in place and own and number(r.get("error")) is not None:
            rates[place][r["persona"]] = r
    points = []
    for place, by_persona in rates.items():
        base = by_persona.get(baseline)
        if base is None:
            continue
        for persona, r in by_persona.items():
            if persona != baseline:
                points.append(Point(place[0], persona, *place[1:], 100 * base["error"], 100 * r["error"], int(r["n"])))
    return points


def rates(analysis: Mapping[str, Any] | None, by: str) -> list[Rate]:
    """Return error rates over all tasks by ``belief`` (over all contexts) or by ``context`` (without a belief)."""
    found = []
    for r in pooled(table(analysis, "error_rates")):
        if r["task"] != "all" or number(r.get("error")) is None:
            continue
        if by == "belief" and (r["context"] != "all" or r["belief"] == "all"):
            continue
        if by == "context" and (r["context"] == "all" or r["belief"] != "none"):
            continue
        low, high = (100 * v if (v := number(r.get(key))) is not None else None for key in ("low", "high"))
        found.append(Rate(r["persona"], r[by], 100 * r["error"], low, high, int(r["n"])))
    return found


def agreements(analysis: Mapping[str, Any] | None) -> list[Agreed]:
    """Return each persona's agreement beside its parts, pooled: of the choice where it was asked, else of the open
    question.
    """
    rows = [r for r in pooled(table(analysis, "agreement")) if r["task"] == r["context"] == "all" and not r["against"]]
    for asking in (CHOICE, OPEN):
        if mine := [r for r in rows if r["asking"] == asking]:
            return [
                Agreed(r["persona"], asking, int(r["n"]), {
                    name: (number(r[key]), number(r[f"{head}low"]), number(r[f"{head}high"]))
                    for name, (key, head) in AGREEMENT_PARTS.items()
                })
                for r in mine
            ]  # fmt: skip
    return []


def flips(analysis: Mapping[str, Any] | None) -> list[Flips]:
    """Sum the flips over tasks and contexts, by variant and belief."""
    rows = pooled(table(analysis, "flips"))
    chosen = [r for r in rows if r.get("task") == "all" and r.get("context") == "all" and r.get("belief") != "all"]
    if not chosen:
        chosen = [r for r in rows if "all" not in (r.get("task"), r.get("context"), r.get("belief"))]
    counts: dict[tuple[str, str], dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
    for r in chosen:
        counts[r["variant"], r["belief"]][r["from"], r["to"]] += int(r["n"] or 0)
    found = []
    order = [*BELIEFS]
    variants = ordered(variant for variant, _ in counts)
    for variant, belief in sorted(
        counts, key=lambda k: (variants.index(k[0]), order.index(k[1]) if k[1] in order else len(order))
    ):
        cells = counts[variant, belief]
        lost = {to: sum(n for (a, b), n in cells.items() if a == "correct" and b == to) for to in OUTCOMES}
        start = sum(n for (a, b), n in cells.items() if a == "correct" and b != "unscored")
        wrong = sum(n for (a, b), n in cells.items() if a not in ("correct", "unscored") and b != "unscored")
        gained = sum(n for (a, b), n in cells.items() if a not in ("correct", "unscored") and b == "correct")
        found.append(Flips(variant, belief, start, lost, gained, wrong))
    return found


def warmth(manifest: Manifest, analysis: Mapping[str, Any] | None) -> list[Warmth]:
    """Return measured warmth beside errors without a belief; nothing for a persona that has none of them.

    Warmth is the analysis's table ``warmth``, or the manifest's manipulation check.
    """
    measured: dict[str, Row] = {r["persona"]: r for r in table(analysis, "warmth")}
    if not measured:
        measured = manipulation(manifest)
    error: dict[str, float] = {}
    for r in pooled(table(analysis, "error_rates")):
        if r["task"] == "all" and r["context"] in ("all", "unmodified") and r["belief"] == "none":
            value = number(r.get("error"))
            if value is not None:
                error[r["persona"]] = 100 * value
    found = []
    for persona, r in measured.items():
        value = number(r.get("warmth", r.get("mean")))
        if value is not None and persona in error:
            found.append(Warmth(persona, value, number(r.get("low")), number(r.get("high")), error[persona]))
    return found


def manipulation(manifest: Manifest) -> dict[str, Row]:
    """Return the manipulation check's rows by persona (``warmth``, ``low``, ``high``); none where not measured."""
    return {name: row for name, row in manifest.facts.manipulation.items() if isinstance(row, Mapping)}


def ordered(names: Iterable[str]) -> list[str]:
    """Return different names in order of first appearance."""
    return list(dict.fromkeys(names))
