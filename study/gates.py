"""Gates: what is looked at before the grid is run.

The first must hold: every adapter is shown to be applied. The second, the manipulation check, refuses nothing: whether
the warm persona is warmer is told in the report either way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warmeng.engine.adapters import is_merged
from warmeng.engine.errors import InputError, NotLowRank
from warmeng.engine.provenance import provenance
from warmeng.study.backend import EngineLike
from warmeng.study.personas import FULL, Persona, on_base
from warmeng.study.plan import Study
from warmeng.study.progress import INTERVAL, Progress
from warmeng.study.settings import StudySettings
from warmeng.study.warmth.sociot import EngineScorer, load_prompts, manipulation_check, respond


@dataclass(frozen=True)
class AppliedAdapter:
    """An adapter that passed: its content's hash, how far it moved the logits on the engine's probe, and whether its
    folder's own chat template and the base that it names are the base's (see ``Provenance``).
    """

    hash: str
    probe: float
    same_template: bool | None = None
    other_base: str | None = None


def apply_adapters(
    engine: EngineLike, personas: Sequence[Persona], say: Callable[[str], None] = lambda line: None
) -> dict[str, AppliedAdapter]:
    """Load every persona's adapter and return proof, by persona, that it changes the model; ``say`` what takes long,
    and what of its folder is not the base's.

    Raises ``InputError`` for an adapter that is all zero, or whose probe shows no change or no finite one.
    """
    applied: dict[str, AppliedAdapter] = {}
    for persona in personas:
        if persona.adapter is None:
            continue
        if is_merged(persona.adapter):
            say(f"persona {persona.name}: recovering the low-rank change of the checkpoint {persona.adapter}")
        try:
            adapter = engine.add_adapter(persona.name, persona.adapter)
        except NotLowRank as error:
            raise InputError(f"{error}: --persona {persona.name}={FULL}{persona.adapter}") from None
        moved = 0.0 if adapter.is_zero else engine.probe_adapter(persona.name)
        if not 0.0 < moved < float("inf"):
            why = "its weights are all zero" if adapter.is_zero else f"it moved the probe's logits by {moved}"
            raise InputError(
                f"persona {persona.name}: the adapter {persona.adapter} is not applied ({why}): "
                "give one that was trained on this model"
            )
        found = provenance(persona.adapter, str(engine.describe().get("model") or ""), engine.tokenizer.template_hash)
        for line in found.lines():
            say(f"persona {persona.name}: {persona.adapter}: {line}")
        applied[persona.name] = AppliedAdapter(adapter.hash, moved, found.same_template, found.other_base)
    return applied


def checks_warmth(study: Study) -> bool:
    """Whether a run measures the warmth of its personas: where it is asked to, and something is compared."""
    return study.settings.warmth_prompts > 0 and len(study.personas) > 1


def held_out_responses(
    engine: EngineLike, personas: Sequence[Persona], settings: StudySettings, progress: Progress
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
    study: Study, engine: EngineLike, progress: Progress, others: Mapping[str, list[str]] | None = None
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
