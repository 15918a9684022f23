"""Trainings that differ in their seed alone: one after the other, or side by side on the workers of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from warmeng.common.progress import Progress, Silent
from warmeng.finetune.job import prepare_job
from warmeng.finetune.settings import TrainSettings
from warmeng.finetune.train import Outcome, train
from warmeng.fleet.cluster import join
from warmeng.fleet.jobs import run_jobs
from warmeng.fleet.settings import FleetSettings


def train_seeds(
    settings: TrainSettings,
    model: str,
    personas: Mapping[str, str],
    seeds: Sequence[int],
    out: Path,
    progress: Progress,
    *,
    revision: str | None = None,
    command: str = "",
    fleet: FleetSettings | None = None,
) -> dict[str, Outcome]:
    """Train each seed in a folder of its own, ``out/seed-1`` and so on; return what came of them by these names.

    On a fleet all workers must see ``out``, and a worker on a CPU has as many threads as cores unless the settings say
    how many; adapters are the same bit for bit as one after the other where threads and ``micro_tokens`` are. A
    worker's training that died goes on from its last state. Raises as ``prepare_job``, ``train``, ``join`` and
    ``run_jobs``.
    """
    chosen = {f"seed-{seed}": replace(settings, seed=seed) for seed in seeds}
    if fleet is None:
        return {
            name: train(prepare_job(s, model, personas, revision), out / name, progress, command)
            for name, s in chosen.items()
        }
    cluster = join(fleet, settings.device)
    try:
        # Workers have folders of their own to work in.
        model = str(Path(model).absolute()) if Path(model).is_dir() else model
        files = {name: str(Path(file).absolute()) if Path(file).exists() else file for name, file in personas.items()}
        threads = settings.threads or (cluster.cores or 0 if cluster.device == "cpu" else 0)
        jobs = {
            name: partial(
                train_here, replace(s, threads=threads, device=cluster.device), model, files, revision,
                (out / name).absolute(), command,
            )
            for name, s in chosen.items()
        }  # fmt: skip
        progress.message(f"{len(jobs)} trainings on {min(cluster.workers, len(jobs))} workers with {cluster.told}")
        return run_jobs(cluster, jobs, progress.message)
    finally:
        cluster.close()


def train_here(
    settings: TrainSettings, model: str, personas: Mapping[str, str], revision: str | None, out: Path, command: str
) -> Outcome:
    """Train in this process, which shows nothing."""
    return train(prepare_job(settings, model, personas, revision), out, Silent(), command)
