"""Personas that are models of their own (``full:``): looked at before the grid, for the manifest and the plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from warmeng.common.errors import InputError
from warmeng.common.progress import Progress
from warmeng.engine.identity import whole_identity
from warmeng.remote.engine import RemoteEngine
from warmeng.study.personas import Persona, by_model, unlike
from warmeng.study.plan import Planner, Study
from warmeng.study.run.api import ApiOwnModel
from warmeng.study.run.gates import checks_warmth, held_out_responses
from warmeng.study.run.models import Models, settings_of
from warmeng.study.run.preparation import Preparation
from warmeng.study.warmth.responses import Response

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine
    from warmeng.engine.tokenizer import Tokenizer


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
