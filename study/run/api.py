"""A run's models behind an API: one budget for all of them, and what a manifest keeps of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError, UsageError
from warmeng.common.progress import Progress
from warmeng.common.watchdog import Watchdog
from warmeng.remote.batch import FILE as BATCHES
from warmeng.remote.batch import BatchEngine
from warmeng.remote.budget import FILE, Budget, Limits, Price, in_batches, read_prices
from warmeng.remote.engine import RemoteEngine
from warmeng.remote.names import PREFIX, is_api, model_of
from warmeng.remote.pace import Patience
from warmeng.remote.submit import Submissions
from warmeng.study.api import NOT_GIVEN
from warmeng.study.api_plan import ApiPlanner
from warmeng.study.personas import Persona
from warmeng.study.plan import Study
from warmeng.study.settings import StudySettings
from warmeng.study.warmth.responses import Response


def api_models(study: Study) -> list[str]:
    """Return the names of a run's models behind an API: subjects, then judges, each once."""
    s = study.settings
    named = [s.model, *(persona.model for persona in study.personas), *s.judges]
    return list(dict.fromkeys(name for name in named if name is not None and is_api(name)))


def prices_of(settings: StudySettings, names: Iterable[str]) -> dict[str, Price]:
    """Return the prices of models behind an API, as the server knows them; none where none are given.

    Those of requests in batches are there too. Raises ``UsageError`` where money is limited and a model has no price:
    nothing is assumed about prices.
    """
    s, models = settings, [model_of(name) for name in names]
    found: dict[str, Price] = {}
    if s.price_in is not None and s.price_out is not None:
        found = dict.fromkeys(models, Price(s.price_in, s.price_out))
    elif s.prices is not None:
        told = {name.removeprefix(PREFIX): price for name, price in read_prices(Path(s.prices)).items()}
        found = {model: told[model] for model in models if model in told}
    without = [model for model in models if model not in found]
    if without and (s.max_cost is not None or s.prices is not None):
        raise UsageError(
            f"{', '.join(without)}: has no price: give --price-in and --price-out in USD for a million tokens, or "
            "--prices FILE with each model's"
        )
    return found | {in_batches(model): price.in_batches for model, price in found.items()}


def limits_of(settings: StudySettings) -> Limits:
    """Return what may be spent."""
    return Limits(settings.max_requests, settings.max_api_tokens, settings.max_cost)


class Apis:
    """Opens models behind an API for one run. Close it at the end."""

    def __init__(self, study: Study, folder: Path, progress: Progress, command: str, watchdog: Watchdog) -> None:
        """Raises ``UsageError`` for models without a price where money is limited; the folder's lock is held."""
        names = api_models(study)
        self._progress, self._watchdog = progress, watchdog
        self._prices = prices_of(study.settings, names)
        self._limits = limits_of(study.settings)
        self._folder, self._command = folder, command
        self._budget: Budget | None = None
        self._submissions: Submissions | None = None

    def load(self, settings: StudySettings) -> RemoteEngine:
        """Return a model that answers. Raises as ``RemoteEngine``, its ``open``, and ``Budget``."""
        if self._budget is None:
            self._budget = Budget(self._limits, self._prices, self._folder / FILE, self._command)
        if settings.api_batch and self._submissions is None:
            self._submissions = Submissions(self._folder / BATCHES, self._command)
        return open_model(settings, self._budget, self._progress, self._watchdog, self._submissions)

    def close(self) -> None:
        """Close the files and say what was spent."""
        if self._submissions is not None:
            self._submissions.close()
            self._submissions = None
        if self._budget is not None:
            self._progress.message(f"{self._folder}: spent so far: {self._budget.told()}")
            self._budget.close()
            self._budget = None


def open_model(
    settings: StudySettings,
    budget: Budget,
    progress: Progress,
    watchdog: Watchdog | None = None,
    submissions: Submissions | None = None,
) -> RemoteEngine:
    """Return the model that the settings name, after it answered a first question; with ``submissions`` in batches."""
    watch: dict[str, Any] = {} if watchdog is None else {"watch": watchdog.watch}
    kind = RemoteEngine if submissions is None else partial(BatchEngine, submissions=submissions)
    engine = kind(
        settings.model,
        settings.api_base,
        budget,
        patience=Patience(timeout=settings.api_timeout),
        most=settings.api_concurrency,
        say=progress.message,
        **watch,
    )
    engine.open(settings.temperature, settings.top_p)
    return engine


@dataclass(frozen=True)
class ApiOwnModel:
    """A model behind the API that answers for some personas, as it was found before the grid."""

    name: str
    personas: tuple[Persona, ...]
    identity: Mapping[str, Any]
    responses: Mapping[str, list[Response]] = field(default_factory=dict)

    def planner(self, study: Study) -> ApiPlanner:
        """Return the plan of this model's part of a study whose personas are this model's."""
        return ApiPlanner(study, self.identity)


def compare_answering(own: Iterable[ApiOwnModel], base: RemoteEngine) -> dict[str, dict[str, Any]]:
    """Return facts of each persona that is a model of its own behind the API.

    Raises ``InputError`` where the base's model answers for one: it would compare the base with itself.
    """
    facts = {}
    for model in own:
        names = ", ".join(persona.name for persona in model.personas)
        if model.identity["answering"] == base.answering:
            raise InputError(
                f"persona {names}: {base.answering} answers for {model.name}, as it does for the base: give another "
                "model, or a system prompt alone (NAME=@FILE)"
            )
        for persona in model.personas:
            facts[persona.name] = {"model": model.name, "api": True, "answering": model.identity["answering"]}
    return facts


def api_facts(engine: RemoteEngine) -> dict[str, Any]:
    """Return what a manifest tells of an API beside the run's inputs."""
    try:
        client = version("openai")
    except PackageNotFoundError:
        client = "?"
    about = engine.describe()
    return {
        "base": engine.base,
        "answering": engine.answering,
        "fingerprint": about["fingerprint"],
        "seed": engine.features.seed,
        "options": f"{engine.features.top} likeliest tokens" if engine.features.top else "written letters",
        "client": f"openai {client}",
        "batches": isinstance(engine, BatchEngine),
        "not_given": list(NOT_GIVEN),
    }
