"""An engine for ``bench generate`` that computes nothing: its precision says what becomes of a pass."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from warmeng.bench.rivals.rival import Rival, Task


class Fake(Rival):
    """Answers each prompt with its last token and the end token, in the time of a step for each batch."""

    mixes: ClassVar[bool] = True

    @classmethod
    def prepare(cls, task: Task, folder: Path) -> None:
        """Leave a file."""
        (folder / "weights").write_text(task.precision)
        cls._log("prepare")

    def __init__(self, task: Task) -> None:
        """Load, or raise what ``unloadable`` says."""
        print("libraries print into the answers' way")
        if task.precision == "unloadable":
            raise ValueError("no such\ninstruction")
        self.task = task
        self.passes = 0
        self.prepared = (Path(task.prepared) / "weights").read_text() if task.prepared else None

    def about(self) -> dict[str, Any]:
        """Return what was prepared."""
        return {"prepared": self.prepared}

    def run(self, batch: int | None, mixed: bool) -> list[list[int]]:
        """Write the pass's begin and end down; ``dying`` ends the process in its third pass."""
        task = self.task
        self.passes += 1
        self._log(f"{type(self).__name__}:{task.precision} {batch} {mixed} begins")
        if task.precision == "dying" and self.passes == 3:
            print("killed by a fault", file=sys.stderr, flush=True)
            os._exit(7)
        time.sleep(0.01 if batch == 2 else 0.03)
        self._log("ends")
        odd = task.precision == "odd"
        return [task.ended([prompt[-1], *([1] if odd and i == 0 else []), *task.stops, 99])
                for i, prompt in enumerate(task.prompts)]  # fmt: skip

    @staticmethod
    def _log(line: str) -> None:
        with Path(os.environ["FAKE_LOG"]).open("a") as file:
            file.write(line + "\n")


class Batched(Fake):
    """Of static batches; of 2 it is the fastest. It can't mix adapters."""

    batches: ClassVar[tuple[int, ...]] = (1, 2, 4)
    mixes: ClassVar[bool] = False
