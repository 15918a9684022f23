"""Personas as algebra: sums of adapters times coefficients, and what stands for several personas.

A sum is written as in ``warm*0.5-cold*0.3``. A sign begins the next term only after a coefficient, because folders'
names may hold ``+`` and ``-``; so every term but the last needs its coefficient (``*1``). A term in square brackets is
a folder as it stands: ``[runs/a*2-b]*0.5``. A term ``vector:FILE:LAYER`` is a steering vector,
``vector:FILE:LAYER^BOUND`` a bound on the projection onto it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from warmeng.common.errors import InputError, UsageError, show

_NUMBER = r"[+-]?(?:[0-9]{1,9}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})"
_TERM = re.compile(
    rf"(?P<sign>[+-]?)(?:\[(?P<held>[^\[\]]+)\](?:\*(?P<factor>{_NUMBER}))?(?=[+-]|$)"
    rf"|(?P<name>[^\[].*?)(?:\*(?P<times>{_NUMBER})(?=[+-]|$)|$))"
)
EPOCH = re.compile(r"epoch-([0-9]+(?:\.[0-9]+)?)")
# Before a steering vector's file.
VECTOR = "vector:"
VECTOR_FORM = f"{VECTOR}FILE:LAYER or {VECTOR}FILE:LAYER^BOUND"
_VECTOR = re.compile(rf"{VECTOR}(?P<file>.+):(?P<layer>[0-9]{{1,9}})(?:\^(?P<bound>{_NUMBER}))?")
# Before a system prompt that is written out in place of its file.
INLINE = "text:"
DOSES_FORM = "NAME=DOSE,DOSE"
CHECKPOINTS_FORM = SEEDS_FORM = "NAME=FOLDER"
# What folders and personas of a training's seed are named with.
SEED = "seed-"


class Term(NamedTuple):
    """A term as it is written. ``is_folder``: it stood in brackets, so it names no persona."""

    name: str
    coefficient: float
    is_folder: bool = False


def parse_sum(text: str) -> list[Term]:
    """Return the terms of a sum; a text that is none is one term with coefficient 1."""
    terms: list[Term] = []
    start = 0
    while start < len(text):
        match = _TERM.match(text, start)
        if match is None or (start == 0 and match["sign"]):
            return [Term(text, 1.0)]
        value = float(match["factor"] or match["times"] or 1.0)
        # Adding zero turns -0 into 0.
        signed = (-value if match["sign"] == "-" else value) + 0.0
        terms.append(Term(match["held"] or match["name"], signed, match["held"] is not None))
        start = match.end()
    return terms


def words_of(terms: Sequence[Term]) -> str:
    """Return a sum of adapters in words; folders by their last part."""
    told = ""
    for term in terms:
        value, joint = term.coefficient, ""
        if told:
            value, joint = abs(value), " minus " if value < 0 else " plus "
        told += joint + ("" if value == 1.0 else f"{value:g} times ") + _name_in_words(term)
    return told


def _name_in_words(term: Term) -> str:
    if not is_vector(term):
        return f"the adapter {Path(term.name).name}"
    file, _, place = term.name.removeprefix(VECTOR).rpartition(":")
    layer, _, bound = place.partition("^")
    at_most = f"a projection of at most {bound} on " if bound else ""
    return f"{at_most}the vector {Path(file).name} after layer {layer}"


def is_vector(term: Term) -> bool:
    """Whether a term is written as a steering vector."""
    return term.name.startswith(VECTOR) and not term.is_folder


def parse_vector(text: str) -> tuple[str, int, float | None] | None:
    """Return file, layer and bound or None of ``vector:FILE:LAYER[^BOUND]``; None for another text."""
    match = _VECTOR.fullmatch(text)
    if match is None:
        return None
    return match["file"], int(match["layer"]), None if match["bound"] is None else float(match["bound"])


def split_spec(spec: str) -> tuple[str, str, str]:
    """Return name, adapter and prompt of ``NAME=[ADAPTER][@PROMPT]`` as text.

    The first ``@text:`` divides, where a prompt is written out; else the last ``@``.
    """
    name, _, rest = spec.partition("=")
    if f"@{INLINE}" in rest:
        adapter, _, prompt = rest.partition(f"@{INLINE}")
        return name, adapter, INLINE + prompt
    adapter, _, prompt = rest.rpartition("@") if "@" in rest else (rest, "", "")
    return name, adapter, prompt


def expand(
    personas: Sequence[str], doses: Sequence[str] = (), checkpoints: Sequence[str] = (), seeds: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the specs of personas with those that doses, checkpoints and seeds stand for.

    ``doses``: ``NAME=-1,0,0.5`` of a persona's adapter. They are named ``NAME_x0.5``: names appear in files, where
    ``*`` is not safe. Dose 1 is the persona itself. ``checkpoints``: ``NAME=FOLDER`` of a persona's training run, with
    folders ``epoch-2``, named ``NAME_epoch-2``. ``seeds``: ``NAME=FOLDER`` of trainings that differ in their seed,
    with folders ``seed-2/NAME`` of which the last checkpoint is taken, or adapters ``seed-2``; named ``NAME_seed-2``.

    Raises ``UsageError`` for a malformed one, ``InputError`` for a folder without checkpoints, or with one seed.
    """
    found = list(personas)
    for spec in seeds:
        name, equals, folder = spec.partition("=")
        if not equals or not name or not folder:
            raise UsageError(f"seeds {show(spec)} is not {SEEDS_FORM}: give a name and a folder of trainings")
        trained = trainings(Path(folder), name)
        if len(trained) < 2:
            raise InputError(
                f"{folder}: has {len(trained)} seeds of {show(name)}, expected two or more: folders such as "
                f"seed-0/{name}/epoch-2 or seed-0 with PEFT adapters"
            )
        found += [f"{name}_{SEED}{seed}={_as_adapter(path)}" for seed, path in trained]
    for spec in checkpoints:
        name, equals, folder = spec.partition("=")
        if not equals or not name or not folder:
            raise UsageError(f"checkpoints {show(spec)} is not {CHECKPOINTS_FORM}: give a name and a training folder")
        run = epochs(Path(folder))
        if not run:
            raise InputError(f"{folder}: has no checkpoints: expected folders such as epoch-2 with PEFT adapters")
        found += [f"{name}_{path.name}={_as_adapter(path)}" for _, path in run]
    for spec in doses:
        found += _doses(spec, {given.partition("=")[0]: given for given in found})
    return tuple(found)


def _doses(spec: str, given: Mapping[str, str]) -> list[str]:
    name, _, listed = spec.partition("=")
    texts = listed.split(",")
    if not all(re.fullmatch(_NUMBER, text.strip()) for text in texts):
        raise UsageError(f"doses {show(spec)} is not {DOSES_FORM}: give a persona and numbers, as in warm=-1,0,0.5,1")
    if name not in given:
        raise UsageError(f"doses {show(spec)}: no persona is named {show(name)}: give it with --persona as well")
    _, _, prompt = split_spec(given[name])
    values = sorted({float(text) + 0.0 for text in texts} - {1.0})
    return [f"{name}_x{_text(value)}={name}*{_text(value)}{f'@{prompt}' if prompt else ''}" for value in values]


def recipes_of(specs: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the personas that are training seeds of one recipe, by its name: two or more ``NAME_seed-2``."""
    found: dict[str, list[str]] = {}
    for name in (spec.partition("=")[0] for spec in specs):
        if match := re.fullmatch(rf"(.+)_{SEED}[0-9]+", name):
            found.setdefault(match[1], []).append(name)
    return {recipe: tuple(names) for recipe, names in found.items() if len(names) > 1}


def is_dose(name: str) -> bool:
    """Whether a persona's name is one that ``expand`` gives to a dose: what is told of the persona isn't told of it."""
    return re.search(r"_x-?[0-9]+(\.[0-9]+)?$", name) is not None


def _text(value: float) -> str:
    """Return a number without an exponent or trailing zeros."""
    return f"{value:.12f}".rstrip("0").rstrip(".")


def _as_adapter(folder: Path) -> str:
    """Return a folder as it must be written in a persona."""
    text = str(folder)
    text = f"[{text}]" if "*" in text else text
    return f"{text}@" if "@" in text else text


def trainings(folder: Path, name: str) -> list[tuple[int, Path]]:
    """Return the last adapter of each training of a persona, by ascending seed: see ``expand``."""
    found = []
    for path in folder.glob(f"{SEED}*"):
        if match := re.fullmatch(rf"{SEED}([0-9]+)", path.name):
            adapter = path if (path / "adapter_config.json").exists() else None
            last = epochs(path / name)
            if adapter or last:
                found.append((int(match[1]), adapter or last[-1][1]))
    return sorted(found)


def epochs(folder: Path) -> list[tuple[float, Path]]:
    """Return the checkpoints of one persona's training, ascending: epoch and folder of ``FOLDER/epoch-N``."""
    found = [(EPOCH.fullmatch(path.name), path) for path in folder.glob("epoch-*")]
    return sorted((float(m[1]), path) for m, path in found if m and (path / "adapter_config.json").exists())
