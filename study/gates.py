"""Gates: what must hold before the grid is run. The first: every adapter is shown to be applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warmeng.engine.errors import InputError
from warmeng.study.backend import EngineLike
from warmeng.study.personas import Persona


@dataclass(frozen=True)
class AppliedAdapter:
    """An adapter that passed: its content's hash, and how far it moved the logits on the engine's probe."""

    hash: str
    probe: float


def apply_adapters(engine: EngineLike, personas: Sequence[Persona]) -> dict[str, AppliedAdapter]:
    """Load every persona's adapter and return proof, by persona, that it changes the model.

    Raises ``InputError`` for an adapter that is all zero, or whose probe shows no change or no finite one.
    """
    applied: dict[str, AppliedAdapter] = {}
    for persona in personas:
        if persona.adapter is None:
            continue
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
