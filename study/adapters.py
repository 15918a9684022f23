"""Personas' adapters and vectors on an engine, each with proof that it changes the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from warmeng.common.errors import InputError, NotLowRank
from warmeng.engine.adapters import is_merged
from warmeng.engine.provenance import Provenance, provenance
from warmeng.engine.vectors import Vector
from warmeng.study.personas import FULL, Change, Persona, sources_of

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine


@dataclass(frozen=True)
class AppliedAdapter:
    """What a persona adds to the base, and passed: contents' hashes with coefficients ("" for dose zero), how far it
    moved the logits on the engine's probe (0 for dose zero alone), and whether its folders' own chat template, the base
    that they name and the kind of its weights are the base's (see ``Provenance``).
    """

    hash: str
    probe: float
    same_template: bool | None = None
    other_base: str | None = None
    other_precision: str | None = None


def apply_adapters(
    engine: Engine, personas: Sequence[Persona], say: Callable[[str], None] = lambda line: None
) -> dict[str, AppliedAdapter]:
    """Load every adapter and vector once and return proof, by persona, that what it adds changes the model; ``say``
    what takes long, and what of its folder is not the base's.

    From then on the engine projects every generation onto the vectors, of whatever persona.

    Raises ``InputError`` for an adapter that is all zero, or a persona whose probe shows no change or no finite one,
    unless its coefficients are all zero: then it has the base's bits. One of bounds alone may show no change.
    """
    found: dict[str, Provenance | None] = {}
    vectors: dict[str, Vector] = {}
    for change, name in sources_of(personas).items():
        loaded = _load(engine, name, change, say)
        found[_name(change)] = None if isinstance(loaded, Vector) else loaded
        if isinstance(loaded, Vector):
            vectors[f"{change.source}:{change.layer}"] = loaded
    engine.project_onto(vectors)
    applied: dict[str, AppliedAdapter] = {}
    for persona in personas:
        if not persona.changes:
            continue
        terms = {_name(change): change.coefficient for change in persona.changes}
        mixture = engine.add_mixture(persona.name, terms)
        moved = engine.probe_adapter(persona.name) if any(terms.values()) else 0.0
        # A bound may be one that the probe's text does not reach.
        always = any(change.coefficient and change.bound is None for change in persona.changes)
        if any(terms.values()) and not (0.0 < moved < float("inf") or (moved == 0.0 and not always)):
            given = " and ".join(str(change.source) for change in persona.changes)
            raise InputError(
                f"persona {persona.name}: the adapter {given} is not applied (it moved the probe's logits by {moved}): "
                "give one that was trained on this model, or another coefficient"
            )
        applied[persona.name] = AppliedAdapter(mixture.key, moved, *_together(map(found.__getitem__, terms)))
    return applied


def _load(engine: Engine, name: str, change: Change, say: Callable[[str], None]) -> Provenance | Vector:
    """Load an adapter, for the persona ``name`` first of all, and say what of its folder is not the base's; or a
    vector, whose file says nothing of its base.
    """
    folder = change.source
    if change.layer is not None:
        return engine.add_vector(_name(change), folder, change.layer, change.bound)
    if is_merged(folder):
        say(f"persona {name}: recovering the low-rank change of the checkpoint {folder}")
    try:
        adapter = engine.add_adapter(_name(change), folder)
    except NotLowRank as error:
        raise InputError(f"{error}: --persona {name}={FULL}{folder}") from None
    if adapter.is_zero:
        raise InputError(
            f"persona {name}: the adapter {folder} is not applied (its weights are all zero): "
            "give one that was trained on this model"
        )
    about = engine.describe()
    kind = (about.get("quantization") or {}).get("kind")
    found = provenance(folder, str(about.get("model") or ""), engine.tokenizer.template_hash, kind)
    for line in found.lines():
        say(f"persona {name}: {folder}: {line}")
    return found


def _name(change: Change) -> str:
    """Return what the engine calls an adapter or a vector: no persona's name has a slash."""
    if change.layer is None:
        return f"adapter/{change.source}"
    return f"vector/{change.source}:{change.layer}" + ("" if change.bound is None else f"^{change.bound!r}")


def _together(found: Iterable[Provenance | None]) -> tuple[bool | None, str | None, str | None]:
    """Return what is known of several folders: the template is the base's where each one's is."""
    parts = [part for part in found if part is not None]
    templates = {part.same_template for part in parts}
    same = False if False in templates else None if None in templates or not templates else True
    bases = (part.other_base for part in parts if part.other_base)
    precisions = (part.other_precision for part in parts if part.other_precision)
    return same, next(bases, None), next(precisions, None)
