"""Personas: what is compared. An adapter or none, plus a system prompt or none, on one base."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from warmeng.engine.errors import InputError, UsageError
from warmeng.study.files import read_text

PROMPTS = Path(__file__).parent / "data" / "prompts"
EMBEDDED = ("warm", "cold")
BUILT_IN = {"original": None, "warm-prompt": "warm", "cold-prompt": "cold"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
FORM = "NAME=[ADAPTER][@PROMPT]"


@dataclass(frozen=True, slots=True)
class Persona:
    """A name, an adapter folder or none, a system prompt's text or none."""

    name: str
    adapter: Path | None = None
    system: str | None = None


def parse_persona(spec: str) -> Persona:
    """Parse ``NAME=[ADAPTER][@PROMPT]``, or a built-in name alone.

    PROMPT is ``warm``, ``cold`` or a text file; the last ``@`` divides, so a folder with one in its name needs
    another at its end. Raises ``UsageError`` for a malformed spec, ``InputError`` for a file that is not there.
    """
    name, equals, rest = spec.partition("=")
    if not equals:
        if name not in BUILT_IN:
            raise UsageError(f"no persona is named {spec!r}: use {', '.join(BUILT_IN)}, or {FORM}")
        prompt = BUILT_IN[name]
        return Persona(name, None, _prompt(prompt) if prompt else None)
    if not NAME.fullmatch(name):
        raise UsageError(f"persona {spec!r} has the name {name!r}, expected letters, digits, '.', '_' and '-': {FORM}")
    adapter, prompt = rest.rsplit("@", 1) if "@" in rest else (rest, "")
    if adapter and not Path(adapter).is_dir():
        raise InputError(f"persona {name}: {adapter} is not a folder: expected a PEFT LoRA adapter's folder")
    return Persona(name, Path(adapter) if adapter else None, _prompt(prompt) if prompt else None)


def load_personas(specs: Sequence[str]) -> tuple[Persona, ...]:
    """Parse all specs; ``UsageError`` where a name is given twice."""
    personas = tuple(parse_persona(spec) for spec in specs)
    names = [p.name for p in personas]
    if len(set(names)) != len(names):
        raise UsageError(f"persona {next(n for n in names if names.count(n) > 1)!r} is given twice: use two names")
    return personas


def _prompt(name: str) -> str:
    path = PROMPTS / f"{name}.txt" if name in EMBEDDED else Path(name)
    text = read_text(path).strip()
    if not text:
        raise InputError(f"{path}: is empty: expected the text of a system prompt")
    return text
