"""The models of a run, one of them loaded at a time, and the personas that are models of their own.

A ``full:`` persona is looked at before the grid, for the manifest and the plan, and asked after the base's personas.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Union

from warmeng.common.errors import InputError
from warmeng.common.progress import Progress
from warmeng.engine.identity import whole_identity
from warmeng.fleet.engine import FleetEngine
from warmeng.remote.engine import RemoteEngine
from warmeng.remote.names import is_api
from warmeng.study.personas import Persona, by_model, unlike
from warmeng.study.plan import Planner, Study
from warmeng.study.run.api import ApiOwnModel
from warmeng.study.run.gates import checks_warmth, held_out_responses
from warmeng.study.settings import StudySettings
from warmeng.study.warmth.responses import Response

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine
    from warmeng.engine.tokenizer import Tokenizer
    from warmeng.study.run.preparation import Preparation

COUNTED = ("output_tokens", "prompt_tokens", "cached_tokens", "steps")  # of an engine's totals
# A study's prompts share much: less cache than the engine's default, to stay under 2.5 GiB in all.
KV_BYTES = 448 * 2**20

# A loaded model of this machine, or one behind an API.
AnyEngine = Union["Engine", RemoteEngine]
Load = Callable[[StudySettings], AnyEngine]


def identity(engine: AnyEngine) -> dict[str, Any]:
    """Return what determines a model's answers to messages, as far as it is known."""
    return engine.identity if isinstance(engine, RemoteEngine) else whole_identity(engine)


def load_engine(settings: StudySettings, threads: int | None = None) -> Engine:
    """Load the model of this machine that the settings name; raises as ``Engine.load``."""
    from warmeng.engine.engine import Engine, EngineSettings
    from warmeng.engine.load import choose_device

    on_cpu = choose_device(settings.device) == "cpu"
    chosen = EngineSettings(
        dtype=settings.dtype,
        weights=settings.weights,
        kv_dtype=settings.kv_dtype,
        fast=settings.fast,
        kv_bytes=KV_BYTES if on_cpu else None,
        threads=threads,
    )
    return Engine.load(settings.model, revision=settings.revision, device=settings.device, settings=chosen)


class Models:
    """Loads models for their settings and keeps the last one: another one's memory is freed before it is loaded.

    Whoever asks for an engine must not hold it any more when another one is asked for.
    """

    def __init__(self, load: Load, progress: Progress) -> None:
        self._load, self._progress = load, progress
        self._settings: StudySettings | None = None
        self._engine: AnyEngine | None = None
        self._freed: Counter[str] = Counter()

    def of(self, settings: StudySettings, what: str = "") -> AnyEngine:
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
        if self._engine is None:
            return
        self._freed = self.used()
        if isinstance(self._engine, RemoteEngine | FleetEngine):
            self._engine.close()
        self._engine = self._settings = None
        gc.collect()

    def used(self) -> Counter[str]:
        """Return what all models counted so far, those that are freed included."""
        if self._engine is None:
            return self._freed
        return self._freed + Counter({key: getattr(self._engine.stats, key) for key in COUNTED})


def settings_of(name: str, settings: StudySettings) -> StudySettings:
    """Return the settings that load another model beside the base: ``MODEL`` or ``MODEL@REVISION``."""
    from warmeng.engine.registry import parse_name

    model, revision = (name, None) if is_api(name) else parse_name(name)
    return replace(settings, model=model, revision=revision)


@dataclass(frozen=True)
class OwnModel:
    """A model that answers for ``full:`` personas, as it was found before the grid."""

    name: str
    personas: tuple[Persona, ...]
    identity: Mapping[str, Any]
    tokenizer: Tokenizer
    stop_token_ids: Sequence[int] | frozenset[int]
    about: Mapping[str, Any]  # ``describe()``
    responses: Mapping[str, list[Response]] = field(default_factory=dict)  # to held-out prompts, by persona

    def planner(self, study: Study) -> Planner:
        """Return the plan of this model's part of a study whose personas are this model's."""
        return Planner(study, self.tokenizer, self.stop_token_ids, self.identity, {})


AnyOwnModel = OwnModel | ApiOwnModel


def load_own_models(study: Study, models: Models, begins: bool, preparation: Preparation) -> list[AnyOwnModel]:
    """Load each model of its own and return what the manifest and the plan need of it.

    Where the run ``begins``, they respond to the manipulation check's prompts too. Raises as loading does, naming the
    persona.
    """
    found: list[AnyOwnModel] = []
    for name, personas in by_model(study.personas).items():
        what = ", ".join(persona.name for persona in personas)
        try:
            engine = models.of(settings_of(name, study.settings), f"{name} for {what}")
        except InputError as error:
            raise InputError(f"persona {what}: {error}") from None
        if isinstance(engine, RemoteEngine):
            found.append(ApiOwnModel(name, personas, engine.identity))
            continue
        responses = {}
        if begins and checks_warmth(study):
            kept = preparation.engine(engine, f"manipulation check of {what}")
            responses = held_out_responses(kept, personas, study.settings)
        found.append(
            OwnModel(
                name, personas, whole_identity(engine), engine.tokenizer, engine.config.stop_token_ids,
                engine.describe(), responses,
            )
        )  # fmt: skip
        del engine
    return found


def compare(own: Iterable[OwnModel], base: Engine, progress: Progress) -> dict[str, dict[str, Any]]:
    """Return facts of each ``full:`` persona beside the base, and say where they differ in more than weights.

    Raises ``InputError`` for one whose weights are the base's: it would compare the base with itself.
    """
    facts: dict[str, dict[str, Any]] = {}
    weights = base.describe().get("weights")
    for model in own:
        names = ", ".join(persona.name for persona in model.personas)
        if model.identity["weights"] == weights:
            raise InputError(f"persona {names}: {model.name} is the base itself: give a model with other weights")
        same = {
            "same_template": model.identity["template"] == base.tokenizer.template_hash,
            "same_tokenizer": model.tokenizer.hash == base.tokenizer.hash,
        }
        if not all(same.values()):
            progress.message(f"persona {names}: {unlike(**same)}")
        known = {key: model.about.get(key) for key in ("origin", "revision", "weights")}
        about = {"model": model.name, **known, **same}
        for persona in model.personas:
            added = None if persona.system else model.tokenizer.default_system
            facts[persona.name] = {**about, "adds_default_system": added}
    return facts
