"""Workers without Ray: processes that are only pretended, in an order that a seed decides, with faults on purpose."""

from __future__ import annotations

import importlib.util
import math
import random
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeConfig, FakeEngine, FakeTokenizer

from warmeng.common.errors import WarmengError
from warmeng.engine.mixture import Mixture
from warmeng.engine.request import Request, Result, ScoreResult
from warmeng.fleet.cluster import WorkerLost
from warmeng.fleet.crew import Crew, Member
from warmeng.fleet.engine import PROBE, FleetEngine

VOCAB = 300
# Without an import of it: it is ours to start, and listens where its environment said when it was imported.
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


class SteppingEngine(FakeEngine):
    """The small engine, driven step by step: each answers some requests, in an order of its own."""

    def __init__(self, seed: int = 0, lies_after: int | None = None, **more: Any) -> None:
        super().__init__(**more)
        self.config = FakeConfig(vocab_size=VOCAB)
        self.max_num_seqs, self.vocab_size, self.max_seq_len = 8, VOCAB, 4096
        self.rng, self.lies_after, self.answers = random.Random(seed), lies_after, 0
        self.done: list[Result] = []
        self.model_mixtures: dict[str, Mixture] = {}

    def add_adapter(self, name: str, source: Any) -> Any:
        self.model_mixtures[name] = Mixture(((source.hash, 1.0),))
        return source

    def add_mixture(self, name: str, terms: Any) -> Any:
        mixture = Mixture.sum_of((self.model_mixtures[term], value) for term, value in terms.items())
        self.model_mixtures[name] = mixture
        return mixture

    def cancel(self, name: str) -> None:
        self.queue = [request for request in self.queue if request.id != name]
        self.done = [result for result in self.done if result.id != name]

    @property
    def busy(self) -> bool:
        return bool(self.queue)

    def step(self) -> None:
        self.stats.steps += 1
        for _ in range(min(len(self.queue), 1 + self.rng.randrange(4))):
            self.done.append(self.truth(self.queue.pop(self.rng.randrange(len(self.queue)))))

    def truth(self, request: Request) -> Result:
        self.answers += 1
        found = self._result(request)
        if self.lies_after is not None and self.answers > self.lies_after:
            return replace(found, prompt_tokens=found.prompt_tokens ^ 1)
        return found

    def take(self) -> list[Result]:
        taken, self.done = self.done, []
        return taken


@dataclass(eq=False)
class Pretended:
    """A worker; ``frozen`` ones never answer again, dead ones say so."""

    worker: Any
    number: int
    waiting: deque[Any] = field(default_factory=deque)
    frozen: bool = False
    dead: bool = False


@dataclass(eq=False)
class Pending:
    """A call that has not ended, or what it gave."""

    to: Pretended
    method: str
    given: tuple[Any, ...]
    ended: bool = False
    value: Any = None


class PretendedCluster:
    """Runs calls when they are waited for, in an order that the seed decides; ``fault`` may do harm before each."""

    device, cores = "cpu", 1

    def __init__(self, workers: int, seed: int = 0, fault: Callable[[Pretended, Any], None] = lambda *given: None):
        self.workers, self.rng, self.fault = workers, random.Random(seed), fault
        self.started: list[Pretended] = []

    def start(self, kind: type) -> Any:
        self.started.append(Pretended(kind(), len(self.started)))
        return self.started[-1]

    def call(self, worker: Any, method: str, *given: Any) -> Any:
        pending = Pending(worker, method, given)
        worker.waiting.append(pending)
        return pending

    def wait(self, calls: Sequence[Any], seconds: float) -> list[Any]:
        ended = []
        for call in self.rng.sample(list(calls), len(calls)):
            worker = call.to
            self.fault(worker, call)
            if worker.dead:
                ended.append(call)
            elif not worker.frozen and worker.waiting[0] is call and self.rng.random() < 0.7:
                worker.waiting.popleft()
                given = (partial(call.given[0], worker.number),) if call.method == "load" else call.given
                try:
                    call.value = getattr(worker.worker, call.method)(*given)
                except WarmengError as error:
                    call.value = error
                ended.append(call)
        return ended

    def get(self, call: Any) -> Any:
        if call.to.dead:
            raise WorkerLost("it was killed")
        if isinstance(call.value, WarmengError):
            raise call.value
        return call.value

    def put(self, value: Any) -> Any:
        return value

    def kill(self, worker: Any, pid: int | None, host: str) -> None:
        worker.dead = True


def pretended_fleet(cluster: PretendedCluster, make: Callable[[int], Any], said: list[str], **more: Any) -> FleetEngine:
    """Return an open fleet; ``make`` gives the engine of the worker with a number."""
    here = {"template": FakeTokenizer.template_hash}
    fleet = FleetEngine(cluster, make, Path("."), FakeConfig(), FakeTokenizer(), here, say=said.append, **more)
    fleet.open()
    return fleet


LIES_AFTER = 60


def lying_load(settings: Any, threads: int | None = None) -> Any:
    """Load the real engine; in the first worker that makes a file, a bit is wrong after ``LIES_AFTER`` results."""
    from warmeng.study.run.models import load_engine

    engine: Any = load_engine(settings, threads)
    try:
        (Path(settings.model).parent / "lied").touch(exist_ok=False)
    except FileExistsError:
        return engine
    take, count = engine.take, 0

    def lying() -> list[Result]:
        nonlocal count
        results = take()
        count += len(results)
        return [_bent(r) if count > LIES_AFTER else r for r in results]

    engine.take = lying
    return engine


def _bent(result: Any) -> Any:
    """Change the last bit of a score's first log-probability."""
    if not isinstance(result, ScoreResult):
        return result
    (first, *tokens), *labels = result.token_logprobs
    return replace(result, token_logprobs=((math.nextafter(first, 0.0), *tokens), *labels))


def hurry(folder: str, answers: int = 16) -> None:
    """Let so few answers of a worker be confirmed, and so recorded; Ray's own files go to a folder."""
    import warmeng.fleet.engine

    warmeng.fleet.engine.HELD = answers
    tempfile.tempdir = folder


def harm_first_at_work(monkeypatch: pytest.MonkeyPatch, harm: Callable[[Member], None]) -> list[Member]:
    """Harm the first worker that is given requests, once it has them; return a list that it is then in.

    Whatever it answers meanwhile counts only after a probe, which this process asks when the harm is done.
    """
    call, harmed = Crew.call, list[Member]()

    def harming(self: Crew, member: Member, kind: Any, method: str, *given: Any, **more: Any) -> None:
        call(self, member, kind, method, *given, **more)
        if kind == "turn" and not harmed and any(not request.id.startswith(PROBE) for request, _ in given[0]):
            harmed.append(member)
            harm(member)

    monkeypatch.setattr(Crew, "call", harming)
    return harmed
