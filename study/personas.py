"""Personas: what is compared. An adapter or none, plus a system prompt or none, on one base; or a model of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmeng.common.errors import InputError, UsageError, one_line, show
from warmeng.common.files import read_text

PROMPTS = Path(__file__).parent / "data" / "prompts"
# Of the built-in model: see docs/finetune.md.
ADAPTERS = Path(__file__).parent / "data" / "adapters"
# The persona that others are compared with, where it is there.
BASELINE = "original"
# Prompts and adapters that are part of the package.
EMBEDDED = ("warm", "cold")
BUILT_IN_MODEL = "smollm2-135m-instruct"
BUILT_IN = {"original": "", "warm": "adapter", "cold": "adapter", "warm-prompt": "prompt", "cold-prompt": "prompt"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# Before a model that runs as its own, not as a change of the base.
FULL = "full:"
FORM = "NAME=[ADAPTER|full:MODEL][@PROMPT]"


@dataclass(frozen=True, slots=True)
class Persona:
    """A name, an adapter folder or none, a system prompt's text or none; ``model`` where it isn't the base's."""

    name: str
    adapter: Path | None = None
    system: str | None = None
    model: str | None = None


def parse_persona(spec: str) -> Persona:
    """Parse ``NAME=[ADAPTER|full:MODEL][@PROMPT]``, or a built-in name alone.

    MODEL is what ``--model`` takes, or ``OWNER/NAME@REVISION``. PROMPT is ``warm``, ``cold`` or a text file; the last
    ``@`` divides, so a folder or model with one needs another at its end. Raises ``UsageError`` for a malformed spec,
    ``InputError`` for a file that is not there.
    """
    name, equals, rest = spec.partition("=")
    if not equals:
        if name not in BUILT_IN:
            raise UsageError(f"no persona is named {show(spec)}: use {', '.join(BUILT_IN)}, or {FORM}")
        style = name.partition("-")[0]
        packaged = ADAPTERS / style if BUILT_IN[name] == "adapter" else None
        return Persona(name, packaged, _prompt(style) if BUILT_IN[name] == "prompt" else None)
    if not NAME.fullmatch(name):
        raise UsageError(
            f"persona {show(spec)} has the name {show(name)}, expected letters, digits, '.', '_' and '-': {FORM}"
        )
    adapter, prompt = rest.rsplit("@", 1) if "@" in rest else (rest, "")
    system = _prompt(prompt) if prompt else None
    if adapter.startswith(FULL):
        # Here: it is slow to import, and --help needs none of it.
        from warmeng.engine.registry import (
            check_name,
            parse_name,
        )

        model = adapter.removeprefix(FULL)
        try:
            check_name(*parse_name(model))
        except InputError as error:
            raise InputError(f"persona {name}: {error}") from None
        return Persona(name, None, system, model)
    if adapter and not _is_dir(Path(adapter)):
        expected = "the folder of a PEFT LoRA adapter or of a merged checkpoint"
        raise InputError(f"persona {name}: {one_line(adapter)} is not a folder: expected {expected}")
    return Persona(name, Path(adapter) if adapter else None, system)


def default_personas(model: str) -> tuple[str, ...]:
    """Return the personas that are compared unless told: the built-in model's adapters are of no use to others."""
    return tuple(name for name, kind in BUILT_IN.items() if kind != "adapter" or model == BUILT_IN_MODEL)


def load_personas(specs: Sequence[str]) -> tuple[Persona, ...]:
    """Parse all specs; ``UsageError`` where a name is given twice."""
    personas = tuple(parse_persona(spec) for spec in specs)
    names = [p.name for p in personas]
    if len(set(names)) != len(names):
        raise UsageError(f"persona {next(n for n in names if names.count(n) > 1)!r} is given twice: use two names")
    return personas


def on_base(personas: Iterable[Persona]) -> tuple[Persona, ...]:
    """Return the personas that are the base, with a change or without."""
    return tuple(persona for persona in personas if persona.model is None)


def by_model(personas: Iterable[Persona]) -> dict[str, tuple[Persona, ...]]:
    """Return the personas that are models of their own, by model."""
    found: dict[str, tuple[Persona, ...]] = {}
    for persona in personas:
        if persona.model is not None:
            found[persona.model] = (*found.get(persona.model, ()), persona)
    return found


def unlike(same_template: bool, same_tokenizer: bool) -> str:
    """Return in words what of a model of its own is not the base's beside its weights, and what that means."""
    told = "a difference may come from there"
    if same_tokenizer:
        return f"its chat template is not the base's: {told}"
    what = "tokenizer is" if same_template else "chat template and tokenizer are"
    return f"its {what} not the base's: {told}, and they share no noise"


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no folder can have
        return False


def _prompt(name: str) -> str:
    path = PROMPTS / f"{name}.txt" if name in EMBEDDED else Path(name)
    text = read_text(path).strip()
    if not text:
        raise InputError(f"{path}: is empty: expected the text of a system prompt")
    return text


def baseline_of(names: Sequence[str], chosen: str | None = None) -> str:
    """Return the persona that others are compared with: the chosen one, else ``original``, else the first."""
    if chosen is not None:
        if chosen not in names:
            raise UsageError(f"no persona is named {chosen!r}: use {', '.join(names)}")
        return chosen
    if not names:
        raise InputError("there are no answers: give a run or a folder that has some")
    return BASELINE if BASELINE in names else names[0]
