"""What every engine is given, and what its side of the comparison has to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

# Rows of a static batch that are tried where an engine needs one.
STATIC_BATCHES = (16, 32, 64, 96)


@dataclass(frozen=True)
class Task:
    """The work, the same for every engine but for the precision and the folder of converted weights."""

    folder: str  # of the checkpoint
    precision: str  # as the registry names it
    threads: int
    max_new_tokens: int
    stops: list[int]  # token ids
    prompts: list[list[int]]  # token ids
    # Folders of PEFT adapters, by name.
    adapters: dict[str, str] = field(default_factory=dict)
    # Where ``prepare`` has put what it made; empty where there is nothing to prepare.
    prepared: str = ""
    fast: bool = False  # of warmeng: batch invariance is given up

    def carried(self, mixed: bool) -> list[str | None]:
        """Return each prompt's adapter: none, or in a mix the base and the adapters in turn."""
        turns = [None, *self.adapters] if mixed else [None]
        return [turns[i % len(turns)] for i in range(len(self.prompts))]

    def ended(self, tokens: Sequence[int]) -> list[int]:
        """Return an answer's tokens up to its end token, which is written as the first of ``stops``."""
        at = next((i for i, token in enumerate(tokens) if token in self.stops), None)
        return list(tokens) if at is None else [*tokens[:at], self.stops[0]]


class Rival(ABC):
    """An engine that is loaded and idle between passes. Its constructor takes a ``Task`` and loads it."""

    # Batches to choose the fastest of while it is warmed up; none where the engine schedules by itself.
    batches: ClassVar[tuple[int, ...]] = ()
    # Whether adapters can be mixed in one batch.
    mixes: ClassVar[bool] = False

    @classmethod
    def prepare(cls, task: Task, folder: Path) -> None:
        """Write the checkpoint into an empty folder as this engine reads it, where it needs that.

        It runs in a process of its own, so that it counts neither as loading nor in the peak of memory.
        """
        raise NotImplementedError(f"{cls.__name__} reads the checkpoint itself")

    @abstractmethod
    def __init__(self, task: Task) -> None:
        """Load."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Return what determines the figures: version, precisions as they really are, options."""

    @abstractmethod
    def run(self, batch: int | None, mixed: bool) -> list[list[int]]:
        """Answer all prompts greedily, with nothing in a prefix cache; the tokens of each, its end token included.

        ``batch``: one of ``batches``, None where there are none. ``mixed``: with the adapters of ``Task.carried``.
        """
