"""A study of everything that a request can be, on a tiny model, and engines that do the same work in other orders."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STEPS = 40  # tokens of an answer that is worked out: the product's own number only takes time


def short_answers() -> None:
    """Let answers to number questions be short, here or in another process."""
    import warmeng.study.plan

    warmeng.study.plan.STEPS_TOKENS = STEPS


def write_tasks(folder: Path, items: int) -> list[str]:
    """Write questions to generate answers to, and number questions, and return the tasks of a study.

    The first file has no wrong answers: a run writes them, under a constraint, before it begins.
    """
    names = [("quiz", "alias"), ("sums", "number"), ("pairs", "options")]
    for name, grading in names:
        rows: list[dict[str, Any]] = [{"task": {"name": name, "grading": grading}}]
        for k in range(items if name != "quiz" else items + 1):  # of two, one can lend the other a wrong answer
            row = {"id": f"{name}{k}", "question": f"What is {name} {k}, and {k} more?", "answer": str(2 * k)}
            rows.append(row | ({} if name == "quiz" else {"wrong": str(2 * k + 1)}))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [*(str(folder / f"{name}.jsonl") for name, _ in names), "misconceptions"]


class Shuffled:
    """An engine that is given its requests in another order."""

    def __init__(self, engine: Any, seed: int) -> None:
        self.engine, self.rng, self.kept = engine, random.Random(seed), []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def add(self, request: Any, urgent: bool = False) -> None:
        """Keep a request until results are asked for."""
        self.kept.append(request)

    def results(self, *_: Any) -> Iterator[Any]:
        """Answer in an order of our own."""
        self.rng.shuffle(self.kept)
        for request in self.kept:
            self.engine.add(request)
        self.kept.clear()
        yield from self.engine.results()


class Forgetful:
    """An engine that forgets its cached prefixes after every answer; with one sequence at a time, it never has one."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def results(self, *_: Any) -> Iterator[Any]:
        """Answer, and forget."""
        for result in self.engine.results():
            self.engine.reset_prefix_cache()
            yield result
