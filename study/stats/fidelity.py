"""What precision changes: two runs of one study, on weights of two precisions, compared answer by answer.

Both runs draw the same noise for an answer, so where nothing changes, not even sampling differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from warmeng.common.errors import InputError, UsageError, one_line
from warmeng.common.files import make_inner, write_atomic
from warmeng.study.results.frame import Factor, Flags, Frame, Small
from warmeng.study.results.manifest import Manifest, refuse_other_runs, require_manifest
from warmeng.study.results.read import COLUMNS, joined, read_run
from warmeng.study.results.tied import PLAN, refuse_untied
from warmeng.study.results.views import outcome
from warmeng.study.stats import tables
from warmeng.study.stats.analyze import compared
from warmeng.study.stats.changes import SINGLE, TWICE, mean_changes
from warmeng.study.stats.draws import Floats, Ints
from warmeng.study.stats.flips import outcomes
from warmeng.study.stats.intervals import detectable
from warmeng.study.stats.margins import ALL, Margin, in_order, margins
from warmeng.study.stats.paired import tested
from warmeng.study.stats.primary import correct_family
from warmeng.study.stats.units import asked_plainly, pairs, pooled_tasks, unit_key

FILE, MARKDOWN = "fidelity.json", "fidelity.md"
FIRST, SECOND = "first", "second"
# What may differ between the two runs; everything else that determines an answer may not. The digest of the plan holds
# the model.
FREE = ("model", "processor", "tokenizer", "judges", "setting", PLAN)
FREE_SETTINGS = ("model", "revision", "dtype", "weights", "device", "fast")
_PLACE = ("task", "context", "belief")

Row = dict[str, Any]


def fidelity(first: Path, second: Path, rule: str = "grades") -> dict[str, Any]:
    """Return what the second run's precision changes in the first one's answers, as JSON-able tables.

    Raises ``InputError`` for folders that are no whole runs, ``UsageError`` for runs of other questions, of other
    models, or of one precision, and for an unknown rule.
    """
    manifests = [require_manifest(folder) for folder in (first, second)]
    for folder, manifest in zip((first, second), manifests, strict=True):
        refuse_untied(folder, manifest)
    refuse_unlike((first, second), manifests)
    found = [read_run(folder) for folder in (first, second)]
    frame = side_by_side(*(part for part, _ in found))
    known = outcome(frame, rule)
    baseline, variants = compared(frame)
    rows = {
        "precision_answers": precision_answers(frame, known),
        "precision_contrasts": precision_contrasts(frame, known, baseline, variants),
    }
    correct_family(rows.values())
    told = [precision(manifest) for manifest in manifests]
    notes = [f"First: {told[0]} ({one_line(first)}). Second: {told[1]} ({one_line(second)})."]
    for name, (_, info) in zip((FIRST, SECOND), found, strict=True):
        if lacking := info.planned - int(info.statuses.get("ok", 0)):
            notes.append(f"Of the {name} run {lacking} of {info.planned} answers are missing or failed.")
    if manifests[0].inputs["model"].get("weights") != manifests[1].inputs["model"].get("weights"):
        notes.append("The runs are of two checkpoints; that both are of one original, their makers tell.")
    if manifests[0].facts.sources != manifests[1].facts.sources:
        notes.append("The runs were made by two versions of warmeng: prompts and grading rules may differ, too.")
    if manifests[0].inputs.get("judges") != manifests[1].inputs.get("judges"):
        notes.append("Judges were loaded in the precision of their run, so grades may differ with them.")
    return {
        "format": tables.FORMAT,
        "first": told[0],
        "second": told[1],
        "rule": rule,
        "baseline": baseline,
        "notes": notes,
        "tables": {name: tables.table(name, part) for name, part in rows.items()},
    }


def write_fidelity(out: Path, found: Mapping[str, Any]) -> None:
    """Write ``fidelity.json`` and ``fidelity.md`` into a folder, made if need be.

    Raises ``UsageError`` for a folder in a run's, ``OSError`` where it can't be written.
    """
    refuse_other_runs(out)
    place = make_inner(out.parent, out.name)
    heading = f"What precision changes: {found['first']}, then {found['second']}"
    write_atomic(place / MARKDOWN, tables.to_markdown(found["tables"].values(), heading, found["notes"]))
    write_atomic(place / FILE, orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def precision(manifest: Manifest) -> str:
    """Return a run's precision in a few words."""
    engine = manifest.facts.engine
    about = engine.get("quantization")
    products = f"products in {engine.get('dtype', 'an unknown precision')}"
    return f"{about.get('scheme')}, {about.get('by')}" if isinstance(about, Mapping) else f"no quantisation, {products}"


def refuse_unlike(folders: Sequence[Path], manifests: Sequence[Manifest]) -> None:
    """Raise ``UsageError`` unless two runs differ in the precision of one model, and in nothing else."""
    one, other = manifests
    what = f"of {folders[1]} is not that of {folders[0]}"
    for manifest, folder in zip(manifests, folders, strict=True):
        if manifest.facts.api or not isinstance(manifest.inputs.get("model"), Mapping):
            raise UsageError(
                f"{folder} is a run of an API's model, whose precision nobody tells: compare two runs here"
            )
    for name in sorted(set(one.inputs) | set(other.inputs)):
        if name not in FREE and one.inputs.get(name) != other.inputs.get(name):
            raise UsageError(f"{name} {what}: compare runs of the same questions, personas and adapters")
    for name in sorted(set(one.setting) | set(other.setting)):
        if name not in FREE_SETTINGS and one.setting.get(name) != other.setting.get(name):
            raise UsageError(f"the setting {name} {what}: compare runs that differ in precision alone")
    models = [manifest.inputs["model"] for manifest in manifests]
    if models[0] == models[1]:
        raise UsageError(f"{folders[0]} and {folders[1]} are in one precision: there is nothing to compare")
    if models[0].get("weights") != models[1].get("weights") and not any(m.get("quantization") for m in models):
        raise UsageError(f"the model {what}, and neither is quantised: these are two models, not two precisions")


def side_by_side(first: Frame, second: Frame) -> Frame:
    """Return both runs' answers as one frame, in which ``model`` tells the run."""
    columns: dict[str, Any] = {
        name: joined([getattr(part, name) for part in (first, second)]) for name in COLUMNS if name != "model"
    }
    for name in ("sample", "grade", "which", "binary", "chars", "exact"):
        columns[name] = np.concatenate([getattr(first, name), getattr(second, name)])
    refused = [name for name in first.refused if name in second.refused]
    run = np.repeat(np.arange(2, dtype=np.int32), [len(first), len(second)])
    return Frame(
        model=Factor((FIRST, SECOND), run),
        judges={},
        refused={name: np.concatenate([first.refused[name], second.refused[name]]) for name in refused},
        **columns,
    )


def precision_answers(frame: Frame, known: Small) -> list[Row]:
    """Return the table ``precision_answers``: what became of each persona's answers, over the pairs of both runs.

    ``changed`` is the share of all pairs whose grade, or whose wrong answer, is another one; the rest is over pairs
    that were decided both times. ``known`` is ``views.outcome`` of the frame.
    """
    key = unit_key(frame.without("model")) * max(1, len(frame.persona.names)) + frame.persona.codes
    left, right = _matched(key, frame.model, asked_plainly(frame))
    part, place = frame.take(left), outcomes(frame)
    moved = place[left] != place[right]
    decided = (known[left] >= 0) & (known[right] >= 0)
    wrong = np.stack([known[left], known[right]]).astype(np.int64)
    rows: list[Row] = []
    for head, use, group in _groups(part, pooled_tasks(frame)[left]):
        for k, label in enumerate(head):
            here = use & (group == k)
            both = here & decided
            if not both.any():
                continue
            item = part.item.codes[both].astype(np.int64)
            test = tested(wrong[0, both] - wrong[1, both], item)
            tests = {name: test[name] for name in ("n", "questions", "b", "c", "p", "p_pairs")}
            errors = {name: float(wrong[i, both].mean()) for i, name in enumerate((FIRST, SECOND))}
            shift = _mean((wrong[1] - wrong[0])[both].astype(np.float64), item, SINGLE)
            # The test of the shift is the exact one.
            rows.append(label | {"changed": float(moved[here].mean())} | errors | shift | tests)
    return in_order(rows, _columns(part), (*_PLACE, "persona"))


def precision_contrasts(frame: Frame, known: Small, baseline: str, variants: tuple[str, ...]) -> list[Row]:
    """Return the table ``precision_contrasts``: each persona's difference from the baseline in both precisions.

    Errors in points over what all four answers decided, each question weighing alike; ``value`` is the second
    difference minus the first.
    """
    rows: list[Row] = []
    for variant in variants:
        left, right = pairs(frame, baseline, variant)
        use = (known[left] >= 0) & (known[right] >= 0) & asked_plainly(frame)[left]
        left, right = left[use], right[use]
        change = known[right].astype(np.float64) - known[left]
        model = frame.model.take(left)
        one, other = _matched(unit_key(frame.without("model"))[left], model, np.ones(len(left), dtype=bool))
        part = frame.take(right[one])
        for head, use, group in _groups(part, pooled_tasks(frame)[right[one]]):
            for k, label in enumerate(head):
                here = use & (group == k)
                if not here.any():
                    continue
                item = part.item.codes[here].astype(np.int64)
                each = {name: change[at[here]] for name, at in ((FIRST, one), (SECOND, other))}
                means = {name: _mean(values, item, SINGLE)["value"] for name, values in each.items()}
                found = _mean(each[SECOND] - each[FIRST], item, TWICE)
                rows.append(label | {"against": baseline} | means | found)
    return rows


def _matched(key: Ints, model: Factor, use: Flags) -> tuple[Ints, Ints]:
    """Return the rows of both runs that have the same key: ``[pairs]`` each."""
    mine = [np.flatnonzero(model.is_(name) & use) for name in (FIRST, SECOND)]
    _, a, b = np.intersect1d(key[mine[0]], key[mine[1]], return_indices=True)
    if not len(a):
        raise InputError("the two runs have no answer in common: finish them first")
    return mine[0][a], mine[1][b]


def _columns(part: Frame) -> list[Margin]:
    return [Margin("persona", part.persona, False), *(Margin(name, getattr(part, name), True) for name in _PLACE)]


def _groups(part: Frame, together: Flags) -> list[tuple[list[Row], Flags, Ints]]:
    """Return (labels, rows that are used, each row's group) of everything together and of each margin alone."""
    columns = _columns(part)
    found = []
    for kept, labels, group in margins(columns):
        if len(kept) <= 2:
            use = np.ones(len(part), dtype=bool) if "task" in kept else together
            found.append(([dict(zip((c.key for c in columns), one, strict=True)) for one in labels], use, group))
    return found


def _mean(change: Floats, item: Ints, changes: int) -> Row:
    """Return the mean of a change over questions, in points, with its interval and the smallest that would show."""
    found = mean_changes(np.zeros(len(change), dtype=np.int64), change, item, 1, changes)
    row = found.points(0)
    return {**row, "p": float(found.p[0]), "detectable": detectable(row["low"], row["high"])}


def headline(found: Mapping[str, Any]) -> list[str]:
    """Return what the tables say over everything, a line for each persona and each contrast."""
    lines = []
    answers, contrasts = (found["tables"][name]["rows"] for name in ("precision_answers", "precision_contrasts"))
    for row in answers:
        if all(row[name] == ALL for name in _PLACE):
            lines.append(
                f"{row['persona']}: {row['changed']:.1%} of the answers have another grade; errors {row['value']:+.1f} "
                f"points ({row['low']:+.1f} to {row['high']:+.1f}), {row['b']} wrong only in the second run and "
                f"{row['c']} only in the first"
            )
    for row in contrasts:
        if all(row[name] == ALL for name in _PLACE):
            lines.append(
                f"{row['persona']} less {row['against']}: {row['first']:+.1f} points, then {row['second']:+.1f}: "
                f"{row['value']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f}); found in 80 %: "
                f"{row['detectable']:.1f}"
            )
    return lines
