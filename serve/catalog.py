"""The models that a server offers: a base, and each of its personas as ``base:persona``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmeng.common.errors import UsageError, show
from warmeng.engine.engine import Engine, EngineSettings
from warmeng.serve.errors import ApiError
from warmeng.study.adapters import apply_adapters
from warmeng.study.personas import Persona

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?")


@dataclass(frozen=True)
class Served:
    """What a model id stands for: the name of a mixture on the engine or none, and a system prompt or none."""

    id: str
    adapter: str | None = None
    system: str | None = None

    def conversation(self, messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """Return messages after the persona's system prompt. Raises ApiError where they bring another."""
        talk = [dict(message) for message in messages]
        if self.system is None:
            return talk
        if any(message["role"] == "system" for message in talk):
            raise ApiError(400, f"{self.id} is a system prompt: leave the system message out", "messages")
        return [{"role": "system", "content": self.system}, *talk]


class Catalog:
    """Model ids and what they stand for."""

    def __init__(self, base: str, personas: Sequence[Persona] = ()) -> None:
        """``base`` is the id of the base itself. Raises UsageError for personas that are models of their own."""
        if not NAME.fullmatch(base):
            raise UsageError(f"the name {show(base)} can't be a model's id: give one of letters, digits, '.', '_', '-'")
        self.created = int(time.time())
        self.base = base
        self.models = {base: Served(base)}
        for persona in personas:
            if persona.model is not None:
                raise UsageError(
                    f"persona {persona.name} is a model of its own ({show(persona.model)}): start another server for it"
                )
            served = Served(f"{base}:{persona.name}", persona.name if persona.changes else None, persona.system)
            self.models[served.id] = served

    def find(self, name: str) -> Served:
        """Return what an id stands for. Raises ApiError 404 for one that is not offered."""
        if name not in self.models:
            known = ", ".join(self.models)
            raise ApiError(404, f"no model is named {show(name)}: use {known}", "model", "model_not_found")
        return self.models[name]


def load(
    model: str,
    personas: Sequence[Persona],
    settings: EngineSettings,
    *,
    revision: str | None = None,
    device: str = "auto",
    name: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Engine, Catalog]:
    """Load a base with its personas; each adapter must change the base. ``name``: the base's id, where not its own.

    Raises as ``Engine.load`` and ``apply_adapters``, and UsageError for what can't be served.
    """
    folder = Path(model)
    # A folder's path is nobody's business.
    catalog = Catalog(name or (folder.resolve().name if folder.is_dir() else model), personas)
    engine = Engine.load(model, revision=revision, device=device, settings=settings)
    apply_adapters(engine, personas, say)
    return engine, catalog
