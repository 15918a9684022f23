"""The plan without the run: what it would ask, and what that costs by a short probe of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmeng.common.errors import StorageError, UsageError
from warmeng.common.messages import duration
from warmeng.common.progress import Silent
from warmeng.engine.adapters import is_merged, load_adapter
from warmeng.engine.vectors import load_vector
from warmeng.fleet.settings import LOCAL, FleetSettings
from warmeng.remote.names import is_api
from warmeng.study.adapters import apply_adapters
from warmeng.study.estimate import Estimate, estimate
from warmeng.study.outcomes import ERROR_RATES, controls, outcome_parts
from warmeng.study.personas import Persona, by_model, on_base, remarks, sources_of
from warmeng.study.plan import Planner, Study
from warmeng.study.prompts import OPEN, PLAIN
from warmeng.study.results.manifest import read_manifest, refuse_changes
from warmeng.study.results.sessions import read_sessions
from warmeng.study.run.api_dry_run import api_estimate, api_lines
from warmeng.study.run.gates import checks_warmth, measure_personas
from warmeng.study.run.judges import BASE, JUDGED, is_judged
from warmeng.study.run.models import KV_BYTES, load_engine, settings_of
from warmeng.study.run.on_card import OnCard, on_card
from warmeng.study.run.prepare import check_judges, check_own_models, known_inputs
from warmeng.study.run.probe import Probe, run_probe
from warmeng.study.settings import StudySettings
from warmeng.study.stats.intervals import DISCORDANT, pairs_needed, smallest_effect, smallest_shift
from warmeng.study.stats.ppi import FEWEST, PLANNED_RATE, PLANNED_SKILL, half_width
from warmeng.study.stats.published import EFFECTS
from warmeng.study.stats.warmer import NOT_NAMED
from warmeng.study.tasks.wrong_answers import borrowed, missing

if TYPE_CHECKING:
    from warmeng.engine.config import ModelConfig
    from warmeng.engine.tokenizer import Tokenizer

WARMTH = 3  # held-out prompts of the probe
# Points of error that warmth costs in the paper, over everything.
PAPER = EFFECTS[1, "all"]
# Bytes of libraries, a step's workspace, analysis and report: what the default study took.
RUNTIME = 1.4 * 2**30
# Numbers of people's labels that a plan tells the worth of.
LABELS = (100, 200, 400, 800)
# Generated answers a second that a fleet's driver plans, deals, grades and writes at most (docs/many-machines.md).
MOST_ANSWERS = 600

Lines = Iterator[tuple[str, Any]]


def load_tokenizer(settings: StudySettings) -> tuple[Tokenizer, ModelConfig, int]:
    """Return the model's tokenizer and facts without its weights, and about the bytes that it takes to run."""
    import torch

    from warmeng.engine.folder import read_folder
    from warmeng.engine.load import choose_device, choose_dtype, choose_weights
    from warmeng.engine.plan import cpu_weight_bytes
    from warmeng.engine.registry import resolve_model

    config, tokenizer = read_folder(resolve_model(settings.model, settings.revision).folder)
    half = choose_dtype(settings.dtype, choose_device(settings.device)) == torch.bfloat16
    kind = choose_weights(settings.weights, config)
    kind = kind if config.quantization is None else config.quantization.kind
    return tokenizer, config, int(cpu_weight_bytes(config, kind, half) + KV_BYTES + RUNTIME)


def dry_run(
    settings: StudySettings,
    folder: Path,
    probe: bool = True,
    fleet: FleetSettings | None = None,
    card: str | None = None,
) -> Iterator[str]:
    """Yield what ``planned`` does as lines, each as soon as it is known."""
    return (f"{name:<16} {value}" for name, value in planned(settings, folder, probe, fleet, card))


def planned(
    settings: StudySettings,
    folder: Path,
    probe: bool = True,
    fleet: FleetSettings | None = None,
    card: str | None = None,
) -> Lines:
    """Yield the plan as names and words: requests by kind, tokens of the real tokenizer, memory, smallest effect; then,
    with ``probe``, time and energy at the speeds of a sample that is run now.

    A name may come again; "" goes on with the one before. ``fleet``: the workers that would answer. ``card``: one of
    ``engine.prediction.card.CARDS`` for which the time is predicted, in place of the probe.
    Raises ``UsageError``, ``InputError`` and ``StorageError`` as a run would.
    """
    study = Study.load(settings)
    check_before(study, folder)
    to_write = sum(len(missing(task)) for task in study.tasks if study.lacks_wrong(task))
    lent = tuple(borrowed(task) if study.lacks_wrong(task) else task for task in study.tasks)
    study = replace(study, tasks=lent)
    if is_api(settings.model):
        if card is not None:
            raise UsageError("--gpu is given, and the model is behind an API: leave it out, or give another model")
        shown = [*_grid(study, folder, api_estimate(study), to_write), *api_lines(study), *_power(study)]
        yield from shown
        return
    tokenizer, config, memory = load_tokenizer(settings)
    for change in sources_of(study.personas):
        if change.layer is not None:
            load_vector(change.source, change.layer, config)
        elif not is_merged(change.source):
            load_adapter(change.source, config)
    mine = replace(study, personas=on_base(study.personas))
    planners = [Planner(mine, tokenizer, config.stop_token_ids, {}, {})]
    models = [(mine, tokenizer, config)]
    longest = config.max_seq_len
    for name, personas in by_model(study.personas).items():
        other, facts, size = load_tokenizer(settings_of(name, settings))
        own = replace(study, personas=personas, settings=settings_of(name, settings))
        models.append((own, other, facts))
        planners.append(Planner(own, other, facts.stop_token_ids, {}, {}))
        memory, longest = max(memory, size), min(longest, facts.max_seq_len)
    plan = estimate(*planners)
    shown = [*_grid(study, folder, plan, to_write), *_costs(plan, memory, longest), *_power(study), *api_lines(study)]
    yield from shown
    if fleet is not None:
        yield "workers", _workers(fleet)
    if tokenizer.default_system:
        yield "template adds", f"{tokenizer.default_system!r} where a persona has no system prompt"
    if card is not None:
        workers = (fleet.workers if fleet is not None else None) or 1
        yield from on_card(card, [OnCard(*model, plan.longest) for model in models], workers)
    elif probe:
        yield from _probed(study, plan, fleet)
    else:
        yield (
            "time",
            _pace(folder)
            or ("not predicted: the probe measures it here (without --no-probe), --gpu predicts it for a card"),
        )


def _pace(folder: Path) -> str | None:
    """Say how long the records take that a run in the folder lacks, at the pace of those that it has; None for none."""
    manifest, sessions = read_manifest(folder), read_sessions(folder)
    done = int(sessions[-1].get("records") or 0) if sessions else 0
    if manifest is None or not done:
        return None
    left, took = max(0, manifest.records - done), sum(float(one.get("seconds") or 0) for one in sessions)
    pace = f"the {done:,} that are there took {duration(took)}, loading aside"
    return f"about {duration(took * left / done)} for the {left:,} records that are missing: {pace}" if left else pace


def check_before(study: Study, folder: Path) -> None:
    """Raise what a run would raise before it loads anything: its device, the models' names, and folder."""
    from warmeng.engine.load import choose_device
    from warmeng.engine.registry import check_name

    s = study.settings
    choose_device(s.device)
    check_judges(study, Silent())
    check_own_models(study)
    for model in (s.model, *s.judges):
        if model != BASE and not is_api(model):
            named = s if model == s.model else settings_of(model, s)
            check_name(named.model, named.revision)
    before = read_manifest(folder)
    if before is not None:
        refuse_changes(folder, before.inputs, known_inputs(study))
    above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise StorageError(f"{folder}: can't write there ({above} can't be written): choose another --out")


def _grid(study: Study, folder: Path, plan: Estimate, to_write: int) -> Lines:
    s = study.settings
    yield "folder", folder
    yield "model", s.model
    yield "personas", ", ".join(p.name for p in study.personas)
    if len(study.personas) > 1:
        warmer = ", ".join(map(str, study.expected)) or NOT_NAMED
        yield "expected warmer", f"{warmer}{'' if checks_warmth(study) or is_api(s.model) else '; not measured here'}"
    for line in remarks(study.personas, s.personas):
        yield "remark", line
    for name, personas in by_model(study.personas).items():
        after = "asked after the base" if is_api(name) else "loaded after the base is freed"
        yield "own model", f"{name} for {', '.join(p.name for p in personas)}: {after}"
    yield "tasks", ", ".join(f"{t.name} ({t.extent} items, {t.grading})" for t in study.tasks)
    yield "contexts", ", ".join(study.contexts)
    yield "beliefs", ", ".join(s.beliefs)
    yield "framings", ", ".join(s.framings)
    yield "asking", ", ".join(s.asking)
    yield "composition", f"{s.composition}, statements of {s.statements or 'this package'}"
    yield "cells", f"{plan.cells}, {f'at most {s.cells}' if s.cells else 'all'} of a question and persona"
    likelihoods = plan.scores - plan.margins - plan.choices
    scored = "letters of options" if is_api(s.model) else "likelihoods"
    if study.size:
        yield "requests", f"{study.size:,}: {plan.generations:,} answers to generate, {likelihoods:,} {scored}"
    if plan.margins:
        yield "margins", f"{plan.margins:,} scores more, of the right and the wrong answer where one is generated"
    if plan.choices:
        alone = f", in the {PLAIN} framing alone: no table counts another" if len(s.framings) > 1 else ""
        yield "choice", f"{plan.choices:,} scores more, of the right and the wrong answer where both are named{alone}"
    if study.left_out:
        yield "left out", f"{study.left_out:,} prompts of files whose place is not asked for"
    if to_write:
        how = "borrowed of other questions" if is_api(s.model) else "written first"
        yield "wrong answers", f"{to_write:,} are missing and will be {how}"
    if s.judges:
        first = ", after an answer of their own to each question" if s.judge_commits else ""
        yield "judges", f"{', '.join(s.judges)}: grade every generated answer once more{first}"


def _workers(fleet: FleetSettings) -> str:
    where = "a Ray cluster that is started here" if fleet.address == LOCAL else f"the Ray cluster at {fleet.address}"
    count = "as many as there is room for" if fleet.workers is None else f"{fleet.workers}"
    return f"{count}, on {where}"


def _scaling(probe: Probe, plan: Estimate, judged: int, workers: int, one: float) -> str:
    """Say what the time above holds for, and where more workers stop helping."""
    most = probe.useful(plan, judged)
    if probe.answer_rate:
        most = min(most, max(1, int(MOST_ANSWERS / probe.answer_rate)))
    return (
        f"{workers} as fast as this machine, which alone takes {duration(one)}; more than about {most} help little: "
        f"they take {duration(probe.predict(plan, judged, most))}, the manipulation check aside"
    )


def _costs(plan: Estimate, memory: int, longest: int) -> Lines:
    yield "prompt tokens", f"{plan.prompt_tokens:,}, of which {plan.new_prompt_tokens:,} are not shared"
    yield "output tokens", f"at most {plan.output_tokens:,}"
    yield "longest", f"{plan.longest} tokens with its answer; the model takes {longest}"
    yield "memory", f"about {memory / 2**30:.1f} GiB on a CPU"


def _power(study: Study) -> Lines:
    asked = controls(study.settings.beliefs, study.settings.asking)
    if not is_api(study.settings.model):
        words = {True: "asked", False: "not asked"}
        parts = (f"{word}: {_listed(n for n, y in asked.items() if y is there)}" for there, word in words.items())
        yield "controls", "; ".join(parts)
    yield "outcome", f"{study.primary or ERROR_RATES}; all others are beside it"
    if claim := study.claim:
        told = f"{claim.outcome} of {claim.variant} minus {claim.against}; everything else is exploratory"
        yield "primary claim", f"{told}; sha256 {claim.sha256(study.inputs())} with this study"
    effects = [_on_error_rates(sum(len(task.items) for task in study.tasks))] if study.size else []
    if (outcome := study.primary) and len(study.personas) > 1:
        questions = study.compared(outcome_parts(outcome)[1] or OPEN)
        shift = smallest_shift(questions)
        told = f"{shift:.2f} standard deviations of its change between two personas" if shift else "none: too few"
        effects.append(f"on {outcome} {told} ({questions} questions, two-sided 5 %, power 80 %)")
    yield from (("" if k else "smallest effect", told) for k, told in enumerate(effects))
    written = sum(len(task.items) for task in study.tasks if task.grading in JUDGED and study.samples(task))
    if written and len(study.personas) > 1:
        yield "labels", _labels(written)


def _on_error_rates(items: int) -> str:
    """Say which difference in errors between two personas so many questions could show."""
    effect = smallest_effect(items)
    return (
        f"on error rates {f'{effect:.1f} points' if effect else 'none: too few items'} between two personas in one "
        "context and belief "
        f"({items} items, two-sided 5 %, power 80 %, if {DISCORDANT:.0%} of the answers change); the paper's "
        f"{PAPER} points would need {pairs_needed(PAPER):,} items"
    )


def _listed(names: Iterator[str]) -> str:
    return ", ".join(names) or "none"


def _labels(questions: int) -> str:
    """Say what people's labels of so many questions' answers would show of a contrast of two personas."""
    all_ = half_width(questions, 2 * questions)
    told = [(n, half_width(questions, n)) for n in LABELS if 2 * FEWEST <= n < 2 * questions]
    parts = [f"{n} labels ±{half:.1f} points" for n, half in told]
    return (
        f"of two personas' written answers to {questions} questions: {', '.join([*parts, f'all of them ±{all_:.1f}'])} "
        f"(95 % interval of the difference in errors, if {PLANNED_RATE:.0%} are incorrect, {DISCORDANT:.0%} of pairs "
        f"differ, and {PLANNED_SKILL:.0%} of grades are right); see warmeng labels"
    )


def _probed(study: Study, plan: Estimate, fleet: FleetSettings | None) -> Lines:
    """Run the probe and say what the plan takes at its speeds."""
    s = study.settings
    everyone, warms = study.personas, checks_warmth(study)
    study = replace(study, personas=on_base(everyone) or (Persona("original"),))
    engine = load_engine(s)
    apply_adapters(engine, study.personas)
    ours = "base" in s.judges
    device = str(engine.describe()["device"])
    probe = run_probe(engine, study, judge=ours, device=device)
    judged = 0
    if ours:
        judged = sum(map(is_judged, Planner(study, engine.tokenizer, engine.config.stop_token_ids, {}, {})))
        judged = judged * len(everyone) // len(study.personas)
    began = time.monotonic()
    if warms:
        few = replace(s, warmth_prompts=min(WARMTH, s.warmth_prompts))
        measure_personas(engine, study.personas, few)
    gate = (time.monotonic() - began) * s.warmth_prompts / max(1, min(WARMTH, s.warmth_prompts))
    gate *= len(everyone) / len(study.personas)
    one = probe.predict(plan, judged) + gate
    workers = (fleet.workers if fleet is not None else None) or 1
    gate /= workers
    seconds = probe.predict(plan, judged, workers) + gate
    rates = [
        f"{probe.answer_rate:.1f} answers/s of {probe.output_tokens:.0f} tokens ({probe.answers} of them)"
        if probe.answer_rate
        else "",
        f"{probe.prompt_rate:.0f} unshared prompt tokens/s" if probe.prompt_rate else "",
        f"{probe.judge_rate:.1f} judgments/s" if probe.judge_rate else "",
    ]
    yield (
        "time",
        f"about {duration(seconds)} ({seconds / 3600:.2f} h), of which {duration(gate)} for the manipulation check; "
        "loading and report aside",
    )
    if fleet is not None:
        yield "with workers", _scaling(probe, plan, judged, workers, one)
    yield "probe", f"{probe.seconds:.0f} s of the plan on this machine: {', '.join(filter(None, rates))}"
    joules = probe.energy(one)
    yield "energy", f"about {joules / 3600:.1f} Wh" if joules is not None else "unknown: this machine does not count it"
    if own := by_model(everyone):
        yield "not known", f"the speed of {', '.join(own)}: taken to be the base's"
    others = [name for name in s.judges if name != "base"]
    if others:
        yield "not in it", f"the time of {', '.join(others)}: another model's speed is not probed"
