"""A run's ``manifest.json``, written before its first record.

``inputs`` must be the same for a run to continue, and a changed one is refused by name; ``facts`` only inform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError, UsageError, one_line, show
from warmeng.common.manifest import FILE as RUN_FILE
from warmeng.common.manifest import OTHER, ManifestKind
from warmeng.study.results.records import FILE as RECORDS

# The inputs of personas that are models of their own, by persona.
OWN_MODELS = "model of"
OTHER_RUN = "give the folder of a run"  # what to do where a folder is only read
RUN = ManifestKind(
    mark=("format", 1),
    parts={"inputs": dict, "facts": dict, "planned": int},
    what="run folder",
    made="this run was made with",
    before=("run.lock", "preparation.jsonl", "responses.jsonl", "spending.jsonl", "batches.jsonl", "stalled.txt"),
)
refuse_changes = RUN.refuse_changes

Facts = Mapping[str, Any]
# Facts that are objects by name.
OF_MAPPINGS = ("gates", "judges", "own_models", "manipulation", "files")
# Settings that readers compute with, by what they are; others are only shown.
_SETTINGS: dict[tuple[type, ...], tuple[str, ...]] = {
    (int, float): ("temperature", "top_p", "number_temperature"),
    (int,): ("cells", "limit", "seed", "samples", "max_new_tokens"),
    (str,): ("model", "composition"),
    (list,): ("personas", "tasks", "contexts", "beliefs", "framings", "asking", "expect", "judges"),
}


@dataclass(frozen=True)
class RunFacts:
    """What a run found out before its first record. What a run of an earlier version did not keep has its default."""

    engine: Facts = field(default_factory=dict)  # ``Engine.describe()`` of the base
    # Of a base behind an API: where it is, what answers, and what it can't give.
    api: Facts = field(default_factory=dict)
    # By persona: its adapter's ``AppliedAdapter``.
    gates: Mapping[str, Facts] = field(default_factory=dict)
    # By judge: its calibration, and whether it is trusted.
    judges: Mapping[str, Facts] = field(default_factory=dict)
    exact_rule: Facts = field(default_factory=dict)  # the exact rules' calibration
    questions: Mapping[str, str] = field(default_factory=dict)  # by task, as "24 of 817"
    # By task: which of its items can't be graded.
    left_out: Mapping[str, str] = field(default_factory=dict)
    systems: Mapping[str, str] = field(default_factory=dict)  # system prompts by persona
    # The system message that the chat template adds.
    default_system: str | None = None
    # The personas of the base that it is added for.
    adds_default_system: Sequence[str] = ()
    template_date: str | None = None
    # By persona: a ``full:`` model beside the base.
    own_models: Mapping[str, Facts] = field(default_factory=dict)
    manipulation: Mapping[str, Facts] = field(default_factory=dict)  # by persona: its measured warmth
    # By persona: (family, dose), see ``doses_of``.
    doses: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    # The outcome that the run is about, named before its first answer; "" where it has no margins.
    primary: str = ""
    # Folders of earlier runs whose records were taken over.
    reused: Sequence[str] = ()
    # The primary claim: outcome, variant, against, and a hash of them with the study; empty for a single persona.
    claim: Facts = field(default_factory=dict)
    # Stamps of the models' and adapters' files.
    files: Mapping[str, Facts] = field(default_factory=dict)
    warmeng: str = "?"
    # A hash of warmeng's own sources, and the commit of a clone.
    sources: str = ""
    commit: str | None = None
    python: str = "?"
    started: str = ""

    @classmethod
    def parse(cls, raw: Facts) -> RunFacts:
        """Return the facts of a manifest; what is not known is left out.

        Raises ``ValueError`` that tells a fact of another type.
        """
        found = {f.name: raw[f.name] for f in fields(cls) if raw.get(f.name) is not None}
        empty = cls()
        for name, value in found.items():
            default = getattr(empty, name)
            kind = dict if isinstance(default, dict) else (list, tuple) if isinstance(default, tuple) else str
            inner = value.values() if name in OF_MAPPINGS and isinstance(value, dict) else ()
            if not isinstance(value, kind) or not all(isinstance(about, dict) for about in inner):
                raise ValueError(f"{name} {show(value)}")
        return cls(**found)


@dataclass(frozen=True)
class Manifest:
    """What a run was made with, and how many answers, judgments and further scores it has when it is finished.

    ``margins`` are scores that give the margin of a right over a wrong answer and no answer.
    """

    inputs: Mapping[str, Any]
    facts: RunFacts
    planned: int
    judgments: int = 0
    margins: int = 0

    @property
    def records(self) -> int:
        """All records of the finished run."""
        return self.planned + self.judgments + self.margins

    @property
    def kinds(self) -> str:
        """What the records are, in words."""
        counts = {"answers": self.planned, "scores": self.margins, "judgments": self.judgments}
        *first, last = [name for name, count in counts.items() if count] or ["answers"]
        return f"{', '.join(first)} and {last}" if first else last

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Manifest:
        """Return the content of a ``manifest.json``. Raises ``ValueError`` that tells what is not of its type."""
        counts = [raw.get(name, 0) for name in ("planned", "judgments", "margins")]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"counts {show(counts)}")
        for name in ("setting", "items", "statements"):
            if not isinstance(raw["inputs"].get(name) or {}, dict):
                raise ValueError(f"{name} {show(raw['inputs'][name])}")
        setting = raw["inputs"].get("setting") or {}
        for kinds, names in _SETTINGS.items():
            for name in names:
                value = setting.get(name)
                texts = not isinstance(value, list) or all(isinstance(part, str) for part in value)
                if value is not None and not (isinstance(value, kinds) and texts):
                    raise ValueError(f"setting {name} {show(value)}")
        return cls(raw["inputs"], RunFacts.parse(raw["facts"]), *counts)

    @property
    def setting(self) -> dict[str, Any]:
        """The run's settings, by their names."""
        return dict(self.inputs.get("setting") or {})


def read_manifest(folder: Path, instead: str = OTHER) -> Manifest | None:
    """Return a folder's manifest, or ``None`` for a folder that is new or empty.

    Raises ``InputError`` as ``ManifestKind.read``; ``instead`` says what to do then.
    """
    raw = RUN.read(folder, instead)
    try:
        return None if raw is None else Manifest.parse(raw)
    except ValueError as error:
        raise InputError(f"{folder / RUN_FILE}: has {error}, which no run writes: restore it, or {instead}") from None


def require_manifest(folder: Path) -> Manifest:
    """Return a run folder's manifest; ``InputError`` where the folder is not one."""
    manifest = read_manifest(folder, OTHER_RUN)
    if manifest is None:
        why = "it has no manifest.json" if folder.exists() else "it is not there"
        raise InputError(f"{folder}: is no run folder ({why}): {OTHER_RUN}")
    if not (folder / RECORDS).exists():
        raise InputError(f"{folder}: has no {RECORDS} yet: continue the run first")
    return manifest


def refuse_other_runs(out: Path, *runs: Path) -> None:
    """Raise ``UsageError`` where ``out`` is, or lies in, the folder of a run that is not one of ``runs``.

    What is made of one run would stand there for another one's.
    """
    found = RUN.around(out)
    if found is not None and found not in {run.resolve() for run in runs}:
        raise UsageError(f"--out {one_line(out)} is in the folder of another run: give a folder of its own")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest atomically. Raises ``OSError``."""
    counts = {"planned": manifest.planned, "judgments": manifest.judgments, "margins": manifest.margins}
    RUN.write(folder, counts | {"inputs": manifest.inputs, "facts": asdict(manifest.facts)})
