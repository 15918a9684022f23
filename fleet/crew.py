"""The workers of one model: started together, compared to the last bit, and started again where one is lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from warmeng.common.errors import InputError, Stopped, WarmengError, one_line, show
from warmeng.engine.request import Request, Result
from warmeng.fleet.cluster import Cluster, WorkerLost
from warmeng.fleet.worker import COUNTED, About, Worker

# Seconds between looks at workers that say nothing.
TICK = 0.5
# Seconds that a worker may take to find room and load its model.
START = 1800.0
# Losses of one worker, one after the other without a confirmed answer between them, after which it is given up.
MOST_LOSSES = 3

Kind = Literal["load", "repeat", "ask", "turn"]


class NoWorkers(Stopped):
    """All workers are gone, or none agrees with another."""


@dataclass(frozen=True)
class Call:
    """A call under way. ``serial`` tells it from earlier ones of its worker; ``repeat``: what it must give."""

    ref: Any
    kind: Kind
    serial: int
    repeat: Any = None


@dataclass(frozen=True)
class Sent:
    """A request that a worker has, and the first call whose results can be its answer."""

    request: Request
    serial: int


@dataclass(eq=False)
class Member:
    """A worker as the driver sees it."""

    name: str
    handle: Any
    losses: int = 0
    about: About | None = None
    # It has loaded, agrees with the others, and has all adapters.
    ready: bool = False
    calls: deque[Call] = field(default_factory=deque)
    serial: int = 0
    # Seconds since it was heard of, with a call under way.
    silent: float = 0.0
    open: dict[str, Sent] = field(default_factory=dict)
    # Answers that wait for the probe after them.
    held: list[Result] = field(default_factory=list)
    # Answers to the probe under way, when it was asked, and how the names of its requests begin.
    probe: list[Result] | None = None
    probed: float = 0.0
    round: str = ""
    # When it last had something to do.
    busy: float = 0.0
    # What the next call tells it.
    outbox: list[tuple[Request, bool]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    totals: tuple[int, ...] = (0,) * len(COUNTED)

    @property
    def called(self) -> str:
        """Its name with its place."""
        return self.name if self.about is None else f"{self.name} (process {self.about.pid} on {self.about.host})"


class Crew:
    """Starts workers, repeats on later ones what was asked of all, and compares what they give."""

    def __init__(
        self,
        cluster: Cluster,
        load: Callable[[], Any],
        here: Mapping[str, Any],
        patience: float,
        say: Callable[[str], None],
        returned: Callable[[Member], None],
    ) -> None:
        """``here``: facts of this process that workers must share. ``patience``: seconds without a sign of life (0: for
        ever) after which a worker is ended. ``returned`` takes back what a lost member had.
        """
        self._cluster, self._load, self._here = cluster, load, here
        self._patience, self._say, self._returned = patience, say, returned
        self.members: list[Member] = []
        self.about: About | None = None
        self.looks = 0
        # Everything that was asked of all, in order, with what it gave.
        self._asked: list[tuple[str, tuple[Any, ...], Any]] = []
        self._looked = time.monotonic()
        self._refused: list[WarmengError] = []

    @property
    def ready(self) -> list[Member]:
        """Members that may be asked."""
        return [member for member in self.members if member.ready]

    def open(self) -> About:
        """Start all workers, wait for them, and return what they agree on.

        Raises ``InputError`` where they load nothing, or something else than this process expects, and ``NoWorkers``.
        """
        self._looked = time.monotonic()
        for k in range(self._cluster.workers):
            self._start(f"worker {k + 1}")
        while any(member.about is None for member in self.members):
            self.wait()
        facts = self.agree({m: m.about.facts for m in self.members if m.about is not None})
        for key, mine in self._here.items():
            if facts.get(key) != mine:
                raise InputError(
                    f"the workers' {key} is {show(facts.get(key))} and {show(mine)} here: have the same on all machines"
                )
        self.about = next(m.about for m in self.members if m.about is not None)
        for member in self.members:
            member.ready = True
        return self.about

    def ask(self, method: str, *given: Any) -> Any:
        """Call a method on every ready worker, and on those that come later; return what they agree on.

        What can't be done raises as it does on one engine.
        """
        self.await_some()
        for member in self.ready:
            self.call(member, "ask", "setup", method, *given)
        answers: dict[Member, Any] = {}
        errors: dict[Member, WarmengError] = {}
        while any(call.kind == "ask" for member in self.members for call in member.calls):
            for member, call, value in self.wait():
                if call.kind == "ask":
                    (errors if isinstance(value, WarmengError) else answers)[member] = value
        if errors and len(errors) >= len(answers):
            raise next(iter(errors.values()))
        for member, error in errors.items():
            self.expel(member, str(error))
        self.await_some()
        found = self.agree(answers)
        self._asked.append((method, given, found))
        # One that came meanwhile has only what was asked before.
        for member in self.members:
            if member.about is not None and member not in answers:
                self.call(member, "repeat", "setup", method, *given, repeat=found)
                member.ready = False
        return found

    def call(self, member: Member, kind: Kind, method: str, *given: Any, repeat: Any = None) -> None:
        """Call a worker."""
        if not member.calls:
            member.silent = 0.0
        member.serial += 1
        ref = self._cluster.call(member.handle, method, *given)
        member.calls.append(Call(ref, kind, member.serial, repeat))

    def wait(self) -> list[tuple[Member, Call, Any]]:
        """Wait a moment for calls to end; return those of kind ``ask`` and ``turn``, and see to the others."""
        first = {member.calls[0].ref: member for member in self.members if member.calls}
        ended = self._cluster.wait(list(first), TICK) if first else []
        if not first:
            time.sleep(TICK)
        self.looks += 1
        now = time.monotonic()
        # A process that was stopped for a while, and goes on, has not waited.
        passed, self._looked = min(now - self._looked, 2 * TICK), now
        found: list[tuple[Member, Call, Any]] = []
        for ref in ended:
            member = first[ref]
            call = member.calls.popleft()
            member.silent = 0.0
            try:
                value: Any = self._cluster.get(ref)
            except WorkerLost as error:
                self.lose(member, str(error))
                continue
            except WarmengError as error:
                if call.kind != "ask":
                    self._refused.append(error)
                    self.expel(member, str(error))
                    continue
                value = error
            if call.kind == "load":
                self._admit(member, value)
            elif call.kind == "repeat":
                self._repeated(member, call, value)
            else:
                found.append((member, call, value))
        for member in [m for m in self.members if m.calls]:
            member.silent += passed
            most = self._patience if member.about is not None else START
            if most and member.silent > most:
                self.lose(member, f"no sign of life for {member.silent:.0f} s")
        return found

    def await_some(self) -> None:
        """Wait until a worker is ready, where one may still be. Raises ``NoWorkers``."""
        while not self.ready:
            self.wait()

    def lose(self, member: Member, why: str) -> None:
        """Drop a worker, give back what it had, and start another one in its place, unless it was lost too often."""
        self._drop(member)
        count, losses = len(member.open) + len(member.held), member.losses + 1
        again = f"; its {count:,} requests are asked again" if count else ""
        if losses < MOST_LOSSES:
            self._say(f"{member.called} is lost ({one_line(why, 200)}){again}, and another one is started")
            self._start(member.name, losses)
        else:
            self._say(f"{member.called} is lost {losses} times in a row ({one_line(why, 200)}){again}: it is given up")
        self._returned(member)
        self._require_some(why)

    def expel(self, member: Member, why: str) -> None:
        """Take a worker out for good, and give back what it had."""
        self._drop(member)
        self._say(f"{member.called} is taken out: {one_line(why, 400)}")
        self._returned(member)
        self._require_some(why)

    def agree(self, answers: Mapping[Member, Any]) -> Any:
        """Return what most workers gave, and take the others out by name. Raises ``InputError`` without a majority."""
        groups: list[tuple[Any, list[Member]]] = []
        for member, value in answers.items():
            for known, members in groups:
                if known == value:
                    members.append(member)
                    break
            else:
                groups.append((value, [member]))
        groups.sort(key=lambda group: -len(group[1]))
        if not groups:
            raise NoWorkers("no worker answered")
        (value, most), *others = groups
        if others and len(others[0][1]) == len(most):
            pair = f"{most[0].called} and {others[0][1][0].called}"
            raise InputError(
                f"{pair} do not agree, and no majority tells which is wrong: {unlike(others[0][0], value)}: "
                "leave one of their machines out"
            )
        for other, members in others:
            for member in members:
                self.expel(member, f"it does not agree with the {len(most)} others: its {unlike(other, value)}")
        return value

    def close(self) -> None:
        """End all workers."""
        for member in list(self.members):
            self._drop(member)

    def _start(self, name: str, losses: int = 0) -> None:
        member = Member(name, self._cluster.start(Worker), losses)
        self.members.append(member)
        self.call(member, "load", "load", self._load)

    def _drop(self, member: Member) -> None:
        self.members.remove(member)
        member.ready = False
        about = member.about
        self._cluster.kill(member.handle, about.pid if about else None, about.host if about else "")

    def _require_some(self, why: str) -> None:
        if self.members:
            return
        if self.about is None and self._refused:
            raise self._refused[0]
        raise NoWorkers(f"no worker is left (the last one: {one_line(why, 200)})")

    def _admit(self, member: Member, about: About) -> None:
        """Take a worker that has loaded; one that comes later must be as the others, and have what they have."""
        member.about = about
        if self.about is None:
            return
        if about.facts != self.about.facts:
            self.expel(member, f"its {unlike(about.facts, self.about.facts)}")
            return
        for method, given, found in self._asked:
            self.call(member, "repeat", "setup", method, *given, repeat=found)
        member.ready = not member.calls

    def _repeated(self, member: Member, call: Call, value: Any) -> None:
        if value != call.repeat:
            self.expel(member, f"it gives {show(value)} where the others give {show(call.repeat)}")
        else:
            member.ready = not member.calls


def unlike(one: Any, other: Any, name: str = "answer") -> str:
    """Say where two values differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        key = next((k for k in {**one, **other} if one.get(k) != other.get(k)), None)
        if key is not None:
            return unlike(one.get(key), other.get(key), str(key) if name == "answer" else f"{name} {key}")
    if isinstance(one, list) and isinstance(other, list):
        return first_unlike(one, other)
    return f"{name} is {show(one)}, not {show(other)}"


def first_unlike(one: Sequence[Result], other: Sequence[Result]) -> str:
    """Say where answers to a probe differ."""
    for k, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        for name, value in vars(mine).items():
            if value != vars(theirs).get(name):
                return f"answer {k + 1} of the probe has {name} {show(value)}, not {show(vars(theirs).get(name))}"
    return "the probe's answers differ"
