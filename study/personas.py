"""Personas: what is compared. Adapters or none, plus a system prompt or none, on one base; or a model of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from warmeng.common.errors import InputError, UsageError, one_line, show
from warmeng.common.files import read_text
from warmeng.engine.mixture import MAX_COEFFICIENT
from warmeng.remote.names import PREFIX, is_api, model_of
from warmeng.study.algebra import (
    EPOCH,
    INLINE,
    VECTOR_FORM,
    Term,
    epochs,
    is_vector,
    parse_sum,
    parse_vector,
    split_spec,
)

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
# Before an adapter's repository on the Hugging Face hub.
HUB = "hub:"
FORM = f"NAME=[ADAPTER|full:MODEL|{PREFIX}MODEL][@PROMPT]"


class Change(NamedTuple):
    """What is added to the base, and what it is multiplied with: an adapter's folder, or a steering vector's file with
    the layer that it follows (1 is the first). With a ``bound`` the vector is not added: the projection onto it is
    kept from exceeding the bound, and the coefficient is 1 or 0.
    """

    source: Path
    coefficient: float = 1.0
    layer: int | None = None
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class Persona:
    """A name, adapters and vectors that are added, a system prompt's text or none; ``model`` where it isn't the base's.

    No source is twice among the changes. A coefficient may be zero.
    """

    name: str
    changes: tuple[Change, ...] = ()
    system: str | None = None
    model: str | None = None


def parse_persona(spec: str, run: Mapping[str, str] | None = None) -> Persona:
    """Parse ``NAME=[ADAPTER|full:MODEL|openai:MODEL][@PROMPT]``, or a built-in name alone.

    ADAPTER is a sum as ``parse_sum`` reads it. A term is another persona of the ``run`` (specs by name), whose adapters
    and vectors are meant, not its prompt; or a folder; or ``warm`` or ``cold``, the package's; or a vector; or
    ``hub:OWNER/NAME`` or ``hub:OWNER/NAME@REVISION``, a repository of the Hugging Face hub.
    MODEL is what ``--model`` takes, or ``OWNER/NAME@REVISION``; after ``openai:`` a name that the API knows.
    PROMPT is ``warm``, ``cold``, a text file, or ``text:`` and the prompt itself; else the last ``@`` divides, so a
    folder or model with one needs another at its end.

    Raises ``UsageError`` for a malformed spec, ``InputError`` for a file that is not there.
    """
    name, equals, _ = spec.partition("=")
    if not equals:
        if name not in BUILT_IN:
            raise UsageError(f"no persona is named {show(spec)}: use {', '.join(BUILT_IN)}, or {FORM}")
        style = name.partition("-")[0]
        packaged = (Change(ADAPTERS / style),) if BUILT_IN[name] == "adapter" else ()
        return Persona(name, packaged, _prompt(style) if BUILT_IN[name] == "prompt" else None)
    if not NAME.fullmatch(name):
        raise UsageError(
            f"persona {show(spec)} has the name {show(name)}, expected letters, digits, '.', '_' and '-': {FORM}"
        )
    _, adapter, prompt = split_spec(spec)
    system = _prompt(prompt) if prompt else None
    if is_api(adapter):
        model_of(adapter)
        return Persona(name, (), system, adapter)
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
        return Persona(name, (), system, model)
    return Persona(name, _changes(name, adapter, run or {}, ()), system)


def _changes(name: str, adapter: str, run: Mapping[str, str], above: tuple[str, ...]) -> tuple[Change, ...]:
    """Return what a sum adds, other personas' parts written out. ``above``: the personas that ask for it."""
    sums: dict[Change, float] = {}
    for term in parse_sum(adapter):
        for change in _meant(name, term, run, above):
            whole = change._replace(coefficient=1.0)
            sums[whole] = sums.get(whole, 0.0) + change.coefficient * term.coefficient
    for whole, coefficient in sums.items():
        if not abs(coefficient) <= MAX_COEFFICIENT:
            raise UsageError(
                f"persona {name}: has {one_line(str(whole.source))} {coefficient:g} times, expected at most "
                f"{MAX_COEFFICIENT:g} in size"
            )
        if whole.bound is not None and coefficient not in (0.0, 1.0):
            raise UsageError(
                f"persona {name}: has the bound {whole.bound:g} on {one_line(str(whole.source))} {coefficient:g} "
                "times: give it once, and another BOUND for another strength"
            )
    return tuple(whole._replace(coefficient=coefficient) for whole, coefficient in sums.items())


def _meant(name: str, term: Term, run: Mapping[str, str], above: tuple[str, ...]) -> tuple[Change, ...]:
    if is_vector(term):
        vector = parse_vector(term.name)
        if vector is None:
            raise UsageError(f"persona {name}: {show(term.name)} is not {VECTOR_FORM}: give them as numbers")
        file, layer, bound = vector
        return (Change(Path(file), layer=layer, bound=bound),)
    if term.name in run and term.name != name and not term.is_folder:
        if term.name in above:
            raise UsageError(f"personas {name} and {term.name} are each made of the other: give one a folder")
        other, equals, _ = run[term.name].partition("=")
        _, adapter, _ = split_spec(run[term.name])
        found = parse_persona(other).changes if not equals else ()
        if equals and not adapter.startswith(FULL) and not is_api(adapter):
            found = _changes(other, adapter, run, (*above, name))
        if not found:
            raise UsageError(f"persona {name}: {term.name} has no adapter or vector that could be a part of it")
        return found
    if term.name.startswith(HUB) and not term.is_folder:
        # Here: it is slow to import, and --help needs none of it.
        from warmeng.engine.registry import fetch_adapter

        repository, _, revision = term.name.removeprefix(HUB).partition("@")
        return (Change(fetch_adapter(repository, revision or None)),)
    if _is_dir(Path(term.name)):
        # Of a training run its last checkpoint; ``remarks`` says so.
        run_of = epochs(Path(term.name)) or epochs(Path(term.name) / name)
        return (Change(run_of[-1][1] if run_of else Path(term.name)),)
    if term.name in EMBEDDED and not term.is_folder:
        return (Change(ADAPTERS / term.name),)
    expected = "the folder of a PEFT LoRA adapter or of a merged checkpoint"
    sums = f", {HUB}OWNER/NAME, or a sum of them such as warm*0.5-cold*0.3"
    raise InputError(f"persona {name}: {one_line(term.name)} is not a folder: expected {expected}{sums}")


def default_personas(model: str, dosed: bool = False) -> tuple[str, ...]:
    """Return the personas that are compared unless told: the built-in model's adapters, or system prompts.

    The adapters are compared in two doses, but where ``dosed`` says that others are asked for.
    """
    if model == BUILT_IN_MODEL:
        twice = () if dosed else tuple(f"{name}_x2={name}*2" for name in EMBEDDED)
        return (BASELINE, *EMBEDDED, *twice)
    return (BASELINE, *(f"{name}-prompt" for name in EMBEDDED))


def load_personas(specs: Sequence[str]) -> tuple[Persona, ...]:
    """Parse all specs; ``UsageError`` where a name is given twice."""
    names = [spec.partition("=")[0] for spec in specs]
    if len(set(names)) != len(names):
        raise UsageError(f"persona {next(n for n in names if names.count(n) > 1)!r} is given twice: use two names")
    run = dict(zip(names, specs, strict=True))
    return tuple(parse_persona(spec, run) for spec in specs)


def remarks(personas: Sequence[Persona], specs: Sequence[str]) -> list[str]:
    """Return what must be known of personas as they were given: whose last checkpoint is taken, and who is alone."""
    found = [
        f"persona {name}: of the training its last checkpoint is taken, {one_line(change.source)}"
        for change, name in sources_of(personas).items()
        if EPOCH.fullmatch(change.source.name) and not any(str(change.source) in spec for spec in specs)
    ]
    if len(personas) == 1 and personas[0].name != BASELINE:
        found.append(f"persona {personas[0].name} is alone: nothing is compared; add --persona {BASELINE}")
    return found


def on_base(personas: Iterable[Persona]) -> tuple[Persona, ...]:
    """Return the personas that are the base, with a change or without."""
    return tuple(persona for persona in personas if persona.model is None)


def sources_of(personas: Iterable[Persona]) -> dict[Change, str]:
    """Return the personas' adapters and vectors, each whole and once, with the first persona that has it."""
    found: dict[Change, str] = {}
    for persona in personas:
        for change in persona.changes:
            found.setdefault(change._replace(coefficient=1.0), persona.name)
    return found


def doses_of(personas: Iterable[Persona]) -> dict[str, tuple[str, float]]:
    """Return the family and the dose of each persona that is one change of the base at some strength.

    A family is an adapter or a vector, and has the name of the persona at dose 1, or of its first; or it is a system
    prompt, at dose 1. A sum is none, nor is a bound, or an adapter beside a system prompt. Of two personas at one dose
    the first counts. The persona without any change is dose 0 of every family, and has the family "". Empty where
    there is none, or where no family has two doses beside 0: then there is nothing to see over a dose.
    """
    personas = on_base(personas)
    base = next((persona.name for persona in personas if not persona.changes and not persona.system), None)
    members: dict[tuple[Change | None, str | None], dict[float, str]] = {}
    for persona in personas:
        if len(persona.changes) == 1 and not persona.system:
            [change] = persona.changes
            if change.bound is not None:
                continue
            whole = change._replace(coefficient=1.0, source=change.source.resolve())
            members.setdefault((whole, None), {}).setdefault(change.coefficient, persona.name)
        elif persona.system and not persona.changes:
            members.setdefault((None, persona.system), {}).setdefault(1.0, persona.name)
    if base is None or not any(len(set(doses) - {0.0}) > 1 for doses in members.values()):
        return {}
    return {base: ("", 0.0)} | {
        name: (doses.get(1.0, next(iter(doses.values()))), dose)
        for doses in members.values()
        for dose, name in doses.items()
    }


def by_model(personas: Iterable[Persona]) -> dict[str, tuple[Persona, ...]]:
    """Return the personas that are models of their own, by model."""
    found: dict[str, tuple[Persona, ...]] = {}
    for persona in personas:
        if persona.model is not None:
            found[persona.model] = (*found.get(persona.model, ()), persona)
    return found


def unlike(same_template: bool, same_tokenizer: bool) -> str:
    """Describe how a ``full:`` model differs from the base beside its weights, and what that means."""
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
    if name.startswith(INLINE):
        text, source = name.removeprefix(INLINE).strip(), f"@{INLINE}"
    else:
        path = PROMPTS / f"{name}.txt" if name in EMBEDDED else Path(name)
        text, source = read_text(path).strip(), str(path)
    if not text:
        raise InputError(f"{source}: is empty: expected the text of a system prompt")
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
