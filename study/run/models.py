"""The models of a run, one of them loaded at a time."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Union

from warmeng.common.log import LOGGER, timed
from warmeng.common.progress import Progress
from warmeng.engine.identity import whole_identity
from warmeng.fleet.engine import FleetEngine
from warmeng.remote.engine import RemoteEngine
from warmeng.remote.names import is_api
from warmeng.study.settings import StudySettings

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine

COUNTED = ("output_tokens", "prompt_tokens", "cached_tokens", "steps")  # of an engine's totals
# A study's prompts share much: less cache than the engine's default, to stay under 2.5 GiB in all.
KV_BYTES = 448 * 2**20

# A loaded model of this machine, or one behind an API.
AnyEngine = Union["Engine", RemoteEngine]
Load = Callable[[StudySettings], AnyEngine]


def identity(engine: AnyEngine) -> dict[str, Any]:
    """Return what determines a model's answers to messages, as far as it is known."""
    return engine.identity if isinstance(engine, RemoteEngine) else whole_identity(engine)


def load_engine(settings: StudySettings, threads: int | None = None) -> Engine:
    """Load the model of this machine that the settings name; raises as ``Engine.load``."""
    from warmeng.engine.engine import Engine, EngineSettings
    from warmeng.engine.load import choose_device

    on_cpu = choose_device(settings.device) == "cpu"
    chosen = EngineSettings(
        dtype=settings.dtype,
        weights=settings.weights,
        kv_dtype=settings.kv_dtype,
        fast=settings.fast,
        kv_bytes=KV_BYTES if on_cpu else None,
        threads=threads,
    )
    return Engine.load(settings.model, revision=settings.revision, device=settings.device, settings=chosen)


class Models:
    """Loads models for their settings and keeps the last one: another one's memory is freed before it is loaded.

    Drop your reference to an engine before you ask for another one: one model is in memory at a time.
    """

    def __init__(self, load: Load, progress: Progress) -> None:
        self._load, self._progress = load, progress
        self._settings: StudySettings | None = None
        self._engine: AnyEngine | None = None
        self._freed: Counter[str] = Counter()

    def of(self, settings: StudySettings, what: str = "") -> AnyEngine:
        """Return the engine of these settings, loaded where it is not the last one; ``what`` it is, for the message.

        Raises as the engine's loading does.
        """
        if self._engine is None or self._settings != settings:
            self.free()
            self._progress.message(f"loading {what or settings.model}")
            with timed(f"loading {settings.model}"):
                self._engine, self._settings = self._load(settings), settings
            LOGGER.debug("%s is %s", settings.model, self._engine.describe())
        return self._engine

    def free(self) -> None:
        """Drop what is loaded."""
        if self._engine is None:
            return
        self._freed = self.used()
        if isinstance(self._engine, RemoteEngine | FleetEngine):
            self._engine.close()
        self._engine = self._settings = None
        gc.collect()

    def used(self) -> Counter[str]:
        """Return what all models counted so far, those that are freed included."""
        if self._engine is None:
            return self._freed
        return self._freed + Counter({key: getattr(self._engine.stats, key) for key in COUNTED})


def settings_of(name: str, settings: StudySettings) -> StudySettings:
    """Return the settings that load another model beside the base: ``MODEL`` or ``MODEL@REVISION``."""
    from warmeng.engine.registry import parse_name

    model, revision = (name, None) if is_api(name) else parse_name(name)
    return replace(settings, model=model, revision=revision)
