"""What dealing, Ray and the driver cost: workers whose engines take a known time and compute nothing.

Each worker answers one request after the other at the rate of output tokens that a card was measured at, so the ideal
time is that of all answers divided by the workers. Prompts, answers and records are as long as a study's, and the
driver does with them what it does in a run but for grading: it deals, collects, waits for probes, and writes a journal
line for each.
"""

from __future__ import annotations

import itertools
import random
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from warmeng.bench.lengths import read_lengths
from warmeng.common.journal import Journal
from warmeng.engine.request import (
    GenerateRequest,
    GenerateResult,
    Request,
    Result,
    SamplingParams,
    ScoreRequest,
    ScoreResult,
)
from warmeng.fleet.cluster import join
from warmeng.fleet.engine import FleetEngine, FleetStats
from warmeng.fleet.settings import FleetSettings

# Answers that one model of a large study gives, all personas together.
REQUESTS = 133_125
# Output tokens a second of one H200 on the shape of Llama-3.1-8B (docs/performance.md).
RATE = 13_970.0
# Sequences that a card runs at once.
WIDTH = 1024
VOCAB = 128_256
# A word of about four letters and a blank, for each token.
WORD = "warm "
# Requests that a run adds at a time.
STEP = 4096
# Seconds that an engine sleeps at most before it looks what has become due.
NAP = 0.05


class TimedEngine:
    """Answers in the order asked; each answer takes its tokens divided by the rate, and says nothing."""

    max_num_seqs, vocab_size, max_seq_len = WIDTH, VOCAB, 8192
    tokenizer = SimpleNamespace(template_hash="", hash="")

    def __init__(self, rate: float) -> None:
        """``rate``: output tokens a second."""
        self.stats = FleetStats()
        self._rate = rate
        self._queue: deque[Request] = deque()
        self._done: list[Result] = []
        # When what was taken up last is finished.
        self._free = 0.0

    def describe(self) -> dict[str, Any]:
        """Say that it is none of the real ones."""
        return {"model": "timed", "weights": "none", "device": "cpu"}

    def processor(self) -> dict[str, Any]:
        """Say that nothing is computed."""
        return {"bits": ""}

    def add(self, request: Request, urgent: bool = False) -> None:
        """Queue a request."""
        if not self._queue:
            self._free = max(self._free, time.monotonic())
        if urgent:
            self._queue.appendleft(request)
        else:
            self._queue.append(request)

    def cancel(self, request_id: str) -> None:
        """Drop a request."""
        self._queue = deque(request for request in self._queue if request.id != request_id)

    @property
    def busy(self) -> bool:
        """Something is queued."""
        return bool(self._queue)

    def step(self) -> None:
        """Sleep until the next answer is due, or a moment; finish all that is due by then."""
        self.stats.steps += 1
        due = self._free + seconds(self._queue[0], self._rate)
        time.sleep(max(0.0, min(NAP, due - time.monotonic())))
        now = time.monotonic()
        while self._queue and self._free + seconds(self._queue[0], self._rate) <= now:
            request = self._queue.popleft()
            self._free += seconds(request, self._rate)
            self._done.append(answer(request))
            self.stats.output_tokens += tokens(request)

    def take(self) -> list[Result]:
        """Return what is finished."""
        taken, self._done = self._done, []
        return taken


def tokens(request: Request) -> int:
    """Return the tokens that an answer has."""
    return request.sampling.max_new_tokens if isinstance(request, GenerateRequest) else 1


def seconds(request: Request, rate: float) -> float:
    """Return the seconds that an answer takes."""
    return tokens(request) / rate


def answer(request: Request) -> Result:
    """Return an answer of the length asked for."""
    if isinstance(request, ScoreRequest):
        return ScoreResult(request.id, "ok", (-1.0,), ((-1.0,),), 0.3, len(request.prompt), 0)
    count = tokens(request)
    return GenerateResult(
        request.id, "ok", "length", tuple(range(1000, 1000 + count)), WORD * count, (), len(request.prompt), 0
    )


@dataclass(frozen=True)
class FleetResult:
    """What a fleet took. Seconds, from the first request dealt to the last record written."""

    workers: int
    requests: int
    rate: float  # output tokens a second of each worker
    start_seconds: float  # until all workers were there, beside the rest
    seconds: float
    ideal: float
    driver_cpu: float
    driver_memory: int  # bytes, the most

    @property
    def share(self) -> float:
        """How near it came to the ideal."""
        return self.ideal / self.seconds

    @property
    def records_rate(self) -> float:
        """Records a second."""
        return self.requests / self.seconds

    @property
    def most_records(self) -> float:
        """Records a second at which the driver's one thread would be the limit."""
        return self.requests / self.driver_cpu


def plan(count: int, seed: int = 0) -> Iterator[GenerateRequest]:
    """Yield requests of the committed lengths, each with a key as a study's, three personas in turn."""
    draw = random.Random(seed)
    ids = [draw.randrange(VOCAB) for _ in range(4096)]
    for k, x in enumerate(read_lengths(count)):
        start = draw.randrange(len(ids) - x.prompt)
        prompt = tuple(ids[start : start + x.prompt])
        yield GenerateRequest(f"{k:032x}", prompt, SamplingParams(max_new_tokens=x.answer), None, ("item", k))


def record(result: Result) -> dict[str, Any]:
    """Return what is written of an answer."""
    assert isinstance(result, GenerateResult)
    place = {"persona": "warm", "task": "facts", "context": "unmodified", "belief": "wrong", "framing": "plain"}
    return {"key": result.id, **place, "item": "item", "sample": 0, "status": result.status, "text": result.text}


def measure_fleet(
    workers: int, requests: int = REQUESTS, rate: float = RATE, say: Callable[[str], None] = lambda line: None
) -> FleetResult:
    """Run the workload over so many workers on this machine. Raises ``UsageError`` where Ray is not installed."""
    began = time.monotonic()
    say(f"starting {workers} workers")
    cluster = join(FleetSettings(workers=workers, cores=1), "cpu")
    try:
        config = cast(Any, SimpleNamespace())
        fleet = FleetEngine(cluster, partial(TimedEngine, rate), Path("."), config, cast(Any, None), {}, say=say)
        fleet.open()
        started = time.monotonic() - began
        ideal = sum(seconds(request, rate) for request in plan(requests)) / workers
        say(f"{requests:,} requests, ideally {ideal:.0f} s")
        with tempfile.TemporaryDirectory() as folder:
            taken, cpu = _run(fleet, plan(requests), Path(folder) / "records.jsonl")
    finally:
        cluster.close()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return FleetResult(workers, requests, rate, started, taken, ideal, cpu, memory)


def _run(fleet: FleetEngine, requests: Iterator[GenerateRequest], path: Path) -> tuple[float, float]:
    """Ask everything as a run does, as many at once as keep the workers busy; return seconds and CPU seconds."""
    began, cpu, most = time.monotonic(), time.process_time(), fleet.most_open
    room = most
    with Journal(path, "") as journal:
        room -= _add(fleet, requests, room)
        for result in fleet.results():
            journal.append(record(result))
            room += 1
            room -= _add(fleet, requests, room)
    return time.monotonic() - began, time.process_time() - cpu


def _add(fleet: FleetEngine, requests: Iterator[GenerateRequest], room: int) -> int:
    """Add requests, few at a time as a run does; return how many."""
    some = list(itertools.islice(requests, min(room, STEP)))
    for request in some:
        fleet.add(request)
    return len(some)
