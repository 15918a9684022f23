"""What comes before a run's first answer: every model loaded once, the gates held, whatever changed refused."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from warmeng import __version__
from warmeng.common.errors import InputError, UsageError
from warmeng.common.progress import Progress
from warmeng.common.version import commit, sources_sha256
from warmeng.engine.identity import identity_of, surroundings
from warmeng.remote.engine import RemoteEngine
from warmeng.remote.names import is_api
from warmeng.study.adapters import AppliedAdapter, apply_adapters
from warmeng.study.api_plan import ApiPlanner
from warmeng.study.grading.grade import RULES
from warmeng.study.grading.judge import RUBRIC_VERSION
from warmeng.study.personas import doses_of, on_base
from warmeng.study.plan import Planner, Study
from warmeng.study.results.manifest import OWN_MODELS, Manifest, RunFacts, refuse_changes
from warmeng.study.results.tied import PLAN, digest
from warmeng.study.run.api import ApiOwnModel, api_facts, compare_answering
from warmeng.study.run.asking import MOST_OPEN
from warmeng.study.run.calibrate import calibrate_exact
from warmeng.study.run.execute import Part
from warmeng.study.run.gates import checks_warmth, measure_personas
from warmeng.study.run.judges import BASE, JUDGED, JudgeSpec, calibrate_judge, is_judged, keys_of, load_judges
from warmeng.study.run.models import AnyEngine, Models, settings_of
from warmeng.study.run.own_models import AnyOwnModel, OwnModel, compare, load_own_models
from warmeng.study.run.preparation import Preparation
from warmeng.study.run.reuse import refuse_unlike
from warmeng.study.run.sources import stamps
from warmeng.study.settings import StudySettings
from warmeng.study.tasks import wrong_answers


@dataclass(frozen=True)
class Prepared:
    """A run that may begin: its study with all wrong answers, each model's part, its judges, its manifest."""

    study: Study
    parts: list[Part]
    judges: dict[str, JudgeSpec]
    manifest: Manifest
    # To the manipulation check's prompts, by persona; empty where the run continues or measures no warmth.
    responses: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def keys(self, progress: Progress) -> Iterator[str]:
        """Yield the keys of all records that there will be."""
        return plan_keys(self.parts, self.judges, progress)


@dataclass(frozen=True)
class Loaded:
    """What a look at every model of a run gave. ``engine`` is the base's, the one that is still loaded."""

    engine: AnyEngine
    applied: Mapping[str, AppliedAdapter]  # by persona
    own: list[AnyOwnModel]
    # Of each persona that is a model of its own, beside the base.
    own_facts: Mapping[str, dict[str, Any]]
    judges: dict[str, JudgeSpec]
    outcomes: Mapping[str, Mapping[str, Any]]  # by judge: its calibration

    @property
    def hashes(self) -> dict[str, str]:
        """The adapters' contents, by persona."""
        return {name: adapter.hash for name, adapter in self.applied.items()}


def prepare(
    study: Study,
    models: Models,
    folder: Path,
    before: Manifest | None,
    progress: Progress,
    command: str,
    reuse: Sequence[Path] = (),
) -> Prepared:
    """Return a run that may begin, or continue where ``before`` is its manifest. The order of the steps matters.

    1. Every model is loaded, the base last: one model is in memory at a time, and the base answers first.
    2. What these models are is compared with the run before and those to ``reuse``, while nothing is written yet.
    3. The base writes the wrong answers that a source lacks: they are part of the prompts, so of the plan.
    4. The plan is made, and all its keys compared with the run before.
    5. A run that begins measures its personas' warmth, last because it takes longest and refuses nothing.

    What the models answer in these steps is kept in the folder: see ``Preparation``.
    """
    with Preparation(folder, command, progress, reuse) as preparation:
        return _prepare(study, models, folder, before, preparation, reuse)


def _prepare(
    study: Study,
    models: Models,
    folder: Path,
    before: Manifest | None,
    preparation: Preparation,
    reuse: Sequence[Path],
) -> Prepared:
    progress = preparation.progress
    loaded = load_all(study, models, before, preparation)
    inputs = inputs_of(study, loaded)
    refuse_unlike(reuse, folder, inputs)
    if before is not None:
        refuse_changes(folder, before.inputs, inputs)
        if before.facts.sources != sources_sha256():
            progress.message(f"{folder}: was begun by other sources of warmeng, and goes on with these")
    study = with_wrong_answers(study, loaded.engine, folder, preparation)
    parts = parts_of(study, loaded, progress)
    judges = loaded.judges
    inputs[PLAN] = digest(plan_keys(parts, judges, progress))
    if before is not None:
        refuse_changes(folder, before.inputs, inputs)
        return Prepared(study, parts, judges, before)
    judgments = sum(is_judged(p) for part in parts for p in part.shown(progress)) * len(judges) if judges else 0
    warmth, responses = measure_warmth(study, loaded, preparation)
    facts = replace(facts_of(study, loaded, warmth), reused=[str(donor) for donor in reuse])
    manifest = Manifest(inputs, facts, study.size, judgments, study.scores_beside)
    return Prepared(study, parts, judges, manifest, responses)


def plan_keys(parts: Iterable[Part], judges: Mapping[str, JudgeSpec], progress: Progress) -> Iterator[str]:
    """Yield the keys of all records that the parts of a run lead to."""
    return (key for part in parts for planned in part.shown(progress) for key in keys_of(planned, judges.values()))


def load_all(study: Study, models: Models, before: Manifest | None, preparation: Preparation) -> Loaded:
    """Load judges, models of their own and the base in turn; hold the gates of judges and adapters.

    Raises ``InputError`` for a judge that is not trusted, a model that is the base's copy, an adapter without effect.
    """
    progress = preparation.progress
    judges, outcomes = load_judges(study.settings, models, preparation, before)
    own = load_own_models(study, models, before is None, preparation)
    engine = models.of(study.settings)
    applied: dict[str, AppliedAdapter] = {}
    if isinstance(engine, RemoteEngine):
        own_facts = compare_answering((model for model in own if isinstance(model, ApiOwnModel)), engine)
    else:
        own_facts = compare((model for model in own if isinstance(model, OwnModel)), engine, progress)
        applied = apply_adapters(engine, study.personas, progress.message)
    if BASE in study.settings.judges:
        judges[BASE] = JudgeSpec.of(BASE, engine, study.settings.judge_commits)
        outcomes[BASE] = (
            calibrate_judge(engine, BASE, study.settings.judge_gate, preparation, study.settings.judge_commits)
            if before is None
            else dict(before.facts.judges[BASE])
        )
    # In the order in which they were given.
    order = study.settings.judges
    judges, outcomes = {name: judges[name] for name in order}, {name: outcomes[name] for name in order}
    return Loaded(engine, applied, own, own_facts, judges, outcomes)


def inputs_of(study: Study, loaded: Loaded) -> dict[str, Any]:
    """Return what must stay the same for a run to continue, but for its plan."""
    engine, inputs = loaded.engine, known_inputs(study)
    if isinstance(engine, RemoteEngine):
        inputs |= {"model": engine.identity}
    else:
        template = engine.tokenizer.template_hash
        inputs |= {"model": identity_of(engine.describe()), "adapter": loaded.hashes, "template": template}
        inputs |= surroundings(engine)
    if loaded.own:
        inputs[OWN_MODELS] = {persona.name: dict(model.identity) for model in loaded.own for persona in model.personas}
    if loaded.judges:
        inputs["judges"] = {name: dict(judge.identity) for name, judge in loaded.judges.items()}
    return inputs


def known_inputs(study: Study) -> dict[str, Any]:
    """Return what must stay the same and needs no model to be known."""
    return study.inputs() | ({"rubric": RUBRIC_VERSION} if study.settings.judges else {})


def with_wrong_answers(study: Study, engine: AnyEngine, folder: Path, preparation: Preparation) -> Study:
    """Return the study with wrong answers where a user claims one and the source has none.

    A model behind an API writes none, since it can't be held to a form: right answers of other items are borrowed.
    """
    lacking = [task for task in study.tasks if study.lacks_wrong(task)]
    if not lacking:
        return study
    count = sum(len(wrong_answers.missing(task)) for task in lacking)
    preparation.progress.message(f"{folder}: {count} wrong answers are missing in {', '.join(t.name for t in lacking)}")
    if isinstance(engine, RemoteEngine):
        filled = {task.name: wrong_answers.borrowed(task) for task in lacking}
        return replace(study, tasks=tuple(filled.get(task.name, task) for task in study.tasks))
    kept = preparation.engine(engine, "wrong answers")
    filled = {task.name: wrong_answers.fill_wrong(task, kept) for task in lacking}
    return replace(study, tasks=tuple(filled.get(task.name, task) for task in study.tasks))


def parts_of(study: Study, loaded: Loaded, progress: Progress) -> list[Part]:
    """Return each model's personas and requests, the base's first."""
    engine = loaded.engine
    mine = replace(study, personas=on_base(study.personas))
    planner: Planner
    if isinstance(engine, RemoteEngine):
        planner = ApiPlanner(mine, engine.identity)
    else:
        identity = identity_of(engine.describe())
        planner = Planner(mine, engine.tokenizer, engine.config.stop_token_ids, identity, loaded.hashes)
    parts = [_part(study.settings, mine, planner, progress)]
    for model in loaded.own:
        own = replace(study, personas=model.personas)
        parts.append(_part(settings_of(model.name, study.settings), own, model.planner(own), progress, model.identity))
    return parts


def _part(
    model: StudySettings,
    mine: Study,
    planner: Planner,
    progress: Progress,
    identity: Mapping[str, Any] | None = None,
) -> Part:
    """Return a model's part of a study, whose plan is kept; of a large study it is made again whenever it is read."""
    size = mine.size + mine.scores_beside
    part = Part(model, tuple(persona.name for persona in mine.personas), planner, size, identity or {})
    return replace(part, plan=list(part.shown(progress))) if size <= MOST_OPEN else part


def measure_warmth(
    study: Study, loaded: Loaded, preparation: Preparation
) -> tuple[Mapping[str, Any], Mapping[str, Sequence[str]]]:
    """Return what ``measure_personas`` does; nothing where no warmth is measured, or the base is behind an API."""
    if isinstance(loaded.engine, RemoteEngine) or not checks_warmth(study):
        return {}, {}
    s = study.settings
    what = "manipulation check"
    preparation.progress.message(f"{what}: {s.warmth_prompts} held-out prompts, {len(study.personas)} personas")
    others = {name: mine for model in loaded.own for name, mine in model.responses.items()}
    return measure_personas(preparation.engine(loaded.engine, what, loaded.hashes), study.personas, s, others)


def facts_of(study: Study, loaded: Loaded, manipulation: Mapping[str, Any]) -> RunFacts:
    """Return what the manifest tells beside the inputs; ``manipulation``: the personas' measured warmth."""
    engine = loaded.engine
    remote = engine if isinstance(engine, RemoteEngine) else None
    default_system, date = (None, None)
    if not isinstance(engine, RemoteEngine):
        default_system, date = engine.tokenizer.default_system, engine.tokenizer.frozen_date
    added = [p.name for p in on_base(study.personas) if p.system is None and default_system]
    facts = RunFacts(
        engine=engine.describe(),
        api=api_facts(remote) if remote else {},
        gates={name: asdict(adapter) for name, adapter in loaded.applied.items()},
        judges=loaded.outcomes,
        exact_rule=calibrate_exact().as_dict() | {"rules": RULES},
        questions={task.name: task.extent for task in study.tasks},
        left_out={task.name: task.left_out for task in study.tasks if task.left_out},
        systems={p.name: p.system for p in study.personas if p.system},
        default_system=default_system,
        adds_default_system=added,
        template_date=date,
        own_models=loaded.own_facts,
        doses=doses_of(study.personas),
        primary=study.primary,
        claim=study.claim.as_dict(study.inputs()) if study.claim else {},
        manipulation=manipulation,
        warmeng=__version__,
        sources=sources_sha256(),
        commit=commit(),
        python=sys.version.split()[0],
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    return replace(facts, files=stamps(study, facts))


def check_judges(study: Study, progress: Progress) -> None:
    """Raise ``UsageError`` for judges that have nothing to judge; say which answers stay without a grade."""
    answered = [task for task in study.tasks if study.samples(task)]
    judged = [task.name for task in answered if task.grading in JUDGED]
    if study.settings.judges and not judged:
        raise UsageError(
            f"judges {', '.join(study.settings.judges)} have nothing to judge: no task of "
            f"{', '.join(task.name for task in study.tasks)} generates answers that can be right: leave them out"
        )
    needing = [task.name for task in answered if task.grading == "judge"]
    if needing and not study.settings.judges:
        progress.message(f"{', '.join(needing)}: answers stay unscored without a judge (--judge)")


def check_own_models(study: Study) -> None:
    """Raise ``InputError`` for a persona whose own model is the base by its name; ``compare`` finds copies."""
    from warmeng.engine.registry import is_same, parse_name

    for persona in study.personas:
        name, revision = parse_name(persona.model or "")
        if persona.model and is_api(persona.model) and persona.model == study.settings.model:
            raise InputError(f"persona {persona.name}: {persona.model} is the base itself: leave the model out")
        if persona.model and is_same(name, study.settings.model) and revision == study.settings.revision:
            raise InputError(f"persona {persona.name}: {persona.model} is the base itself: leave full: out")
