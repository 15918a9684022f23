"""The files that a run's models and adapters are made of: a finished run is printed again only where they are the same.

A run that goes on needs none of this: it loads its models, and compares what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmeng.engine.registry import find_folder, parse_name
from warmeng.engine.stamps import adapter_files, contents, model_files, stamp
from warmeng.study.personas import sources_of
from warmeng.study.plan import Study
from warmeng.study.results.manifest import RunFacts, refuse_changes
from warmeng.study.run.judges import BASE


def stamps(study: Study, facts: RunFacts) -> dict[str, dict[str, Any]]:
    """Return what the files of a run that begins are, by what they are to it; ``facts`` are those of its manifest."""
    return {name: stamp(files) for name, files in _files(study, facts).items() if files is not None}


def refuse_replaced(study: Study, folder: Path, facts: RunFacts) -> list[str]:
    """Raise ``InputError`` naming the first file of a finished run's models and adapters that is not what it was.

    Only files whose size or times changed are read. Returns what could not be compared: models that are not on this
    machine any more, and all of them where the run was made before their files were kept.
    """
    before: Mapping[str, Mapping[str, Any]] = facts.files
    found = _files(study, facts)
    there = {name: files for name, files in found.items() if files is not None and name in before}
    now = {name: contents(files, before[name]) for name, files in there.items()}
    then = {name: {file: kept["sha256"] for file, kept in before[name].items()} for name in now}
    refuse_changes(folder, then, now)
    return [name for name in found if name not in there]


def _files(study: Study, facts: RunFacts) -> dict[str, tuple[Path, ...] | None]:
    """Return the files of a run's models and adapters; ``None`` for a model that isn't on this machine."""
    s = study.settings
    found: dict[str, tuple[Path, ...] | None] = {}

    def add(name: str, about: Mapping[str, Any], model: str, revision: str | None) -> None:
        # What has no origin was made without files.
        if about.get("origin"):
            folder = find_folder(model, revision)
            found[name] = None if folder is None else model_files(folder)

    add("model", facts.engine, s.model, s.revision)
    for change, name in sources_of(study.personas).items():
        # A persona's first adapter or vector has its name, a further one its own beside.
        known = f"{'adapter' if change.layer is None else 'vector'} {name}"
        files = adapter_files(change.source) if change.layer is None else (change.source,)
        found[known if known not in found else f"{known} {change.source}"] = files
    for persona in study.personas:
        if persona.model is not None:
            about = facts.own_models.get(persona.name) or {}
            add(f"model of {persona.name}", about, *parse_name(persona.model))
    for name, about in facts.judges.items():
        if name != BASE:
            add(f"judge {name}", about, *parse_name(name))
    return found
