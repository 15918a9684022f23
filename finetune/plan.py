"""Which samples each step takes, in which pieces, and after which steps adapters are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmeng.finetune.model import MicroRow, Sample
from warmeng.finetune.noise import order


@dataclass(frozen=True)
class Plan:
    """The steps of one persona. Steps are counted from 0; ``checkpoints`` from an epoch to the steps done by then."""

    samples: int
    batch: int
    epochs: int
    seed: int
    checkpoints: Mapping[float, int]

    @classmethod
    def make(cls, samples: int, batch: int, epochs: int, seed: int, kept: Sequence[float]) -> Plan:
        """Place the checkpoints: at the nearest step, the first at least; the end of the last epoch is among them."""
        per_epoch = -(-samples // batch)
        places = {epoch: max(1, round(epoch * per_epoch)) for epoch in sorted({*map(float, kept), float(epochs)})}
        return cls(samples, batch, epochs, seed, places)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the data; the last one may have fewer samples."""
        return -(-self.samples // self.batch)

    @property
    def steps(self) -> int:
        """Steps of all epochs."""
        return self.steps_per_epoch * self.epochs

    def batch_of(self, step: int) -> list[int]:
        """Return the samples of a step, by their place in the data."""
        epoch, place = divmod(step, self.steps_per_epoch)
        shuffled = order(self.seed, epoch, self.samples)
        return [int(i) for i in shuffled[place * self.batch : (place + 1) * self.batch]]


def epoch_name(epoch: float) -> str:
    """Return the name of a checkpoint's folder, such as ``epoch-2`` or ``epoch-0.5``."""
    return f"epoch-{epoch:g}"


def micro_rows(batches: Mapping[str, Sequence[Sample]], most: int) -> list[MicroRow]:
    """Cut a step's samples, persona after persona, into rows of at most ``most`` tokens; one sample is never cut.

    As few rows as that allows when filled in order, of sizes as equal as they come.
    """
    queue = [(name, sample) for name, samples in batches.items() for sample in samples]
    total = sum(len(sample.tokens) for _, sample in queue)
    target = -(-total // -(-total // most)) if total else most
    rows: list[list[tuple[str, Sample]]] = []
    held = 0
    for name, sample in queue:
        size = len(sample.tokens)
        over = held + size > most or held + size // 2 > target
        if not rows or over:
            rows.append([])
            held = 0
        rows[-1].append((name, sample))
        held += size
    return [_row(entries) for entries in rows]


def _row(entries: Sequence[tuple[str, Sample]]) -> MicroRow:
    places: dict[str, slice] = {}
    at = 0
    for name, sample in entries:
        start = places[name].start if name in places else at
        at += len(sample.tokens)
        places[name] = slice(start, at)
    return MicroRow(tuple(sample for _, sample in entries), places)
