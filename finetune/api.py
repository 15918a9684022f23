"""Fine-tuning at a server that speaks OpenAI's API: the same data, trained there, and personas by their names."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from warmeng.common.errors import InputError, StorageError, UsageError, one_line, show
from warmeng.common.files import write_atomic
from warmeng.common.interrupts import interruptible
from warmeng.common.locks import FolderLock
from warmeng.common.progress import Progress
from warmeng.common.storage import LOCK
from warmeng.finetune.conversations import Conversation, read_conversations
from warmeng.remote.budget import Limits
from warmeng.remote.names import check_base, model_of
from warmeng.remote.tuning import Tuned, Tuner, TuningJob, opened, prices_of

# In a run's folder: each persona's model, once it is made.
FILE = "tuned.json"
# UTF-8 bytes of a token of English prose: nobody's tokenizer is asked.
BYTES = 4
# Where the server chooses how often the data are gone through.
NOT_KNOWN = "the server chooses the epochs (--epochs), so the tokens in all are not known"


@dataclass(frozen=True)
class ApiTraining:
    """What is fine-tuned where: ``model`` as ``openai:NAME``, ``personas`` with their data.

    ``epochs``, ``batch`` and ``rate`` (a multiplier of the learning rate) are the server's choice where they are not
    given. ``price``: US dollars for a million tokens that are trained on. Raises ``UsageError`` for unsound values.
    """

    model: str
    personas: Mapping[str, str]
    base: str | None = None
    seed: int = 0
    epochs: int | None = None
    batch: int | None = None
    rate: float | None = None
    price: float | None = None
    max_tokens: int | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        model_of(self.model)
        check_base(self.base)
        if not self.personas:
            raise UsageError("no persona is given, expected --persona NAME=FILE at least once")
        for name in self.personas:
            # It is a part of the model's name.
            if not 0 < len(name) <= 64 or not all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
                raise UsageError(f"persona {show(name, 50)} has an unsuitable name, expected letters, digits, - and _")
        for what, value, low in (("seed", self.seed, 0), ("epochs", self.epochs, 1), ("batch", self.batch, 1)):
            if value is not None and not low <= value < 2**31:
                raise UsageError(f"{what} is {show(value)}, expected a whole number from {low} on")
        if self.rate is not None and not 0 < self.rate <= 1000:
            raise UsageError(f"learning_rate_multiplier is {show(self.rate)}, expected a number from 0 to 1,000")
        for what, usd in (("price_train", self.price), ("max_cost", self.max_cost)):
            if usd is not None and not 0 <= usd <= 1e6:
                raise UsageError(f"{what} is {show(usd)}, expected US dollars from 0 to 1,000,000")
        if self.max_cost is not None and self.price is None:
            raise UsageError("max_cost is given without a price: give --price-train, USD for a million tokens")

    def jobs(self) -> list[TuningJob]:
        """Read the data and return a job for each persona. Raises ``InputError`` for data that can't be used."""
        return [
            TuningJob(name, model_of(self.model), content_of(data), self.seed, self.epochs, self.batch, self.rate)
            for name, data in self.personas.items()
        ]


def content_of(source: str) -> bytes:
    """Return a source's conversations as the API reads them: a line of ``messages`` each.

    A response that is not to be learned has the weight 0. Raises as ``read_conversations``.
    """
    found = b"".join(map(_line, read_conversations(source)))
    if not found:
        raise InputError(f"{source}: nothing to learn (it has no conversations): give other data")
    return found


def _line(conversation: Conversation) -> bytes:
    messages = [
        {**message, "weight": 0} if place in conversation.masked else message
        for place, message in enumerate(conversation.messages)
    ]
    return orjson.dumps({"messages": messages}) + b"\n"


def describe(training: ApiTraining, jobs: Sequence[TuningJob]) -> Iterator[str]:
    """Yield what would be sent and what it costs; nothing is sent."""
    yield f"API: {check_base(training.base)}, to fine-tune {training.model} with seed {training.seed}"
    for job in jobs:
        about, most = len(job.content) // BYTES, job.most_tokens
        count = job.content.count(b"\n")
        said = f"{job.name}: {count:,} conversations of {training.personas[job.name]}"
        yield f"{said}, about {about:,} tokens, at most {most:,}; sha256 {str(job.plan()['data'])[:12]}"
    epochs = training.epochs
    if epochs is None:
        yield NOT_KNOWN
        return
    about, most = (epochs * sum(sizes) for sizes in ([len(j.content) // BYTES for j in jobs],
                                                     [j.most_tokens for j in jobs]))  # fmt: skip
    yield f"tokens: about {about:,} in {epochs} epochs, at most {most:,}"
    if training.price is None:
        yield "cost: not known: give --price-train"
    else:
        money = [tokens * training.price / 1e6 for tokens in (about, most)]
        yield f"cost: about {money[0]:.2f} USD, at most {money[1]:.2f} USD"
        if training.max_cost is not None:
            fits = "enough for the most" if money[1] <= training.max_cost else "too little for the most: it is refused"
            yield f"budget: {training.max_cost:g} USD (--max-cost): {fits}"


def tune(training: ApiTraining, out: Path, progress: Progress, command: str = "the same command") -> dict[str, Tuned]:
    """Fine-tune each persona at the server, or go on watching what another process started; return the models.

    They are none where an interrupt came; what was started then goes on at the server. Raises as ``Tuner.run``,
    ``FolderLocked`` and ``StorageError``.
    """
    jobs = training.jobs()
    budget = Limits(tokens=training.max_tokens, usd=training.max_cost), prices_of(training.model, training.price)
    with FolderLock(out, LOCK), interruptible() as interrupted:
        tuner = Tuner(out, training.base, budget, say=progress.message, resume=command)
        with opened(tuner):
            found = tuner.run(jobs, interrupted)
            progress.message(f"{out}: trained on {tuner.budget.prompt.total():,} tokens{_money(tuner)}")
        if found:
            kept = {name: asdict(one) | {"base": training.model} for name, one in found.items()}
            try:
                write_atomic(out / FILE, orjson.dumps(kept, option=orjson.OPT_INDENT_2))
            except OSError as error:
                why = one_line(error.strerror or error)
                raise StorageError(f"{out / FILE}: {why}: make room, then continue with: {command}") from None
        return found


def following(training: ApiTraining, found: Mapping[str, Tuned]) -> str:
    """Return the command that compares the models with their base."""
    words = ["warmeng", "run", "--model", training.model, *(["--api-base", training.base] if training.base else [])]
    words += ["--persona", "original"]
    words += [word for name, one in found.items() for word in ("--persona", f"{name}={one.persona}")]
    return shlex.join(words)


def _money(tuner: Tuner) -> str:
    usd = tuner.budget.usd
    return f", {usd:.4f} USD" if usd is not None and tuner.budget.prices else ""
