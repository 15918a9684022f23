"""A run's models on the workers of a Ray cluster, one model at a time."""

from __future__ import annotations

import platform
from dataclasses import replace
from functools import partial
from pathlib import Path

from warmeng.common.errors import UsageError
from warmeng.common.progress import Progress
from warmeng.common.version import sources_sha256
from warmeng.common.watchdog import Watchdog
from warmeng.fleet.cluster import RayCluster, join
from warmeng.fleet.engine import FleetEngine
from warmeng.fleet.settings import FleetSettings
from warmeng.remote.names import is_api
from warmeng.study.run.models import load_engine
from warmeng.study.settings import StudySettings


class Fleet:
    """Joins a cluster for one run when its first model is loaded. Close it at the end."""

    def __init__(self, settings: FleetSettings, progress: Progress, watchdog: Watchdog) -> None:
        self._settings, self._progress, self._watchdog = settings, progress, watchdog
        self._cluster: RayCluster | None = None

    def load(self, settings: StudySettings) -> FleetEngine:
        """Return a model that all workers have loaded. Raises as ``join``, ``read_folder`` and ``FleetEngine.open``."""
        from warmeng.engine.folder import read_folder
        from warmeng.engine.registry import resolve_model

        check_fleet(settings)
        source = resolve_model(settings.model, settings.revision)
        config, tokenizer = read_folder(source.folder)
        if self._cluster is None:
            self._progress.message(f"joining Ray ({self._settings.address})")
            self._cluster = join(self._settings, settings.device)
            self._progress.message(f"{self._cluster.workers} workers with {self._cluster.told}")
        cluster = self._cluster
        # Workers have folders of their own to work in.
        model = str(source.folder.absolute()) if source.origin == "local" else settings.model
        chosen = replace(settings, model=model, device=cluster.device)
        here = {
            "template": tokenizer.template_hash,
            "python": platform.python_version(),
            "sources": sources_sha256(),
        }
        engine = FleetEngine(
            cluster,
            partial(load_engine, chosen, cluster.cores if cluster.device == "cpu" else None),
            Path(source.folder),
            config,
            tokenizer,
            here,
            patience=self._watchdog.seconds,
            say=self._progress.message,
            watch=self._watchdog.watch,
        )
        try:
            engine.open()
        except BaseException:
            engine.close()
            raise
        return engine

    def close(self) -> None:
        """Leave the cluster."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None


def check_fleet(settings: StudySettings) -> None:
    """Raise ``UsageError`` for settings that a fleet can't keep."""
    if is_api(settings.model):
        raise UsageError(f"{settings.model} is behind an API, which needs no workers: leave --ray out")
    if settings.fast:
        raise UsageError("fast lets bits depend on the batch, and a fleet compares them: leave --fast or --ray out")
