"""A preparation's ``manifest.json``: what must stay the same for it to be continued."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmeng.common.manifest import ManifestKind
from warmeng.common.storage import LOCK
from warmeng.engine.stamps import contents, model_files

PREPARATION = ManifestKind(
    mark=("prepare", 1),
    parts={"inputs": dict, "model": dict},
    what="preparation",
    made="was prepared with",
    before=(LOCK,),
)


def refuse_replaced(folder: Path, before: Mapping[str, Mapping[str, Any]], model: Path | None) -> None:
    """Raise InputError naming the first file of a finished preparation's model that is not what it was ``before``.

    A ``model`` that is not on this machine any more can't be compared.
    """
    if before and model is not None:
        now = {"model": contents(model_files(model), before)}
        PREPARATION.refuse_changes(folder, {"model": {name: kept["sha256"] for name, kept in before.items()}}, now)
