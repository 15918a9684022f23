"""Processes whose memory is measured. Run as a script, each prints one JSON object:

``records N MOST``: a study of about N records with the small engine, which is given MOST requests at once;
``soak SECONDS``: the built-in model answers over and over.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ITEMS, CELLS, PERSONAS = 50, 4, 3
WARM_UP = 0.1  # of the soak's time, until the allocator has what it keeps
MOST_ROWS = 320  # of a step, that the soak's small cache allows


def rss() -> int:
    """Return the bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fast_engine() -> Any:
    """Return a small engine that answers in order and remembers nothing of what it answered."""
    from fakes import FakeEngine

    class Fast(FakeEngine):
        """A queue, first in, first out."""

        def __init__(self) -> None:
            super().__init__()
            self.queue = deque()  # type: ignore[assignment]

        def add(self, request: Any, urgent: bool = False) -> None:
            self.queue.append(request)

        def results(self, *_: Any) -> Iterator[Any]:
            while self.queue:
                self.stats.steps += 1
                yield self._result(self.queue.popleft())  # type: ignore[attr-defined]

    return Fast()


def records(count: int, most: int, folder: Path) -> dict[str, Any]:
    """Run a study of about ``count`` records and return the most memory that each stage took."""
    import warmeng.study.run.asking
    import warmeng.study.run.finish
    import warmeng.study.run.prepare
    import warmeng.study.run.run
    from warmeng.common.progress import Silent
    from warmeng.study.settings import StudySettings

    tasks = folder / "t.jsonl"
    rows = ({"id": f"{k}", "question": f"What is {k}?", "answer": f"A{k}", "wrong": f"B{k}"} for k in range(ITEMS))
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    warmeng.study.run.asking.MOST_OPEN = warmeng.study.run.prepare.MOST_OPEN = most
    engine = fast_engine()
    warmeng.study.run.run.load_engine = lambda settings: engine
    marks: dict[str, int] = {}
    stop = threading.Event()
    stage = ["start"]

    def watch() -> None:
        while not stop.wait(0.005):
            marks[stage[0]] = max(marks.get(stage[0], 0), rss())

    def conclude(folder: Path, frame: Any, info: Any, margins: Any, progress: Any) -> bool:
        return True

    class Stages(Silent):
        """Knows when asking begins and ends."""

        def start(self, planned: Any, done: Any, work: float) -> None:
            stage[0] = "asking"

        def stop(self) -> None:
            stage[0] = "results"

    warmeng.study.run.finish.conclude = conclude
    settings = StudySettings(
        personas=("original", "warm-prompt", "cold-prompt"), tasks=(str(tasks),), limit=0, warmth_prompts=0,
        samples=max(1, round(count / (ITEMS * CELLS * PERSONAS))), max_new_tokens=16,
    )  # fmt: skip
    watcher = threading.Thread(target=watch, daemon=True)
    stage[0] = "planning"
    before = rss()
    watcher.start()
    began = time.monotonic()
    outcome = warmeng.study.run.run.run_study(settings, folder / "r", Stages(), "again")
    stop.set()
    watcher.join()
    assert outcome.results is not None
    return {
        "records": sum(outcome.results["grades"].values()),
        "before": before,
        "peaks": marks,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": round(time.monotonic() - began, 1),
    }


def soak(seconds: float) -> dict[str, Any]:
    """Let the built-in model work for so long, with everything that a request can be, and follow its memory.

    The cache is small: prefixes come and go, and sequences give their blocks back. In a long soak, what is
    kept up to a bound is filled first, so that nothing is left that may grow.
    """
    import numpy as np

    from warmeng.engine.engine import Engine, EngineSettings

    engine = Engine.load("smollm2-135m-instruct", settings=EngineSettings(kv_bytes=14 * 2**20, max_num_seqs=12))
    adapters = Path(__file__).resolve().parents[2] / "study" / "data" / "adapters"
    for name in ("warm", "cold"):
        engine.add_adapter(name, adapters / name)
    empty = rss()
    if seconds >= 300:
        _fill(engine)
    began = time.monotonic()
    samples: list[tuple[float, int]] = [(0.0, rss())]
    answers = rounds = 0
    while (now := time.monotonic() - began) < seconds:
        for result in _round(engine, rounds):
            assert result.status == "ok"
            answers += 1
            samples.append((time.monotonic() - began, rss()))
        rounds += 1
    warm = [s for s in samples if s[0] >= WARM_UP * now]
    late = warm[len(warm) // 2 :]
    slope = float(np.polyfit(*np.array(warm).T, 1)[0])
    return {
        "seconds": round(now, 1),
        "rounds": rounds,
        "answers": answers,
        "preemptions": engine.stats.preemptions,
        "cached_tokens": engine.stats.cached_tokens,
        "start": empty,
        "filled": samples[0][1],
        "warm": max(s for _, s in warm[: len(warm) // 2]),
        "end": max(s for _, s in late),
        "slope_per_hour": round(slope * 3600),
        "every_tenth": [[round(at), size >> 20] for at, size in samples[:: max(1, len(samples) // 10)]],  # s, MiB
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _fill(engine: Any) -> None:
    """Meet many counts of rows with every adapter, the largest included."""
    from warmeng.engine.request import ScoreRequest

    word = engine.tokenizer.encode(" word")[0]
    for rows in (*range(1, MOST_ROWS, 16), MOST_ROWS):
        for adapter in (None, "warm", "cold"):
            prompt = (word,) * max(1, min(rows, MOST_ROWS - 24) - 2)
            engine.score([ScoreRequest(f"fill {rows} {adapter}", prompt, ((word,),), adapter)])
            engine.reset_prefix_cache()


def _round(engine: Any, number: int) -> Iterator[Any]:
    """Answer a dozen requests that no round before had."""
    from warmeng.engine.request import Constraint, GenerateRequest, SamplingParams, ScoreRequest

    def prompt(text: str) -> tuple[int, ...]:
        return tuple(engine.tokenizer.chat([{"role": "user", "content": text}]))

    constraints = (
        None,
        None,
        None,
        None,
        Constraint("choice", ("yes", f"no {number}")),
        Constraint("regex", "[a-z ]{9}"),
    )
    for k in range(9):
        long = k % 3 == 0
        sampling = SamplingParams(96 if long else 12, temperature=0.8 * (k % 2), seed=number, ignore_eos=long)
        engine.add(
            GenerateRequest(
                f"g{number}-{k}",
                prompt(f"Tell me about the number {number} " + "and so on " * (k * 3)),
                sampling,
                (None, "warm", "cold")[k % 3],
                (f"item {number}", k),
                None if long else constraints[k % len(constraints)],
            )
        )
    for k in range(4):
        labels = tuple(tuple(engine.tokenizer.encode(text)) for text in (" yes", " no", f" {number} of them"))
        engine.add(ScoreRequest(f"s{number}-{k}", prompt(f"Is {number} more than {k}?"), labels, (None, "warm")[k % 2]))
    yield from engine.results()


def main() -> None:
    """Run what the arguments say."""
    what, amount, *more = sys.argv[1:]
    if what == "soak":
        print(json.dumps(soak(float(amount))))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(records(int(amount), int(more[0]), Path(folder))))


if __name__ == "__main__":
    main()
