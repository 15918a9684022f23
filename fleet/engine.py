"""Many workers in the shape of one engine: requests in, results out as they finish, each once.

Requests are dealt in shards to whoever has room. A worker's answers count when it has answered a probe after them with
the bits of all others: one that went wrong leaves nothing behind, because what it answered since is asked again. Where
nothing is left to deal, a worker without work is given a copy of what another one has not begun: the first answer
counts, and both would have the same bits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmeng.common.errors import UsageError
from warmeng.engine.mixture import Mixture
from warmeng.engine.request import (
    GenerateRequest,
    GenerateResult,
    Request,
    RequestError,
    Result,
    SamplingParams,
    ScoreRequest,
    ScoreResult,
    check_request,
)
from warmeng.fleet.cluster import Cluster
from warmeng.fleet.crew import Call, Crew, Member, Sent, first_unlike
from warmeng.fleet.shards import Queue
from warmeng.fleet.worker import COUNTED, About, Turn

if TYPE_CHECKING:
    from warmeng.engine.adapters import Adapter
    from warmeng.engine.config import ModelConfig
    from warmeng.engine.prompts import Prompt
    from warmeng.engine.tokenizer import Tokenizer
    from warmeng.engine.vectors import Vector

# Seconds of a turn, after which a worker tells what it finished; longer with more workers than MANY, since each turn
# was measured to take about a millisecond of the driver.
TURN, MANY = 0.25, 16
# Turns of a worker that are under way, so that it never waits for the driver.
AHEAD = 2
# A worker holds so many times the sequences that it runs at once, and is given so many requests at a time, so that all
# soon have some.
DEPTH, GIVEN = 1.25, 128
# Answers of a worker, and seconds, after which a probe must confirm them.
HELD, PROBE_SECONDS = 512, 30.0
PROBE = "probe/"
# Tokens of a probe's prompt and answer, and the most mixtures that it asks.
PROBE_PROMPT, PROBE_ANSWER, PROBE_MIXTURES = 16, 4, 16
# Seconds without work after which a worker takes a copy of a single request, which another one is likely to be at.
LATE = 2.0
# Seconds without a sign of life after which what a worker holds is asked again, where others have nothing to do.
QUIET = 10.0

Watch = Callable[[Callable[[], object]], AbstractContextManager[None]]


@dataclass
class FleetStats:
    """Totals of all workers, those that are gone included."""

    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    steps: int = 0


class FleetEngine:
    """Answers requests with many workers of one base. ``open`` comes first."""

    def __init__(
        self,
        cluster: Cluster,
        load: Callable[[], Any],
        folder: Path,
        config: ModelConfig,
        tokenizer: Tokenizer,
        here: Mapping[str, Any],
        *,
        patience: float = 0.0,
        say: Callable[[str], None] = lambda line: None,
        watch: Watch = lambda pulse: nullcontext(),
    ) -> None:
        """``load`` loads the engine in a worker; ``folder``, ``config`` and ``tokenizer`` are those of its base here.

        ``here``: facts of this process that workers must share; ``patience``: see ``Crew``. ``say`` what a user must
        know, ``watch`` that something moves.
        """
        self.folder, self.config, self.tokenizer = folder, config, tokenizer
        self.stats = FleetStats()
        self._cluster, self._watch = cluster, watch
        self._crew = Crew(cluster, load, here, patience, say, self._take_back)
        self._mixtures: dict[str, Mixture] = {}
        self._queue = Queue()
        # What was asked and not yielded; of that, what a worker has answered; and who has the rest, copies included.
        self._wanted: dict[str, Request] = {}
        self._answered: set[str] = set()
        self._holders: dict[str, list[Member]] = {}
        # What all workers answer to the probe; None where it must be asked again.
        self._reference: list[Result] | None = None
        self._probes: list[Request] = []
        self._rounds = 0
        self._unread: deque[Result] = deque()
        self._yielded = 0

    def open(self) -> None:
        """Start the workers and compare them. Raises as ``Crew.open``."""
        with self._watch(lambda: self._crew.looks):
            self._crew.open()

    def close(self) -> None:
        """End the workers."""
        self._crew.close()

    @property
    def most_open(self) -> int:
        """Requests that it takes to keep all workers busy, those that wait for a probe included."""
        return len(self._crew.members) * int(2 * DEPTH * self._about.width + 2 * HELD)

    def describe(self) -> dict[str, Any]:
        """Return what determines the numbers, as every worker says, and how many workers there are."""
        return {**self._about.describe, "workers": len(self._crew.members)}

    def processor(self) -> dict[str, Any]:
        """Return what the workers compute with: see ``Engine.processor``."""
        return self._about.processor

    @property
    def max_seq_len(self) -> int:
        """The most tokens of prompt and answer together."""
        return self._about.max_seq_len

    @property
    def vocab_size(self) -> int:
        """Token ids that a prompt may have."""
        return self._about.vocab_size

    def add_adapter(self, name: str, source: str | Path | Adapter) -> Adapter:
        """Read an adapter here and send it to all workers. Raises as ``Engine.add_adapter``."""
        from warmeng.engine.recover import read_adapter

        self._refuse_taken(name)
        if isinstance(source, str | Path):
            source = read_adapter(Path(source), self.folder, self.config, str(self._about.describe.get("weights")))
        adapter = source
        self._ask("add_adapter", name, self._cluster.put(adapter))
        self._mixtures[name] = Mixture(((adapter.hash, 1.0),))
        return adapter

    def add_vector(
        self, name: str, source: str | Path | Vector, layer: int | None = None, bound: float | None = None
    ) -> Vector:
        """Read a steering vector here and send it to all workers. Raises as ``Engine.add_vector``."""
        from warmeng.engine.vectors import load_vector

        self._refuse_taken(name)
        if not isinstance(source, str | Path):
            vector = source
        elif layer is None:
            raise UsageError(f"vector {name!r} is a file, and no layer is given: give the one that it is added after")
        else:
            vector = load_vector(Path(source), layer, self.config, str(self._about.describe.get("weights")), bound)
        self._ask("add_vector", name, self._cluster.put(vector))
        self._mixtures[name] = Mixture(((vector.hash, 1.0),))
        return vector

    def add_mixture(self, name: str, terms: Mapping[str, float]) -> Mixture:
        """Name a sum on all workers. Raises as ``Engine.add_mixture``."""
        mixture: Mixture = self._ask("add_mixture", name, dict(terms))
        self._mixtures[name] = mixture
        return mixture

    def project_onto(self, vectors: Mapping[str, Vector]) -> None:
        """Project generations onto vectors on all workers: see ``Engine.project_onto``."""
        self._ask("project_onto", self._cluster.put(dict(vectors)))

    def probe_adapter(self, name: str) -> float:
        """Return how far an adapter moves the logits, to the bit the same on all workers."""
        return float(self._ask("probe_adapter", name))

    def add(self, request: Request, urgent: bool = False) -> None:
        """Queue a request; ``results`` answers it. Raises ``RequestError`` as ``Engine.add``."""
        if request.id in self._wanted:
            raise RequestError(f"request id {request.id!r} is in use: give every request an id of its own")
        if request.adapter is not None and request.adapter not in self._mixtures:
            known = ", ".join(sorted(self._mixtures)) or "none"
            raise RequestError(f"adapter {request.adapter!r} is not loaded; loaded: {known}")
        check_request(request, self.vocab_size)
        self._wanted[request.id] = request
        self._queue.add(request, urgent)

    def results(self, interrupted: Sequence[int] = ()) -> Generator[Result, None, None]:
        """Yield results as they are confirmed. Requests may be added meanwhile; ends early where ``interrupted`` fills.

        Raises ``NoWorkers`` where no worker is left.
        """
        with self._watch(lambda: (self._crew.looks, self._yielded)):
            self._agree_on_probe()
            while self._wanted and not interrupted:
                self._crew.await_some()
                self._deal()
                self._send()
                for member, call, turn in self._crew.wait():
                    if member.ready:
                        self._take(member, call, turn)
                while self._unread:
                    self._yielded += 1
                    result = self._unread.popleft()
                    del self._wanted[result.id]
                    yield result

    def generate(
        self, prompts: Iterable[Prompt], *, params: SamplingParams | None = None, adapter: str | None = None
    ) -> list[GenerateResult]:
        """Answer prompts in their order: see ``Engine.generate``."""
        from warmeng.engine.prompts import as_requests

        found = self._answer(as_requests(prompts, self.tokenizer, params, adapter))
        return [r for r in found if isinstance(r, GenerateResult)]

    def score(self, requests: Iterable[ScoreRequest]) -> list[ScoreResult]:
        """Answer score requests in their order."""
        return [r for r in self._answer(list(requests)) if isinstance(r, ScoreResult)]

    @property
    def _about(self) -> About:
        assert self._crew.about is not None, "open comes first"
        return self._crew.about

    def _refuse_taken(self, name: str) -> None:
        if name in self._mixtures:
            raise UsageError(f"an adapter or mixture named {name!r} is there already: choose another name")

    def _ask(self, method: str, *given: Any) -> Any:
        if self._wanted:
            raise RuntimeError("results of earlier requests are still to be read: exhaust results() first")
        self._reference = None
        with self._watch(lambda: self._crew.looks):
            return self._crew.ask(method, *given)

    def _answer(self, requests: Sequence[Request]) -> list[Result]:
        if self._wanted:
            raise RuntimeError("results of earlier requests are still to be read: exhaust results() first")
        for request in requests:
            self.add(request)
        by_id = {result.id: result for result in self.results()}
        return [by_id[request.id] for request in requests]

    def _deal(self) -> None:
        """Give workers with room the next shards, and copies of others' requests where nothing waits."""
        ready = sorted(self._crew.ready, key=lambda m: len(m.open))
        fair = -(-(len(self._wanted) - len(self._answered)) // max(1, len(ready)))
        room = min(max(1, fair), int(DEPTH * self._about.width))
        for member in ready:
            most = min(room, len(member.open) + GIVEN)
            while len(self._queue) and len(member.open) < most:
                for request, urgent in self._queue.take(len(ready)):
                    self._give(member, request, urgent)
        if not len(self._queue):
            now = time.monotonic()
            for member in ready:
                if member.open:
                    member.busy = now
                else:
                    self._steal(member, alone=now - member.busy > LATE)

    def _give(self, member: Member, request: Request, urgent: bool = False) -> None:
        member.outbox.append((request, urgent))
        member.open[request.id] = Sent(request, member.serial + 1)
        self._holders.setdefault(request.id, []).append(member)

    def _steal(self, thief: Member, alone: bool) -> None:
        """Copy the later half of what the busiest worker has to one that has nothing.

        ``alone``: also a single request, or else what one that is not heard of has answered and no probe confirmed.
        """
        for victim in sorted(self._crew.ready, key=lambda m: -len(m.open)):
            lone = [sent.request for sent in victim.open.values() if len(self._holders[sent.request.id]) == 1]
            if len(lone) >= (1 if alone else 2):
                for request in lone[len(lone) // 2 :]:
                    self._give(thief, request)
                return
        quiet = next((m for m in self._crew.ready if alone and m.held and m.silent > QUIET), None)
        if quiet is not None:
            held, quiet.held = quiet.held, []
            for result in held:
                self._answered.discard(result.id)
                self._give(thief, self._wanted[result.id])

    def _send(self) -> None:
        """Keep turns under way at all workers that have something to do, and ask for probes."""
        turn = TURN * max(1.0, len(self._crew.members) / MANY)
        for member in self._crew.ready:
            if member.held and member.probe is None and self._must_probe(member):
                self._probe(member)
            working = member.open or self._probing(member)
            while len(member.calls) < AHEAD and (working or member.outbox or member.dropped):
                self._crew.call(member, "turn", "turn", member.outbox, member.dropped, turn)
                member.outbox, member.dropped = [], []

    def _probe(self, member: Member) -> None:
        """Ask a worker the probe, under names of their own: answers to an earlier one may be on their way."""
        self._rounds += 1
        member.probe, member.probed, member.round = [], time.monotonic(), f"{PROBE}{self._rounds}/"
        member.outbox += [(replace(probe, id=f"{member.round}{probe.id}"), True) for probe in self._probes]

    def _probing(self, member: Member) -> bool:
        """Whether answers to a probe are still to come."""
        return member.probe is not None and len(member.probe) < len(self._probes)

    def _must_probe(self, member: Member) -> bool:
        if len(member.held) >= HELD or time.monotonic() - member.probed > PROBE_SECONDS:
            return True
        return not member.open and not len(self._queue)

    def _take(self, member: Member, call: Call, turn: Turn) -> None:
        """Hold what a turn finished, until a probe confirms it."""
        for name, before, now in zip(COUNTED, member.totals, turn.totals, strict=True):
            setattr(self.stats, name, getattr(self.stats, name) + now - before)
        member.totals = turn.totals
        for name, why in turn.refused:
            if name in member.open or name.startswith(PROBE):
                raise RequestError(why)
        for result in turn.results:
            if member.probe is not None and result.id.startswith(member.round):
                member.probe.append(replace(result, id=result.id.removeprefix(member.round), cached_tokens=0))
                if not self._probing(member) and self._reference is not None and not self._confirms(member):
                    return
                continue
            sent = member.open.get(result.id)
            # Of an earlier request of this name, or dropped since.
            if sent is None or sent.serial > call.serial:
                continue
            for other in self._holders.pop(result.id):
                del other.open[result.id]
                if other is not member:
                    other.dropped.append(result.id)
            self._answered.add(result.id)
            member.held.append(result)

    def _confirms(self, member: Member) -> bool:
        """Compare a worker's answers to the probe, and let what it holds be read; or take the worker out."""
        assert member.probe is not None
        assert self._reference is not None
        found, member.probe = _in_order(member.probe), None
        if found != self._reference:
            self._crew.expel(member, first_unlike(found, self._reference))
            return False
        self._unread.extend(member.held)
        self._answered.difference_update(result.id for result in member.held)
        member.held, member.losses = [], 0
        return True

    def _take_back(self, member: Member) -> None:
        """Ask again what a lost worker had, unless another one has it too."""
        again = [result.id for result in member.held]
        self._answered.difference_update(again)
        for name in member.open:
            holders = self._holders[name]
            holders.remove(member)
            if not holders:
                del self._holders[name]
                again.append(name)
        for name in again:
            self._queue.add(self._wanted[name], urgent=True)
        member.open, member.held, member.probe = {}, [], None

    def _agree_on_probe(self) -> None:
        """Let all workers answer the probe, where what they have loaded is new, and take out those that differ."""
        if self._reference is not None or not self._wanted:
            return
        self._crew.await_some()
        self._probes = _probes(self.vocab_size, list(self._mixtures))
        asked = self._crew.ready
        for member in asked:
            self._probe(member)
        while any(m.ready and self._probing(m) for m in asked):
            self._send()
            for member, call, turn in self._crew.wait():
                if member.ready:
                    self._take(member, call, turn)
        answers = {m: _in_order(m.probe) for m in asked if m.ready and m.probe is not None}
        if not answers:
            self._agree_on_probe()
            return
        self._reference = self._crew.agree(answers)
        for member in answers:
            member.probe = None


def _in_order(results: Iterable[Result]) -> list[Result]:
    """Return the answers to a probe in an order of their own: they come in any."""
    return sorted(results, key=lambda result: result.id)


def _probes(vocab_size: int, mixtures: Sequence[str]) -> list[Request]:
    """Return what all workers are asked again and again: short generations and scores of the base and each mixture."""
    prompt = tuple((17 * k + 3) % vocab_size for k in range(PROBE_PROMPT))
    labels = tuple(tuple((23 * k + 5 + j) % vocab_size for k in range(2)) for j in range(2))
    sampling = SamplingParams(max_new_tokens=PROBE_ANSWER, temperature=1.0, ignore_eos=True, logprobs=True)
    found: list[Request] = []
    # The latest are personas' sums; those before are what these are made of.
    for k, name in enumerate([None, *mixtures[-PROBE_MIXTURES:]]):
        found.append(GenerateRequest(f"{k:02}a", prompt, sampling, name, ("probe", k)))
        found.append(ScoreRequest(f"{k:02}b", prompt, labels, name))
    return found
