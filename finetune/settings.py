"""What a training run is told: the study's hyperparameters as defaults, all of them settable, all of them recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from warmeng.common.errors import UsageError, name_some, show
from warmeng.common.files import read_yaml
from warmeng.engine.adapters import MAX_RANK, TARGETS
from warmeng.engine.settings import AUTO, WEIGHTS

SCHEDULES = ("linear", "constant")
REPORTERS = ("tensorboard", "wandb", "trackio")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one run, the same for all of its personas.

    Rank to epochs and checkpoints are the published recipe. Optimiser, schedule, warm-up and target modules were not
    published; the defaults are those of the libraries that such recipes are usually run with.
    """

    rank: int = 8
    alpha: float = 16.0  # the change is alpha / rank * B A
    dropout: float = 0.1  # of the input of each A
    targets: tuple[str, ...] = TARGETS
    learning_rate: float = 1e-5
    # To zero at the last step, or constant; after the warm-up.
    schedule: str = "linear"
    # Share of all steps during which the rate rises from zero.
    warmup: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0  # decoupled
    # Of one persona's gradient; 0 leaves it as it is.
    max_grad_norm: float = 1.0
    batch: int = 16  # conversations of each persona in a step
    epochs: int = 10
    checkpoints: tuple[float, ...] = (0.5, 1, 1.5, 2, 4, 6, 8, 10)  # epochs; the last one is always kept
    # Tokens of a conversation; what is beyond is cut off.
    max_length: int = 1024
    seed: int = 0
    # Share of each persona's conversations that is not learned; the loss on them is measured at each checkpoint.
    held_out: float = 0.0
    # Other software that each step is sent to.
    report_to: tuple[str, ...] = ()
    # Steps between states that an interrupted run continues from.
    save_every: int = 25
    # Of one pass through the model; 0: what memory_gib allows.
    micro_tokens: int = 0
    # For what a pass keeps until it is differentiated; 0: 1 on the CPU, half of a GPU's free.
    memory_gib: float = 0.0
    # What the base's weights are rounded to at load: int8, fp8, int4; "auto": as the checkpoint has them.
    weights: str = AUTO
    device: str = "auto"
    # Of the CPU; 0: PyTorch's own choice. Other numbers give other last bits.
    threads: int = 0

    def __post_init__(self) -> None:
        """Raise UsageError for a value out of range."""
        whole = ("rank", "batch", "epochs", "max_length", "save_every")
        for name in (*whole, "seed", "micro_tokens", "threads"):
            least = 1 if name in whole else 0
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UsageError(f"{name} is {show(value, 40)}, expected a whole number from {least} on")
        if self.rank > MAX_RANK:
            raise UsageError(f"rank is {self.rank}, expected at most {MAX_RANK}")
        if self.max_length < 2:
            raise UsageError("max_length is 1, expected at least 2: a prompt and a response")
        for name, low, high in (
            ("alpha", 1e-6, math.inf), ("dropout", 0, 0.99), ("learning_rate", 0, 1), ("warmup", 0, 1),
            ("beta1", 0, 0.99999), ("beta2", 0, 0.9999999), ("epsilon", 1e-30, 1), ("weight_decay", 0, 1),
            ("max_grad_norm", 0, math.inf), ("memory_gib", 0, math.inf), ("held_out", 0, 0.9),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise UsageError(f"{name} is {show(value, 40)}, expected a number from {low:g} to {high:g}")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"schedule is {show(self.schedule, 40)}, expected one of {', '.join(SCHEDULES)}")
        if self.weights not in WEIGHTS:
            raise UsageError(f"weights is {show(self.weights, 40)}, expected one of {', '.join(WEIGHTS)}")
        if self.device not in DEVICES:
            raise UsageError(f"device is {show(self.device, 40)}, expected one of {', '.join(DEVICES)}")
        if not self.targets or set(self.targets) - set(TARGETS) or len(set(self.targets)) < len(self.targets):
            raise UsageError(f"targets is {show(self.targets, 80)}, expected some of {', '.join(TARGETS)}, each once")
        if set(self.report_to) - set(REPORTERS) or len(set(self.report_to)) < len(self.report_to):
            raise UsageError(f"report_to is {show(self.report_to, 80)}, expected some of {', '.join(REPORTERS)}")
        for epoch in self.checkpoints:
            if isinstance(epoch, bool) or not isinstance(epoch, int | float) or not 0 < epoch <= self.epochs:
                raise UsageError(f"checkpoints has {show(epoch, 40)}, expected epochs above 0, at most {self.epochs}")

    @property
    def scale(self) -> float:
        """What an adapter's product is multiplied by."""
        return self.alpha / self.rank

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted from 0, of ``steps``.

        The rule of ``transformers``' linear schedule: the warm-up's first step has rate 0, and the rate would reach 0
        at the step after the last.
        """
        warm = math.ceil(self.warmup * steps)
        if step < warm:
            return self.learning_rate * step / warm
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (steps - step) / max(1, steps - warm)

    def record(self) -> dict[str, Any]:
        """Return the settings as a manifest holds them."""
        found = asdict(self) | {"targets": list(self.targets), "checkpoints": list(self.checkpoints)}
        # Absent where there is none, as in trainings that were begun before there was such a thing.
        for name in ("held_out", "report_to"):
            if not found[name]:
                del found[name]
        return found


def load_settings(path: Path | None, options: Mapping[str, Any]) -> TrainSettings:
    """Return the settings of a YAML file, if any, with every option that is not None put over them.

    Checkpoints beyond the last epoch are dropped where only the number of epochs was chosen. Raises UsageError for an
    unknown name or a value out of range, InputError for a file that can't be read.
    """
    known = {field.name for field in fields(TrainSettings)}
    given = dict(read_yaml(path)) if path is not None else {}
    if unknown := {str(name) for name in given} - known:
        raise UsageError(f"{path} has the unknown setting {name_some(unknown)}, expected {', '.join(sorted(known))}")
    given |= {name: value for name, value in options.items() if value is not None}
    for name in ("targets", "checkpoints", "report_to"):
        if name in given:
            given[name] = _several(name, given[name])
    if given.get("targets") == ("all",):
        given["targets"] = TARGETS
    for name, default in asdict(TrainSettings()).items():
        if isinstance(default, float) and type(given.get(name)) is int:
            given[name] = float(given[name])
    epochs = given.get("epochs", TrainSettings.epochs)
    if "checkpoints" not in given and type(epochs) is int:
        given["checkpoints"] = tuple(e for e in TrainSettings.checkpoints if e <= epochs)
    return replace(TrainSettings(epochs=max(TrainSettings.epochs, epochs) if type(epochs) is int else 10), **given)


def _several(name: str, value: Any) -> tuple[Any, ...]:
    """Return a list's members, or those of comma-separated text."""
    if isinstance(value, list | tuple):
        return tuple(value)
    parts = [part.strip() for part in str(value).split(",") if part.strip()]
    if name == "targets":
        return tuple(part.removesuffix("_proj") for part in parts)
    if name == "report_to":
        return tuple(parts)
    try:
        return tuple(float(part) for part in parts)
    except ValueError:
        raise UsageError(f"{name} is {show(value, 60)}, expected numbers between commas") from None
