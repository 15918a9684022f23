"""Sends a training's steps to other software: TensorBoard, Weights & Biases, trackio, each by its own library."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from warmeng.common.errors import UsageError

PROJECT = "warmeng"


class Reporter(Protocol):
    """Takes the numbers of each step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send what a step gave, by name."""

    def close(self) -> None:
        """Send what is left."""


class TensorBoard:
    """Event files in the training's folder: ``tensorboard --logdir FOLDER``."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Raises ``UsageError`` where tensorboard is not installed."""
        _library("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


class Tracker:
    """A run of Weights & Biases or of trackio, which have one interface; the folder's name is the run's."""

    def __init__(self, library: str, folder: Path, settings: Mapping[str, Any]) -> None:
        """Raises ``UsageError`` where the library is not installed."""
        self._library: Any = _library(library)
        self._library.init(project=PROJECT, name=folder.name, config=dict(settings))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send a step."""
        self._library.log(dict(values), step=step)

    def close(self) -> None:
        """End the run there."""
        self._library.finish()


def reporter(name: str, folder: Path, settings: Mapping[str, Any]) -> Reporter:
    """Return what sends steps to one of ``settings.REPORTERS``. Raises ``UsageError`` where it is not installed."""
    return TensorBoard(folder, settings) if name == "tensorboard" else Tracker(name, folder, settings)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(f"--report-to {name} needs its library: pip install {name}") from None


def values_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return a line of the log as numbers by name, such as ``warm/loss``."""
    found = {f"{name}/{key}": value for name, one in record["personas"].items() for key, value in one.items()}
    return found | {"tokens_per_second": record["tokens_per_second"]}
