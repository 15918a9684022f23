"""What precision changes: two runs of one study, on weights of two precisions, compared answer by answer.

Both runs draw the same noise for an answer, so where nothing changes, not even sampling differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warmeng.common.errors import UsageError, one_line
from warmeng.study.results.manifest import Manifest
from warmeng.study.results.tied import PLAN
from warmeng.study.stats.analyze import compared
from warmeng.study.stats.compare import Runs, paired, result, write_comparison

# What may differ between the two runs; everything else that determines an answer may not. The digest of the plan holds
# the model.
FREE = ("model", "processor", "tokenizer", "judges", "setting", PLAN)
FREE_SETTINGS = ("model", "revision", "dtype", "weights", "device", "fast")


def fidelity(first: Path, second: Path, rule: str = "grades") -> dict[str, Any]:
    """Return what the second run's precision changes in the first one's answers, as JSON-able tables.

    Raises ``InputError`` for folders that are no whole runs, ``UsageError`` for runs of other questions, of other
    models, or of one precision, and for an unknown rule.
    """
    runs = Runs(first, second)
    manifests = runs.manifests
    refuse_unlike(runs.folders, manifests)
    told = [precision(manifest) for manifest in manifests]
    notes = [f"First: {told[0]} ({one_line(first)}). Second: {told[1]} ({one_line(second)}).", *runs.notes]
    if manifests[0].inputs["model"].get("weights") != manifests[1].inputs["model"].get("weights"):
        notes.append("The runs are of two checkpoints; that both are of one original, their makers tell.")
    if manifests[0].inputs.get("judges") != manifests[1].inputs.get("judges"):
        notes.append("Judges were loaded in the precision of their run, so grades may differ with them.")
    baseline, _ = compared(runs.frame)
    found = result(paired(runs.frame, runs.margins, rule), notes, rule, baseline, manifests[0].facts.primary)
    return {**found, "first": told[0], "second": told[1]}


def write_fidelity(out: Path, found: Mapping[str, Any]) -> None:
    """Write ``fidelity.json`` and ``fidelity.md`` into a folder. Raises as ``write_comparison``."""
    heading = f"What precision changes: {found['first']}, then {found['second']}"
    write_comparison(out, found, "fidelity", heading)


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
