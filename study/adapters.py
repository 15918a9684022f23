"""Personas' adapters on an engine, each with proof that it changes the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from warmeng.common.errors import InputError, NotLowRank
from warmeng.engine.adapters import is_merged
from warmeng.engine.provenance import provenance
from warmeng.study.personas import FULL, Persona

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine


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
    engine: Engine, personas: Sequence[Persona], say: Callable[[str], None] = lambda line: None
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
