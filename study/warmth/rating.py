"""Blinded ratings by people: which of two responses is warmer, and what their choices say.

Two responses to one prompt stand side by side as A and B, in an order fixed by a hash; the key that says which is
which lies in a file of its own. A pair's id is a hash of what the rater sees, so that ratings of one sheet never count
as those of another.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.cells import as_cell
from warmeng.common.embedded import in_page
from warmeng.common.errors import InputError, show
from warmeng.common.files import make_folder, read_json, write_atomic
from warmeng.engine.tables import read_rows
from warmeng.study.stats.agreement import cohen
from warmeng.study.stats.intervals import wilson

CHOICES = ("A", "B", "tie")
COLUMNS = ("id", "prompt", "A", "B", "choice")
PAGE = Path(__file__).parent / "rating.html"
KEY = "rating-key.json"


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt. ``variant_is_a`` says which is the variant's: not shown to raters."""

    id: str
    prompt: str
    baseline: str
    variant: str
    variant_is_a: bool
    # The variant's warmth minus the baseline's, by the metric.
    metric: float | None

    @property
    def shown(self) -> tuple[str, str]:
        """Return A and B."""
        return (self.variant, self.baseline) if self.variant_is_a else (self.baseline, self.variant)


def make_pairs(
    prompts: Sequence[tuple[str, str]],
    baseline: Sequence[str],
    variant: Sequence[str],
    metric: Sequence[float | None],
    seed: int,
) -> list[Pair]:
    """Pair responses by prompt. Half are swapped.

    Equal or blank ones are left out, since nobody could choose, and a pair that is there twice counts once.
    """
    found = []
    for (name, prompt), first, second, value in zip(prompts, baseline, variant, metric, strict=True):
        if not first.strip() or not second.strip() or first == second:
            continue
        found.append((hashlib.sha256(f"{seed}\0{name}".encode()).digest(), name, prompt, first, second, value))
    found.sort()
    pairs: dict[str, Pair] = {}
    for digest, _, prompt, first, second, value in found:
        swapped = digest[-1] % 2 == 0
        name = _name(prompt, *((second, first) if swapped else (first, second)))
        pairs.setdefault(name, Pair(name, prompt, first, second, swapped, value))
    return list(pairs.values())


def _name(prompt: str, a: str, b: str) -> str:
    """Return a pair's id: of what is shown alone, so that it does not tell whose A and B are."""
    return f"pair-{hashlib.sha256(orjson.dumps([prompt, a, b])).hexdigest()[:10]}"


def write_sheet(folder: Path, pairs: Sequence[Pair]) -> list[Path]:
    """Write ``rating.csv`` and ``rating.html`` for raters, and last ``rating-key.json`` for the one who counts.

    Returns the paths. Raises ``OSError``.
    """
    make_folder(folder)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for pair in pairs:
        writer.writerow(map(as_cell, (pair.id, pair.prompt, *pair.shown, "")))
    key = {p.id: {"variant": "A" if p.variant_is_a else "B", "metric": p.metric} for p in pairs}
    data = in_page([{"id": p.id, "prompt": p.prompt, "A": p.shown[0], "B": p.shown[1]} for p in pairs])
    page = PAGE.read_text(encoding="utf-8").replace("__PAIRS__", data)
    written = {
        "rating.csv": text.getvalue().encode(),
        "rating.html": page.encode(),
        KEY: orjson.dumps(key, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE),
    }
    for name, content in written.items():
        write_atomic(folder / name, content)
    return [folder / name for name in written]


def read_ratings(path: Path, key: Mapping[str, Any]) -> dict[str, str]:
    """Return one rater's choices by pair; rows without one are left out.

    Takes the sheet's CSV, or the JSON lines that the page saves. Raises ``InputError`` for pairs that the key does not
    know, by name, and with the line for a pair that is there twice, or a choice that is not A, B or tie.
    """
    rows = list(read_rows(path))
    strange = list(dict.fromkeys(name for _, row in rows if (name := str(row.get("id", ""))) not in key))
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise InputError(
            f"{path}: has pairs that are not in the key: {', '.join(show(name, 40) for name in strange[:3])}{more}: "
            f"give the {KEY} that was written with this sheet, or the ratings of the key's own sheet"
        )
    found: dict[str, str] = {}
    for number, row in rows:
        where = f"{path}:{number}"
        pair, choice = str(row.get("id", "")), str(row.get("choice", "")).strip()
        if pair in found:
            raise InputError(f"{where}: pair {pair!r} is there twice: keep one row")
        known = {c.lower(): c for c in CHOICES}
        if not choice:
            continue
        if choice.lower() not in known:
            raise InputError(f"{where}: choice is {choice!r}, expected A, B or tie")
        found[pair] = known[choice.lower()]
    if not found:
        raise InputError(f"{path}: has no choices: expected a column choice with A, B or tie")
    return found


def read_key(path: Path) -> dict[str, Any]:
    """Return the key of a sheet. Raises ``InputError``."""
    key = read_json(path)
    if not key or not all(isinstance(v, dict) and v.get("variant") in ("A", "B") for v in key.values()):
        raise InputError(f"{path}: is not a rating key: expected {KEY} as it was written beside the sheet")
    return key


def summarise_ratings(key: Mapping[str, Any], raters: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return how often the variant was chosen, how often the metric agrees, and each two raters' kappa.

    A pair's choice is its raters' majority; pairs without one are ties. Shares are of pairs that are not ties, with
    Wilson's interval. Kappa is Cohen's over the three choices, by what was chosen (variant, baseline, tie).
    """

    def meaning(pair: str, choice: str) -> str:
        return "tie" if choice == "tie" else "variant" if choice == key[pair]["variant"] else "baseline"

    meant = {name: {pair: meaning(pair, choice) for pair, choice in found.items()} for name, found in raters.items()}
    votes: dict[str, list[str]] = defaultdict(list)
    for choices in meant.values():
        for pair, choice in choices.items():
            votes[pair].append(choice)
    decided = {
        pair: "variant" if found.count("variant") > found.count("baseline") else "baseline"
        for pair, found in votes.items()
        if found.count("variant") != found.count("baseline")
    }
    measured = {p: key[p].get("metric") for p in decided}
    compared = [(decided[p], m) for p, m in measured.items() if m]
    agree = sum((choice == "variant") == (m > 0) for choice, m in compared)
    order = {"variant": 0, "baseline": 1, "tie": 2}
    pairs_of = []
    for (first, mine), (second, theirs) in combinations(meant.items(), 2):
        both = sorted(mine.keys() & theirs.keys())
        if both:
            found = cohen([order[mine[p]] for p in both], [order[theirs[p]] for p in both], 3)
            numbers = {"n": found.n, "kappa": found.kappa, "low": found.low, "high": found.high}
            pairs_of.append({"first": first, "second": second, **numbers})
    wins = sum(choice == "variant" for choice in decided.values())
    return {
        "raters": {name: len(found) for name, found in raters.items()},
        "pairs": len(votes),
        "ties": len(votes) - len(decided),
        "preferred": _share(wins, len(decided)),
        "metric_agrees": _share(agree, len(compared)),
        "kappa": pairs_of,
        "paper": {"preferred": 0.75, "metric_agrees": 0.694},
    }


def _share(k: int, n: int) -> dict[str, Any]:
    low, high = wilson(k, n) if n else (None, None)
    return {"k": k, "n": n, "value": k / n if n else None, "low": low, "high": high}


def describe(found: Mapping[str, Any]) -> list[str]:
    """Return the summary as lines."""

    def share(name: str) -> str:
        s = found[name]
        if s["value"] is None:
            return "no pair was decided"
        paper = 100 * found["paper"][name]
        return (
            f"{100 * s['value']:.1f} % (95 % interval {100 * s['low']:.1f} to {100 * s['high']:.1f}, "
            f"n = {s['n']}; paper {paper:g} %)"
        )

    lines = [
        f"raters           {', '.join(f'{name} ({n} choices)' for name, n in found['raters'].items())}",
        f"pairs            {found['pairs']}, of which {found['ties']} are ties",
        f"variant warmer   {share('preferred')}",
        f"metric agrees    {share('metric_agrees')}",
    ]
    lines += [
        f"kappa            {row['first']} and {row['second']}: {row['kappa']:.2f} "
        f"(95 % interval {row['low']:.2f} to {row['high']:.2f}, n = {row['n']})"
        for row in found["kappa"]
    ]
    return lines
