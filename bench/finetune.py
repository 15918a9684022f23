"""Training tokens a second beside PEFT's in a plain loop, and TRL's where it is installed, on the same data."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from warmeng.bench.trainers import Peft, trl_seconds
from warmeng.finetune.job import Job, prepare_job
from warmeng.finetune.lora import AdapterParameters
from warmeng.finetune.model import Sample, TrainingModel
from warmeng.finetune.noise import Dropout
from warmeng.finetune.optim import Adam, clip
from warmeng.finetune.plan import micro_rows
from warmeng.finetune.settings import TrainSettings

MICRO_BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class TrainComparison:
    """What ``compare_training`` measured; rates are tokens that are not padding a second, forward to update."""

    model: str
    personas: int
    conversations: int  # of a step, all personas
    tokens: int  # of a step, on average
    ours: list[float]
    peft: list[float]
    peft_micro_batch: int
    peft_by_micro_batch: dict[int, float]
    trl: list[float]
    trl_micro_batch: int | None
    trl_by_micro_batch: dict[int, float]
    ratio_peft: float
    ratio_trl: float | None
    threads: int


class _Ours:
    """Our steps on given batches."""

    def __init__(self, job: Job) -> None:
        s = job.settings
        self.job = job
        self.model = TrainingModel.load(job.source.folder, job.config, s.max_length, job.device, job.kind)
        self.adapters = {n: AdapterParameters(job.config, s.targets, s.rank, job.device) for n in job.datasets}
        for adapter in self.adapters.values():
            adapter.initialise(s.seed)
        self.adams = {name: Adam.zeros(adapter.flat) for name, adapter in self.adapters.items()}

    def step(self, number: int, batches: dict[str, list[Sample]]) -> None:
        s = self.job.settings
        shares = {name: 1 / sum(x.targets for x in batch) for name, batch in batches.items()}
        for adapter in self.adapters.values():
            adapter.grad.zero_()
        for row in micro_rows(batches, self.job.micro_tokens):
            dropout = Dropout(s.dropout, s.seed, number, [x.index for x in row.samples], row.lengths)
            self.model.backward(row, self.adapters, s.scale, shares, dropout)
        for name, adapter in self.adapters.items():
            clip(adapter.grad, s.max_grad_norm)
            self.adams[name].update(adapter.flat, adapter.grad, s.learning_rate, s.beta1, s.beta2, s.epsilon, 0.0)


def compare_training(
    model: str,
    *,
    personas: Sequence[str] = ("warm", "cold"),
    pairs: int = 3,
    batch: int = 16,
    micro_batch: int | None = None,
    max_length: int = TrainSettings.max_length,
    threads: int | None = None,
    device: str = "auto",
    trl: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> TrainComparison:
    """Make the same steps of the embedded training texts with ours and the others, in turn.

    ``micro_batch`` fixes the others'; None tries 1 to 16 on one persona's step first and takes each one's fastest.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    settings = TrainSettings(batch=batch, max_length=max_length, device=device)
    job = prepare_job(settings, model, {name: f"embedded:{name}" for name in personas})
    steps = [
        {n: [job.datasets[n].samples[i] for i in plan.batch_of(step)] for n, plan in job.plans.items()}
        for step in range(pairs)
    ]
    sizes = [sum(len(x.tokens) for part in batches.values() for x in part) for batches in steps]
    ours, peft = _Ours(job), Peft(job)

    def timed(call: Callable[[], Any], tokens: int) -> float:
        began = time.perf_counter()
        call()
        if job.device.type != "cpu":
            torch.cuda.synchronize()
        return tokens / (time.perf_counter() - began)

    say("warming up")
    few = {name: part[:2] for name, part in steps[0].items()}
    ours.step(0, few)
    peft.step(few, 1)
    first = {personas[0]: steps[0][personas[0]]}
    tokens = sum(len(x.tokens) for x in first[personas[0]])
    sizes_tried = (micro_batch,) if micro_batch else tuple(m for m in MICRO_BATCHES if batch % m == 0)
    with_trl = trl and all(importlib.util.find_spec(name) for name in ("trl", "datasets"))
    by_micro: dict[str, dict[int, float]] = {"PEFT": {}, "TRL": {}}
    for micro in sizes_tried:
        by_micro["PEFT"][micro] = timed(partial(peft.step, first, micro), tokens)
        if with_trl:
            by_micro["TRL"][micro] = tokens / trl_seconds(job, first, micro)
        told = ", ".join(f"{name} {rates[micro]:.0f}" for name, rates in by_micro.items() if rates)
        say(f"{micro} conversations at once: {told} tokens/s")
    best = {name: max(rates, key=rates.__getitem__) for name, rates in by_micro.items() if rates}
    found: tuple[list[float], list[float], list[float]] = ([], [], [])
    for number, (batches, size) in enumerate(zip(steps, sizes, strict=True)):
        found[1].append(timed(partial(peft.step, batches, best["PEFT"]), size))
        found[0].append(timed(partial(ours.step, number, batches), size))
        if with_trl:
            found[2].append(size / trl_seconds(job, batches, best["TRL"]))
        other = f", TRL {found[2][-1]:.0f}" if with_trl else ""
        say(f"step {number + 1} of {pairs}: ours {found[0][-1]:.0f} tokens/s, PEFT {found[1][-1]:.0f}{other}")
    return TrainComparison(
        model, len(personas), batch * len(personas), round(statistics.mean(sizes)),
        found[0], found[1], best["PEFT"], by_micro["PEFT"], found[2], best.get("TRL"), by_micro["TRL"],
        statistics.median(a / b for a, b in zip(found[0], found[1], strict=True)),
        statistics.median(a / b for a, b in zip(found[0], found[2], strict=True)) if with_trl else None,
        torch.get_num_threads(),
    )  # fmt: skip
