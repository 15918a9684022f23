"""Fine-tuning at a server: a file of conversations goes up, a job is made of it, and is watched until it ends.

What is started is written down before it is watched, so that another process goes on watching and starts nothing twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError, UsageError, one_line, show
from warmeng.remote.budget import FILE as SPENDING
from warmeng.remote.budget import Budget, Limits, Price
from warmeng.remote.client import Client, Rejected
from warmeng.remote.errors import BudgetReached
from warmeng.remote.loop import run_until
from warmeng.remote.names import PREFIX, check_base, key_for, model_of
from warmeng.remote.pace import Patience
from warmeng.remote.submit import Service, Submission, Submissions, id_of, text_of

# In a run's folder: what was submitted.
FILE = "jobs.jsonl"
UNDER_WAY = ("validating_files", "queued", "running", "paused")
OVER = ("succeeded", "failed", "cancelled")
# Events that are told at most at a time: a server has one for each step.
MOST_EVENTS = 20


@dataclass(frozen=True)
class TuningJob:
    """One fine-tuned model: the suffix of its name, and its conversations as lines of ``messages``.

    ``epochs``, ``batch`` and ``rate`` (a multiplier of the learning rate) are the server's choice where they are not
    given.
    """

    name: str
    model: str
    content: bytes
    seed: int = 0
    epochs: int | None = None
    batch: int | None = None
    rate: float | None = None

    @property
    def most_tokens(self) -> int:
        """The most tokens that an epoch can have: no tokenizer makes more than one of a byte."""
        return len(self.content)

    def plan(self) -> dict[str, Any]:
        """Return what must be the same for a job to be watched again."""
        values = {name: value for name, value in asdict(self).items() if name != "content"}
        return values | {"data": hashlib.sha256(self.content).hexdigest()}

    def body(self, file: str, seed: bool) -> dict[str, Any]:
        """Return the parameters of ``fine_tuning.jobs.create``."""
        chosen = {"n_epochs": self.epochs, "batch_size": self.batch, "learning_rate_multiplier": self.rate}
        given = {name: value for name, value in chosen.items() if value is not None}
        body: dict[str, Any] = {"model": self.model, "training_file": file, "suffix": self.name}
        if seed:
            body["seed"] = self.seed
        if given:
            body["method"] = {"type": "supervised", "supervised": {"hyperparameters": given}}
        return body


@dataclass(frozen=True)
class Tuned:
    """A model that a job made: its name, the job, the seed that it tells, and the tokens that it trained on."""

    model: str
    job: str
    seed: int | None
    tokens: int | None

    @property
    def persona(self) -> str:
        """How ``warmeng run`` names it."""
        return PREFIX + self.model


@dataclass(frozen=True)
class JobState:
    """What a server says of a job."""

    status: str
    model: str
    seed: int | None
    tokens: int | None
    why: str


class Tuner:
    """Starts and watches one folder's jobs. Its lock is held by the caller."""

    def __init__(
        self,
        folder: Path,
        base: str | None,
        budget: tuple[Limits, Mapping[str, Price]],
        *,
        patience: Patience | None = None,
        say: Callable[[str], None] = lambda line: None,
        resume: str = "the same command",
    ) -> None:
        """Raises ``UsageError`` for an address or a key that can't be used; as ``Budget`` and ``Submissions``."""
        self.base, self.patience = check_base(base), patience or Patience()
        self._say = say
        self._loop = asyncio.new_event_loop()
        self._client = Client(self.base, key_for(self.base), self.patience)
        self._service = Service(self._client)
        self.budget = Budget(*budget, folder / SPENDING, resume)
        self._submissions = Submissions(folder / FILE, resume)
        self._seen: set[str] = set()
        self._told: dict[str, str] = {}

    def run(self, jobs: Sequence[TuningJob], interrupted: Sequence[int] = ()) -> dict[str, Tuned]:
        """Start what is not started, watch until all have ended, and return the models by the jobs' names.

        Where ``interrupted`` is filled, what goes on at the server is not among them. Raises ``UsageError`` for a
        folder whose jobs are others, ``Stopped``, and ``InputError`` with the server's words for a job that fails,
        after all have ended.
        """
        kept = {one.plan["job"]["name"]: one for one in self._submissions.all.values()}
        for job in jobs:
            if job.name in kept:
                _same(job, kept[job.name])
            elif job.epochs is None and (self.budget.limits.tokens is not None or self.budget.limits.usd is not None):
                raise UsageError("the server chooses the epochs, so no budget can be kept: give --epochs too")
        # All of them before the first is paid for.
        planned = {job: kept.get(job.name) or self._plan(job) for job in jobs}
        watched: dict[str, Submission] = {}
        for job, one in planned.items():
            if not one.id and not interrupted:
                self._start(job, one, interrupted)
            if one.id:
                watched[job.name] = one
        found = run_until(self._loop, self._watch(watched), interrupted)
        if found is None:
            self._say("what was started goes on at the server: the same command watches it again")
            return {}
        return self._end(watched, found)

    def close(self) -> None:
        """Close connections and files."""
        self._loop.run_until_complete(self._client.close())
        self._loop.close()
        self._submissions.close()
        self.budget.close()

    def _plan(self, job: TuningJob) -> Submission:
        held = self.budget.hold(job.model, job.most_tokens * (job.epochs or 1), 0)
        if held is None:
            raise BudgetReached(f"the budget does not hold {job.name} beside the others: {self.budget.told()}")
        one = self._submissions.plan({"job": job.plan(), "held": held})
        self.budget.write_down(held)
        return one

    def _start(self, job: TuningJob, one: Submission, interrupted: Sequence[int]) -> None:
        fresh = not one.file
        if fresh:
            file = run_until(
                self._loop, self._service.upload(f"{job.name}.jsonl", job.content, "fine-tune"), interrupted
            )
            if file is None:
                return
            self._submissions.note(one, file=file)
        for seed in (True, False):
            making = self._service.start(
                partial(_create, body=job.body(one.file, seed)),
                lambda api: api.fine_tuning.jobs.list(limit=100),
                one.file,
                fresh,
            )
            try:
                found = run_until(self._loop, making, interrupted)
            except Rejected as error:
                if not seed or "seed" not in error.said:
                    raise
                self._say(f"{job.name}: {self.base} takes no seed: the job chooses its own")
                continue
            if found is not None:
                self._submissions.note(one, id=found)
                self._say(f"{job.name}: job {found} of {job.model} is started")
            return

    async def _watch(self, watched: Mapping[str, Submission]) -> dict[str, JobState]:
        """Look at jobs until all have ended, and return how."""
        found: dict[str, JobState] = {}
        looks = 0
        while True:
            for name, one in watched.items():
                if name in found:
                    continue
                state = await self._service.look(partial(_retrieve, name=one.id), _state_of)
                await self._tell(name, one, state)
                if state.status in OVER:
                    found[name] = state
            if len(found) == len(watched):
                return found
            looks += 1
            await asyncio.sleep(self.patience.wait(looks))

    async def _tell(self, name: str, one: Submission, state: JobState) -> None:
        events = await self._service.look(
            lambda api: api.fine_tuning.jobs.list_events(one.id, limit=MOST_EVENTS), _events_of
        )
        for event, message in reversed(events):
            if event not in self._seen:
                self._seen.add(event)
                self._say(f"{name}: {self._client.clean(message)}")
        if self._told.get(name) != state.status:
            self._told[name] = state.status
            self._say(f"{name}: {state.status}")

    def _end(self, watched: Mapping[str, Submission], states: Mapping[str, JobState]) -> dict[str, Tuned]:
        tuned: dict[str, Tuned] = {}
        failed: list[str] = []
        for name, state in states.items():
            one = watched[name]
            if state.tokens is not None and self.budget.adopt(one.plan["held"]):
                self.budget.settle(one.plan["held"], state.tokens, 0)
            if state.status == "succeeded":
                tuned[name] = Tuned(state.model, one.id, state.seed, state.tokens)
            else:
                failed.append(f"{name}: job {one.id} {state.status}: {self._client.clean(state.why) or 'no reason'}")
        if failed:
            made = "".join(f"; {name} is {one.persona}" for name, one in tuned.items())
            raise InputError(f"{self.base}: {'; '.join(failed)}: mend it and choose another --out{made}")
        return tuned


@contextmanager
def opened(tuner: Tuner) -> Iterator[Tuner]:
    """Close a tuner at the end of the block."""
    try:
        yield tuner
    finally:
        tuner.close()


def prices_of(model: str, usd: float | None) -> dict[str, Price]:
    """Return the price of training by model: ``usd`` for a million tokens that are trained on."""
    return {} if usd is None else {model_of(model): Price(usd, 0.0)}


async def _create(api: Any, body: Mapping[str, Any]) -> Any:
    return await api.fine_tuning.jobs.create(**body)


async def _retrieve(api: Any, name: str) -> Any:
    return await api.fine_tuning.jobs.retrieve(name)


def _same(job: TuningJob, one: Submission) -> None:
    """Raise ``UsageError`` for a job that is not the one that was submitted."""
    was, now = one.plan["job"], job.plan()
    changed = [name for name in now if was.get(name) != now[name]]
    if changed:
        told = ", ".join(f"{name} {show(was.get(name), 20)} there and {show(now[name], 20)} now" for name in changed)
        raise UsageError(f"persona {job.name} was submitted with {told}: give the same, or another --out")


def _state_of(found: Any) -> JobState:
    status, model = text_of(found, "status"), text_of(found, "fine_tuned_model")
    if status not in (*UNDER_WAY, *OVER):
        raise ValueError("its status is none of a job")
    if status == "succeeded" and not model:
        raise ValueError("it names no model")
    error = getattr(found, "error", None)
    seed, tokens = getattr(found, "seed", None), getattr(found, "trained_tokens", None)
    why = " ".join(filter(None, (text_of(error, "code"), text_of(error, "message"))))
    return JobState(
        status,
        model,
        seed if type(seed) is int else None,
        tokens if type(tokens) is int and tokens >= 0 else None,
        one_line(why, 200),
    )


def _events_of(found: Any) -> list[tuple[str, str]]:
    """Return the latest events and their messages, the latest first."""
    data = getattr(found, "data", None)
    if not isinstance(data, list):
        raise ValueError("it has no events")
    return [(id_of(one), one_line(text_of(one, "message"), 200)) for one in data]
