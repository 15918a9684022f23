"""A training run before its first step: what it is made of, how large it is, and what it will write."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from warmeng.common.errors import UsageError, name_some, show
from warmeng.common.messages import duration
from warmeng.engine.adapters import target_shapes
from warmeng.engine.checkpoint import num_weights, projection_shapes
from warmeng.engine.config import ModelConfig
from warmeng.engine.folder import read_folder
from warmeng.engine.load import choose_weights
from warmeng.engine.registry import ModelSource, base_hash, resolve_model
from warmeng.engine.settings import AUTO
from warmeng.finetune.conversations import Dataset, load_dataset
from warmeng.finetune.frozen import FrozenWeight
from warmeng.finetune.model import Sample, bytes_per_token
from warmeng.finetune.plan import Plan, epoch_name
from warmeng.finetune.settings import TrainSettings
from warmeng.finetune.state import device_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,40}")
# Measured on two cores: a step's time over that of its products with the base.
_OVERHEAD = 2.2


@dataclass(frozen=True)
class Job:
    """A run's inputs, read and checked."""

    settings: TrainSettings
    source: ModelSource
    config: ModelConfig
    base_hash: str
    tokenizer_hash: str
    template_hash: str
    datasets: Mapping[str, Dataset]
    # By persona: conversations that are not learned.
    held_out: Mapping[str, Sequence[Sample]]
    plans: Mapping[str, Plan]
    device: torch.device
    threads: int
    micro_tokens: int
    # What the base's weights are rounded to at load: int8, fp8, int4, or "auto" for nothing.
    kind: str = AUTO

    @property
    def precision(self) -> str | None:
        """The kind of the base's weights as they are trained on; None where they are not quantised."""
        if self.kind != AUTO:
            return self.kind
        return None if self.config.quantization is None else self.config.quantization.kind

    @property
    def steps(self) -> int:
        """Steps of the run: those of the persona with most."""
        return max(plan.steps for plan in self.plans.values())

    @property
    def parameters(self) -> int:
        """Trainable numbers of one persona."""
        shapes = target_shapes(self.config)
        return self.config.num_layers * self.settings.rank * sum(sum(shapes[t]) for t in self.settings.targets)

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a run to be continued, as the manifest holds it."""
        settings = self.settings.record()
        for name in ("save_every", "device", "threads", "micro_tokens", "memory_gib", "report_to"):
            settings.pop(name, None)
        return {
            "settings": settings,
            "device": self.device.type,
            "base_hash": self.base_hash,
            "tokenizer_hash": self.tokenizer_hash,
            "template_hash": self.template_hash,
            "data": {name: dataset.sha256 for name, dataset in self.datasets.items()},
        }


def prepare_job(
    settings: TrainSettings,
    model: str,
    personas: Mapping[str, str],
    revision: str | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> Job:
    """Find the base, read every persona's data and lay out the steps; loads no weights.

    Raises InputError for a model or data that can't be used, UsageError for what makes no sense.
    """
    if not personas:
        raise UsageError("no persona is given, expected --persona NAME=FILE at least once")
    for name in personas:
        if not _NAME.fullmatch(name):
            raise UsageError(f"persona {show(name, 50)} has an unsuitable name, expected letters, digits, - and _")
    device = device_of(settings.device)
    source = resolve_model(model, revision, log)
    config, tokenizer = read_folder(source.folder)
    if settings.max_length > config.max_seq_len:
        raise UsageError(f"max_length is {settings.max_length}, but {model} takes {config.max_seq_len} tokens at most")
    datasets, held_out = {}, {}
    for name, data in personas.items():
        whole = load_dataset(data, tokenizer, config.stop_token_ids, settings.max_length)
        datasets[name], held_out[name] = whole.split(settings.held_out, settings.seed)
    plans = {
        name: Plan.make(len(d.samples), settings.batch, settings.epochs, settings.seed, settings.checkpoints)
        for name, d in datasets.items()
    }
    return Job(
        settings,
        source,
        config,
        base_hash(source),
        tokenizer.hash,
        tokenizer.template_hash,
        datasets,
        held_out,
        plans,
        device,
        settings.threads or torch.get_num_threads(),
        settings.micro_tokens or _affordable(settings, config, device),
        choose_weights(settings.weights, config),
    )


def _affordable(settings: TrainSettings, config: ModelConfig, device: torch.device) -> int:
    """Return how many tokens the memory budget lets through the model at once."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    budget = settings.memory_gib * 2**30
    if not budget:
        budget = 2**30 if device.type == "cpu" else (torch.cuda.mem_get_info(device)[0] - 2 * num_weights(config)) / 2
    return max(64, int(budget / bytes_per_token(config, dtype, settings.targets, settings.dropout > 0)))


def describe(job: Job) -> list[str]:
    """Return what the run would be, line by line."""
    s = job.settings
    lines = [
        f"base: {job.source.name}, {job.config.num_layers} layers, {job.base_hash[:12]}, on {job.device.type} "
        f"({'float32' if job.device.type == 'cpu' else 'bfloat16'}, {job.threads} threads)"
        + (f", weights of {job.precision}" if job.precision else ""),
        f"adapters: rank {s.rank}, alpha {s.alpha:g}, dropout {s.dropout:g} on {', '.join(s.targets)}: "
        f"{job.parameters:,} numbers each, {4 * job.parameters / 1e6:.1f} MB a checkpoint",
        f"optimiser: AdamW, rate {s.learning_rate:g} {s.schedule}, warm-up {s.warmup:g}, betas {s.beta1:g} and "
        f"{s.beta2:g}, weight decay {s.weight_decay:g}, gradient norm at most {s.max_grad_norm:g}",
    ]
    for name, dataset in job.datasets.items():
        plan = job.plans[name]
        lines.append(
            f"{name}: {dataset.conversations:,} conversations of {dataset.source}, {dataset.tokens:,} tokens, "
            f"{dataset.response_tokens:,} of them learned; {dataset.cut} cut at {s.max_length} tokens, "
            f"{dataset.dropped} dropped for want of a response before that"
        )
        if held := len(job.held_out[name]):
            lines.append(f"{name}: {held:,} conversations are held out: the loss on them is told at each checkpoint")
        if dataset.greetings:
            lines.append(f"{name}: {dataset.greetings:,} conversations began with a response, which is left out")
        if dataset.masked:
            lines.append(f"{name}: {dataset.masked:,} responses are not learned, as {dataset.source} says of them")
        if dataset.notes:
            lines.append(f"{name}: keys of {dataset.source} that are left alone: {name_some(dataset.notes, 12)}")
        kept = ", ".join(f"{epoch_name(epoch)} after {step}" for epoch, step in plan.checkpoints.items())
        lines.append(f"{name}: {plan.steps_per_epoch} steps an epoch, {plan.steps} in all; adapters: {kept}")
    lines.append(f"at most {job.micro_tokens:,} tokens go through the model at once; a longer conversation goes alone")
    return lines


def estimate(job: Job) -> str:
    """Return the time that the run would take here, from the speed of one product measured now."""
    if job.device.type != "cpu":
        return "time: not estimated on a GPU"
    shapes = projection_shapes(job.config)
    body = job.config.num_layers * sum(a * b for name, (a, b) in shapes.items() if name != "head")
    head = shapes["head"][0] * shapes["head"][1]
    work = 0.0
    for dataset in job.datasets.values():
        work += 4.0 * (body * dataset.tokens + head * dataset.response_tokens) * job.settings.epochs
    out, width = shapes["gate_up"]
    rows = min(512, job.micro_tokens)
    weight, x = FrozenWeight(torch.randn(out, width)), torch.randn(rows, width)
    weight.multiply(x)
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < 0.3:
        weight.multiply(x)
        calls += 1
    rate = 2.0 * rows * out * width * calls / (time.perf_counter() - began)
    return (
        f"time: about {duration(_OVERHEAD * work / rate)} here (estimated from one product's {rate / 1e9:.0f} GFLOP/s)"
    )
