"""Gates: what is looked at before the grid is run.

The first must hold: every adapter is shown to be applied. The second, the manipulation check, refuses nothing: whether
the warm persona is warmer is told in the report either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from warmeng.engine.adapters import is_merged
from warmeng.engine.errors import InputError
from warmeng.study.backend import EngineLike
from warmeng.study.personas import Persona
from warmeng.study.plan import Study
from warmeng.study.progress import Progress
from warmeng.study.warmth.sociot import manipulation_check


@dataclass(frozen=True)
class AppliedAdapter:
    """An adapter that passed: its content's hash, and how far it moved the logits on the engine's probe."""

    hash: str
    probe: float


def apply_adapters(
    engine: EngineLike, personas: Sequence[Persona], say: Callable[[str], None] = lambda line: None
) -> dict[str, AppliedAdapter]:
    """Load every persona's adapter and return proof, by persona, that it changes the model; ``say`` what takes long.

    Raises ``InputError`` for an adapter that is all zero, or whose probe shows no change or no finite one.
    """
    applied: dict[str, AppliedAdapter] = {}
    for persona in personas:
        if persona.adapter is None:
            continue
        if is_merged(persona.adapter):
            say(f"persona {persona.name}: recovering the low-rank change of the checkpoint {persona.adapter}")
        adapter = engine.add_adapter(persona.name, persona.adapter)
        moved = 0.0 if adapter.is_zero else engine.probe_adapter(persona.name)
        if not 0.0 < moved < float("inf"):
            why = "its weights are all zero" if adapter.is_zero else f"it moved the probe's logits by {moved}"
            raise InputError(
                f"persona {persona.name}: the adapter {persona.adapter} is not applied ({why}): "
                "give one that was trained on this model"
            )
        applied[persona.name] = AppliedAdapter(adapter.hash, moved)
    return applied


def check_warmth(study: Study, engine: EngineLike, progress: Progress) -> dict[str, Any]:
    """Return every persona's measured warmth on held-out prompts, by name; empty where nothing is compared."""
    s = study.settings
    if not s.warmth_prompts or len(study.personas) < 2:
        return {}
    progress.message(f"manipulation check: {s.warmth_prompts} held-out prompts, {len(study.personas)} personas")
    return manipulation_check(
        engine, study.personas, s.model, limit=s.warmth_prompts, seed=s.seed, temperature=s.temperature
    )
