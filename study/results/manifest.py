"""A run's ``manifest.json``, written before its first record.

``inputs`` must be the same for a run to continue, and a changed one is refused by name; ``facts`` only inform.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmeng.common.manifest import ManifestKind

OWN_MODELS = "model of"  # the inputs of personas that are models of their own, by persona
OTHER_RUN = "give the folder of a run"  # what to do where a folder is only read
RUN = ManifestKind(
    mark=("format", 1),
    parts={"inputs": dict, "facts": dict, "planned": int},
    what="run folder",
    made="this run was made with",
    before=("run.lock", "wrong_answers.jsonl"),
)
read_manifest = RUN.read
refuse_changes = RUN.refuse_changes


def write_manifest(
    folder: Path, inputs: Mapping[str, Any], facts: Mapping[str, Any], planned: int, judgments: int = 0
) -> None:
    """Write the manifest atomically: ``planned`` answers, and ``judgments`` of them. Raises ``OSError``."""
    RUN.write(folder, {"planned": planned, "judgments": judgments, "inputs": inputs, "facts": facts})
