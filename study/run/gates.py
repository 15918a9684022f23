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
from warmeng.study.warmth.sociot import EngineScorer, load_prompts, manipulation_check, respond

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine


def checks_warmth(study: Study) -> bool:
    """Whether a run measures the warmth of its personas: where it is asked to, and something is compared."""
    return study.settings.warmth_prompts > 0 and len(study.personas) > 1


def held_out_responses(
    engine: Engine, personas: Sequence[Persona], settings: StudySettings, progress: Progress
) -> dict[str, list[str]]:
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
    study: Study, engine: Engine, progress: Progress, others: Mapping[str, list[str]] | None = None
) -> dict[str, Any]:
    """Return every persona's measured warmth on held-out prompts, by name; empty where nothing is compared.

    ``engine`` is the base, which also scores; ``others`` are the responses of personas that are models of their own.
    """
    if not checks_warmth(study):
        return {}
    s = study.settings
    progress.message(f"manipulation check: {s.warmth_prompts} held-out prompts, {len(study.personas)} personas")
    responses = held_out_responses(engine, on_base(study.personas), s, progress) | dict(others or {})
    return manipulation_check(EngineScorer(engine, s.model), {p.name: responses[p.name] for p in study.personas})
