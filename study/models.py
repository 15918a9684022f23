"""The models of a run, one of them loaded at a time, and the personas that are models of their own.

A ``full:`` persona is looked at before the grid, for the manifest and the plan, and asked after the base's personas.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from warmeng.engine.errors import InputError
from warmeng.study.backend import EngineLike, TokenizerLike
from warmeng.study.gates import checks_warmth, held_out_responses
from warmeng.study.personas import Persona, by_model
from warmeng.study.plan import Planner, Study
from warmeng.study.progress import Progress
from warmeng.study.settings import StudySettings

IDENTITY = ("weights", "dtype", "device", "machine", "deterministic", "numerics")  # of describe(): must stay the same
LIKE = "same_template", "same_tokenizer"  # facts of a model of its own, told in the report where they are false

Load = Callable[[StudySettings], EngineLike]


class Models:
    """Loads models for their settings and keeps the last one: another one's memory is freed before it is loaded.

    Whoever asks for an engine must not hold it any more when another one is asked for.
    """

    def __init__(self, load: Load, progress: Progress) -> None:
        self._load, self._progress = load, progress
        self._settings: StudySettings | None = None
        self._engine: EngineLike | None = None

    def of(self, settings: StudySettings, what: str = "") -> EngineLike:
        """Return the engine of these settings, loaded where it is not the last one; ``what`` it is, for the message.

        Raises as the engine's loading does.
        """
        if self._engine is None or self._settings != settings:
            self.free()
            self._progress.message(f"loading {what or settings.model}")
            self._engine, self._settings = self._load(settings), settings
        return self._engine

    def free(self) -> None:
        """Drop what is loaded."""
        self._engine = self._settings = None
        gc.collect()


def identity_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a loaded model determines its results, from ``describe()``."""
    return {name: facts.get(name) for name in IDENTITY} | {"torch": (facts.get("versions") or {}).get("torch")}


def whole_identity(engine: EngineLike) -> dict[str, Any]:
    """Return what of a loaded model determines its answers to messages: its chat template too."""
    return identity_of(engine.describe()) | {"template": engine.tokenizer.template_hash}


def settings_of(name: str, settings: StudySettings) -> StudySettings:
    """Return the settings that load another model beside the base: ``MODEL`` or ``MODEL@REVISION``."""
    model, at, revision = name.rpartition("@")
    if not at or not model or Path(name).exists():
        model, revision = name, ""
    return replace(settings, model=model, revision=revision or None)


@dataclass(frozen=True)
class OwnModel:
    """A model that answers for ``full:`` personas, as it was found before the grid."""

    name: str
    personas: tuple[Persona, ...]
    identity: Mapping[str, Any]
    tokenizer: TokenizerLike
    stop_token_ids: Sequence[int] | frozenset[int]
    max_seq_len: int
    responses: Mapping[str, list[str]] = field(default_factory=dict)  # to held-out prompts, by persona

    def planner(self, study: Study) -> Planner:
        """Return the plan of this model's part of a study."""
        mine = replace(study, personas=self.personas)
        return Planner(mine, self.tokenizer, self.stop_token_ids, self.identity, {})


def meet(study: Study, models: Models, begins: bool) -> list[OwnModel]:
    """Load each model of its own and return what the manifest and the plan need of it.

    Where the run ``begins``, they respond to the manipulation check's prompts too. Raises as loading does, naming the
    persona.
    """
    found = []
    for name, personas in by_model(study.personas).items():
        what = ", ".join(persona.name for persona in personas)
        try:
            engine = models.of(settings_of(name, study.settings), f"{name} for {what}")
        except InputError as error:
            raise InputError(f"persona {what}: {error}") from None
        asked = begins and checks_warmth(study)
        responses = held_out_responses(engine, personas, study.settings) if asked else {}
        found.append(
            OwnModel(
                name, personas, whole_identity(engine), engine.tokenizer, engine.config.stop_token_ids,
                engine.config.max_seq_len, responses,
            )
        )  # fmt: skip
        del engine
    return found


def compare(own: Iterable[OwnModel], base: EngineLike, progress: Progress) -> dict[str, dict[str, Any]]:
    """Return facts of each ``full:`` persona beside the base, and say where they differ in more than weights.

    Raises ``InputError`` for one whose weights are the base's: it would compare the base with itself.
    """
    facts: dict[str, dict[str, Any]] = {}
    weights = base.describe().get("weights")
    for model in own:
        names = ", ".join(persona.name for persona in model.personas)
        if model.identity["weights"] == weights:
            raise InputError(f"persona {names}: {model.name} is the base itself: give a model with other weights")
        same = (
            model.identity["template"] == base.tokenizer.template_hash,
            getattr(model.tokenizer, "hash", None) == getattr(base.tokenizer, "hash", None),
        )
        if not all(same):
            progress.message(f"persona {names}: {unlike(*same)}")
        about = {"model": model.name, "weights": model.identity["weights"], **dict(zip(LIKE, same, strict=True))}
        facts |= {persona.name: about for persona in model.personas}
    return facts


def unlike(same_template: bool, same_tokenizer: bool) -> str:
    """Return in words what of a model of its own is not the base's beside its weights, and what that means."""
    told = "a difference may come from there"
    if same_tokenizer:
        return f"its chat template is not the base's: {told}"
    what = "tokenizer is" if same_template else "chat template and tokenizer are"
    return f"its {what} not the base's: {told}, and they share no noise"
