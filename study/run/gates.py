"""Gates: what is looked at before the grid is run.

The first must hold: every adapter is shown to be applied. The second, the manipulation check, refuses nothing: whether
the warm persona is warmer is told in the report either way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from warmeng.study.personas import Persona, on_base
from warmeng.study.plan import Study
from warmeng.study.settings import StudySettings
from warmeng.study.warmth.divergence import divergences
from warmeng.study.warmth.responses import Response, load_prompts, respond, texts_of
from warmeng.study.warmth.sociot import EngineScorer, manipulation_check

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine


def checks_warmth(study: Study) -> bool:
    """Whether a run measures the warmth of its personas: where it is asked to, and something is compared."""
    return study.settings.warmth_prompts > 0 and len(study.personas) > 1


def held_out_responses(
    engine: Engine, personas: Sequence[Persona], settings: StudySettings
) -> dict[str, list[Response]]:
    """Return what personas of one model respond to the held-out prompts of the manipulation check."""
    prompts = load_prompts(limit=settings.warmth_prompts)
    return respond(engine, personas, prompts, settings.seed, settings.temperature)


def measure_personas(
    engine: Engine,
    personas: Sequence[Persona],
    settings: StudySettings,
    others: Mapping[str, Sequence[Response]] | None = None,
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return every persona's measured warmth on held-out prompts, and its responses to them, by name.

    Beside its warmth the divergence from the base (``kl``, see ``Divergence``). ``engine`` is the base, which also
    scores; ``others`` are the responses of personas that are models of their own, whose divergence is not measured.
    """
    here = on_base(personas)
    responses: dict[str, Sequence[Response]] = {**held_out_responses(engine, here, settings), **(others or {})}
    texts = texts_of({p.name: responses[p.name] for p in personas})
    found = manipulation_check(EngineScorer(engine, settings.model), texts)
    prompts = load_prompts(limit=settings.warmth_prompts)
    for name, divergence in divergences(engine, here, prompts, responses, settings.temperature).items():
        found[name]["kl"] = divergence.facts
    return found, texts
