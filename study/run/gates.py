"""Gates: what is looked at before the grid is run.

The first must hold: every adapter is shown to be applied. The second, the manipulation check, refuses nothing: whether
the warm persona is warmer is told in the report either way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from warmeng.common.progress import INTERVAL, Progress
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
    engine: Engine, personas: Sequence[Persona], settings: StudySettings, progress: Progress
) -> dict[str, list[Response]]:
    """Return what personas of one model respond to the held-out prompts of the manipulation check."""
    prompts = load_prompts(limit=settings.warmth_prompts)
    planned, last = len(prompts) * len(personas), time.monotonic()

    def counted(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= INTERVAL:
            last = time.monotonic()
            progress.message(f"manipulation check: {done} of {planned} responses")

    return respond(engine, personas, prompts, settings.seed, settings.temperature, counted=counted)


def check_warmth(
    study: Study, engine: Engine, progress: Progress, others: Mapping[str, Sequence[Response]] | None = None
) -> dict[str, Any]:
    """Return every persona's measured warmth on held-out prompts, by name; empty where nothing is compared.

    Beside it the divergence from the base (``kl``, see ``Divergence``). ``engine`` is the base, which also scores;
    ``others`` are the responses of personas that are models of their own, whose divergence is not measured.
    """
    if not checks_warmth(study):
        return {}
    progress.message(
        f"manipulation check: {study.settings.warmth_prompts} held-out prompts, {len(study.personas)} personas"
    )
    return measure_personas(engine, study.personas, study.settings, progress, others or {})


def measure_personas(
    engine: Engine,
    personas: Sequence[Persona],
    settings: StudySettings,
    progress: Progress,
    others: Mapping[str, Sequence[Response]],
) -> dict[str, Any]:
    """Return what ``check_warmth`` returns, of any personas."""
    here = on_base(personas)
    responses: dict[str, Sequence[Response]] = {**held_out_responses(engine, here, settings, progress), **others}
    texts = texts_of({p.name: responses[p.name] for p in personas})
    found = manipulation_check(EngineScorer(engine, settings.model), texts)
    prompts = load_prompts(limit=settings.warmth_prompts)
    for name, divergence in divergences(engine, here, prompts, responses, settings.temperature).items():
        found[name]["kl"] = divergence.facts
    return found
