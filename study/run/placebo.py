"""Placebos: adapters of random directions, as far from the base as a real one, so that any change isn't taken for its.

A placebo has the reference's rank, targets and norm in each module; its coefficient is then found so that its measured
KL from the base on held-out prompts is the reference's within 10 %, at temperature 1, where it is a KL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmeng.common.errors import InputError, UsageError
from warmeng.common.storage import write_folder
from warmeng.engine.adapter_folder import save_adapter
from warmeng.engine.adapters import Adapter, load_adapter
from warmeng.engine.random_adapter import random_like, scaled
from warmeng.study.personas import Change, Persona
from warmeng.study.run.models import load_engine
from warmeng.study.settings import StudySettings
from warmeng.study.warmth.divergence import Divergence, divergences
from warmeng.study.warmth.responses import HELDOUT, RESPONSE_TOKENS, load_prompts, respond

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine

TEMPERATURE = 1.0
TOLERANCE = 0.1
# Measurements of every placebo, at most.
PASSES = 10
# One step changes a coefficient by no more than this factor.
STRIDE = 8.0
REFERENCE = "like"

# Coefficients by seed -> KL by seed.
Measure = Callable[[Mapping[int, float]], Mapping[int, float]]


@dataclass(frozen=True)
class Placebo:
    """A placebo as it was written."""

    folder: Path
    seed: int
    coefficient: float
    kl: Divergence


@dataclass(frozen=True)
class Made:
    """The placebos of one reference, whose own KL is ``reference``."""

    reference: Divergence
    placebos: tuple[Placebo, ...]


def match(
    measure: Measure, seeds: Sequence[int], target: float, tolerance: float = TOLERANCE, passes: int = PASSES
) -> dict[int, float]:
    """Return for each seed a coefficient whose measured KL is ``target`` within a share ``tolerance``.

    All seeds are measured together, from coefficient 1 on. KL grows about as a power of the coefficient (2, until two
    measurements tell another), so the next one follows from what was missed; once it is between two that were measured,
    it is on the line between their logarithms, or their geometric mean where that line leaves them. Raises
    ``InputError`` where ``passes`` measurements are too few.
    """
    found: dict[int, float] = {}
    tried: dict[int, list[tuple[float, float]]] = {seed: [] for seed in seeds}
    trial = dict.fromkeys(seeds, 1.0)
    for _ in range(passes):
        for seed, kl in measure(trial).items():
            tried[seed].append((trial[seed], kl))
            if abs(kl - target) <= tolerance * target:
                found[seed] = trial[seed]
        trial = {seed: _next(tried[seed], target) for seed in seeds if seed not in found}
        if not trial:
            return {seed: found[seed] for seed in seeds}
    seed = next(iter(trial))
    told = ", ".join(f"{c:.3g}: {kl:.3g}" for c, kl in sorted(tried[seed]))
    raise InputError(
        f"seed {seed}: no coefficient gives a KL of {target:.3g} within {tolerance:.0%} after {passes} measurements "
        f"({told}): give more prompts or another seed"
    )


def _next(tried: Sequence[tuple[float, float]], target: float) -> float:
    below = max((c for c, kl in tried if kl < target), default=None)
    above = min((c for c, kl in tried if kl >= target and (below is None or c > below)), default=None)
    kls = dict(tried)
    if below is None or above is None:
        last, kl = tried[-1]
        power = _power(tried) or 2.0
        factor = (target / kl) ** (1 / power) if kl > 0 else STRIDE
        return last * min(STRIDE, max(1 / STRIDE, factor))
    middle = math.sqrt(below * above)
    if kls[below] <= 0:
        return middle
    share = math.log(target / kls[below]) / math.log(kls[above] / kls[below])
    guess = below * (above / below) ** share
    return guess if below < guess < above else middle


def _power(tried: Sequence[tuple[float, float]]) -> float | None:
    """Return the power of the coefficient that KL grew by between the last two measurements; None without a growth."""
    if len(tried) < 2 or min(kl for _, kl in tried[-2:]) <= 0:
        return None
    (c, kl), (c2, kl2) = tried[-2:]
    power = math.log(kl2 / kl) / math.log(c2 / c)
    return min(4.0, power) if power > 0.5 else None


def make_placebos(
    settings: StudySettings,
    like: Path,
    seeds: Sequence[int],
    out: Path,
    prompts_file: Path | None = None,
    limit: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Made:
    """Write a placebo ``out/seed-N`` for each seed and return them with the reference's KL.

    Raises ``UsageError`` where ``out`` has something already or a seed is given twice, ``InputError`` for input that is
    not sound, a reference whose KL can't be told from 0, and as ``match``; ``StorageError`` where it can't be written.
    """
    _check(seeds, out)
    prompts = load_prompts(prompts_file or HELDOUT, limit)
    say(f"loading {settings.model}")
    engine = load_engine(settings)
    reference = engine.add_adapter(REFERENCE, like)
    randoms = {seed: random_like(reference, seed) for seed in seeds}
    for seed, adapter in randoms.items():
        engine.add_adapter(f"seed-{seed}", adapter)
    say(f"{like}: answering {len(prompts)} held-out prompts")
    aim = _measured(engine, [Persona(REFERENCE, (Change(like),))], prompts, settings.seed)[REFERENCE]
    target = aim.per_token.mean
    if target is None or aim.per_token.low is None or aim.per_token.low <= 0:
        raise InputError(f"{like}: its KL from the base is not shown to be above 0: give an adapter that changes more")
    say(f"{like}: KL {target:.4f} nats a token (s.e. {aim.per_token.se:.4f})")
    kls: dict[tuple[int, float], Divergence] = {}

    def measure(trial: Mapping[int, float]) -> dict[int, float]:
        personas = []
        for seed, coefficient in trial.items():
            name = f"seed-{seed}*{coefficient!r}"
            engine.add_mixture(name, {f"seed-{seed}": coefficient})
            personas.append(Persona(name, (Change(like, coefficient),)))
        got = _measured(engine, personas, prompts, settings.seed)
        found = {}
        for (seed, coefficient), kl in zip(trial.items(), got.values(), strict=True):
            kls[seed, coefficient] = kl
            found[seed] = kl.per_token.mean or 0.0
            say(f"seed {seed}: coefficient {coefficient:.4g}, KL {found[seed]:.4f} ({found[seed] / target:.0%} of it)")
        return found

    coefficients = match(measure, seeds, target)
    placebos = []
    for seed, coefficient in coefficients.items():
        kl, folder = kls[seed, coefficient], out / f"seed-{seed}"
        adapter = scaled(randoms[seed], coefficient)
        manifest = {
            "kind": "placebo", "base": settings.model, "base_hash": engine.model.hash,
            "like": {"folder": str(like), "hash": reference.hash, "kl": aim.facts},
            "seed": seed, "coefficient": coefficient, "kl": kl.facts, "noise_seed": settings.seed,
        }  # fmt: skip
        _write(folder, adapter, manifest)
        placebos.append(Placebo(folder, seed, coefficient, kl))
    return Made(aim, tuple(placebos))


def _write(folder: Path, adapter: Adapter, manifest: Mapping[str, Any]) -> None:
    write_folder(folder, lambda place: save_adapter(place, adapter, manifest))


def _check(seeds: Sequence[int], out: Path) -> None:
    if len(set(seeds)) < len(seeds) or not seeds:
        raise UsageError(f"seeds are {', '.join(map(str, seeds)) or 'none'}, expected different ones")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already: choose a new folder")


def _measured(
    engine: Engine, personas: Sequence[Persona], prompts: Sequence[tuple[str, str]], seed: int
) -> dict[str, Divergence]:
    responses = respond(engine, personas, prompts, seed, TEMPERATURE)
    return divergences(engine, personas, prompts, responses, TEMPERATURE)


def plan(
    settings: StudySettings, like: Path, seeds: Sequence[int], out: Path, prompts_file: Path | None, limit: int
) -> list[tuple[str, str]]:
    """Return what ``make_placebos`` would do as (what, how much) lines; no weights of the base are read."""
    from warmeng.engine.config import read_config
    from warmeng.engine.registry import resolve_model

    _check(seeds, out)
    prompts = load_prompts(prompts_file or HELDOUT, limit)
    adapter = load_adapter(like, read_config(resolve_model(settings.model, settings.revision).folder))
    modules = sum(map(len, adapter.layers))
    numbers = sum(a.numel() + b.numel() for layer in adapter.layers for a, b in layer.values())
    responses = len(prompts) * (1 + PASSES * len(seeds))
    return [
        ("reference", f"{like}: rank {adapter.rank}, {modules} modules ({', '.join(adapter.targets)})"),
        ("placebos", f"{len(seeds)}, each of {numbers:,} numbers: {', '.join(str(out / f'seed-{s}') for s in seeds)}"),
        ("passes", f"1 of the reference, then up to {PASSES} of all placebos that are not found yet"),
        ("responses", f"up to {responses:,} of up to {RESPONSE_TOKENS} tokens, each scored twice"),
    ]


def lines(made: Made) -> list[str]:
    """Return the result as lines of a table."""
    aim = made.reference.per_token
    assert aim.mean is not None
    found = [f"{'placebo':<24}  {'coefficient':>11}  {'KL':>8}  {'s.e.':>8}  {'of the reference':>16}"]
    found.append(f"{'(reference)':<24}  {'':>11}  {aim.mean:>8.4f}  {aim.se or 0:>8.4f}  {'':>16}")
    for one in made.placebos:
        kl = one.kl.per_token
        assert kl.mean is not None
        found.append(
            f"{one.folder!s:<24}  {one.coefficient:>11.4g}  {kl.mean:>8.4f}  {kl.se or 0:>8.4f}  "
            f"{kl.mean / aim.mean:>16.1%}"
        )
    return found
