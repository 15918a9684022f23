"""What precision changes: two runs of one study, on weights of two precisions, compared answer by answer.

Both runs draw the same noise for an answer, so where nothing changes, not even sampling differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.errors import InputError, UsageError, one_line
from warmeng.common.files import read_bytes
from warmeng.study.results.manifest import Manifest, require_manifest
from warmeng.study.results.tied import OF, PLAN, hashes, tie
from warmeng.study.stats.analyze import compared
from warmeng.study.stats.compare import Runs, paired, result, write_comparison
from warmeng.study.stats.tables import FORMAT

NAME = "fidelity"
FILE = f"{NAME}.json"

# What may differ between the two runs; everything else that determines an answer may not. The digest of the plan holds
# the model.
FREE = ("model", "processor", "tokenizer", "judges", "setting", PLAN)
FREE_SETTINGS = ("model", "revision", "dtype", "weights", "kv_dtype", "device", "fast")


def fidelity(first: Path, second: Path, rule: str = "grades") -> dict[str, Any]:
    """Return what the second run's precision changes in the first one's answers, as JSON-able tables.

    Raises ``InputError`` for folders that are no whole runs, ``UsageError`` for runs of other questions, of other
    models, or of one precision, and for an unknown rule.
    """
    runs = Runs(first, second)
    manifests = runs.manifests
    refuse_unlike(runs.folders, *(manifest.inputs for manifest in manifests))
    told = [precision(manifest) for manifest in manifests]
    notes = [f"First: {told[0]} ({one_line(first)}). Second: {told[1]} ({one_line(second)}).", *runs.notes]
    if manifests[0].inputs["model"].get("weights") != manifests[1].inputs["model"].get("weights"):
        notes.append("The runs are of two checkpoints; that both are of one original, their makers tell.")
    if manifests[0].inputs.get("judges") != manifests[1].inputs.get("judges"):
        notes.append("Judges were loaded in the precision of their run, so grades may differ with them.")
    baseline, _ = compared(runs.frame)
    found = result(paired(runs.frame, runs.margins, rule), notes, rule, baseline, manifests[0].facts.primary)
    return tie({**found, "first": told[0], "second": told[1]}, runs.folders)


def write_fidelity(out: Path, found: Mapping[str, Any], run: Path | None = None) -> None:
    """Write ``fidelity.json`` and ``fidelity.md`` into a folder, which may be that of ``run``, the second of the two.

    Raises as ``write_comparison``.
    """
    heading = f"What precision changes: {found['first']}, then {found['second']}"
    write_comparison(out, found, NAME, heading, run)


def read_fidelity(folder: Path) -> dict[str, Any] | None:
    """Return the comparison that stands in a run's folder; nothing where there is none of the run's files as they are.

    Raises ``InputError`` where the file is none.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found = dict(orjson.loads(read_bytes(path)))
        known = found["format"] == FORMAT and isinstance(found["tables"], dict) and isinstance(found[OF][1], dict)
    except (ValueError, KeyError, TypeError, IndexError):
        known = False
    if not known:
        raise InputError(f"{path}: is no comparison of this version: make it again with --fidelity, or delete it")
    return found if found[OF][1] == hashes(folder) else None


def refuse_other_study(first: Path, second: Path, inputs: Mapping[str, Any]) -> None:
    """Raise as ``refuse_unlike`` where ``first`` is no run to compare one with, which is to be in ``second``.

    ``inputs``: what is known of that one, its study at least. Raises ``InputError`` where ``first`` is no run.
    """
    if first.resolve() == second.resolve():
        raise UsageError(f"--fidelity {first} is the run's own folder: give a run in full precision")
    refuse_unlike((first, second), require_manifest(first).inputs, inputs)


def precision(manifest: Manifest) -> str:
    """Return a run's precision in a few words."""
    engine = manifest.facts.engine
    about, kept = engine.get("quantization"), engine.get("kv_dtype")
    products = f"products in {engine.get('dtype', 'an unknown precision')}"
    told = f"{about.get('scheme')}, {about.get('by')}" if isinstance(about, Mapping) else f"no quantisation, {products}"
    return told + (f", keys and values in {kept}" if kept else "")


def refuse_unlike(folders: Sequence[Path], one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` unless two runs differ in the precision of one model, and in nothing else.

    ``one`` and ``other`` are their inputs. Of a run whose model is not loaded yet, the other one's, the rest is
    compared.
    """
    what = f"of {folders[1]} is not that of {folders[0]}"
    loaded = "model" in other
    models = [inputs.get("model") for inputs in ((one, other) if loaded else (one,))]
    for model, folder in zip(models, folders, strict=False):
        if not isinstance(model, Mapping) or "api" in model:
            raise UsageError(
                f"{folder} is a run of an API's model, whose precision nobody tells: compare two runs here"
            )
    for name in sorted({*one, *other} if loaded else other):
        if name not in FREE and one.get(name) != other.get(name):
            raise UsageError(f"{name} {what}: compare runs of the same questions, personas and adapters")
    settings = [inputs.get("setting") or {} for inputs in (one, other)]
    for name in sorted({*settings[0], *settings[1]}):
        if name not in FREE_SETTINGS and settings[0].get(name) != settings[1].get(name):
            raise UsageError(f"the setting {name} {what}: compare runs that differ in precision alone")
    if not loaded:
        return
    first, second = models
    assert isinstance(first, Mapping)
    assert isinstance(second, Mapping)
    if first == second:
        raise UsageError(f"{folders[0]} and {folders[1]} are in one precision: there is nothing to compare")
    if first.get("weights") != second.get("weights") and not (first.get("quantization") or second.get("quantization")):
        raise UsageError(f"the model {what}, and neither is quantised: these are two models, not two precisions")
