"""The training loop: every persona's step s together, over one base, until each has had its epochs."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from warmeng import __version__
from warmeng.common.errors import UsageError, WarmengError
from warmeng.common.files import sweep
from warmeng.common.interrupts import interruptible
from warmeng.common.locks import FolderLock
from warmeng.common.manifest import ManifestKind
from warmeng.common.progress import Pace, Progress
from warmeng.common.storage import LOCK, storage, write_folder
from warmeng.engine.adapter_folder import adapter_config, write_adapter
from warmeng.engine.load import instructions
from warmeng.finetune.curve import draw
from warmeng.finetune.job import Job
from warmeng.finetune.lora import AdapterParameters
from warmeng.finetune.model import TrainingModel
from warmeng.finetune.noise import Dropout
from warmeng.finetune.optim import Adam, clip
from warmeng.finetune.plan import epoch_name, micro_rows
from warmeng.finetune.report_to import reporter, values_of
from warmeng.finetune.state import STATE, Log, load_state, save_state

# Raised whenever the trainer's arithmetic changes, so that a run is not continued with other numbers.
NUMERICS_VERSION = 2
TRAINING = ManifestKind(
    mark=("kind", "finetune"),
    parts={"numerics": int, "threads": int, "micro_tokens": int, "finished": bool},
    what="training run",
    made="this run was made with",
    before=(LOCK,),
    error=UsageError,
)


class DivergedError(WarmengError):
    """The loss or a gradient is not a finite number."""


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    folder: Path
    adapters: Mapping[str, list[Path]]  # by persona, in the order of epochs
    records: list[dict[str, Any]]  # of the log


def train(
    job: Job, folder: Path, progress: Progress, command: str = "", stop: Callable[[int], bool] = lambda step: False
) -> Outcome:
    """Train, or continue training, in ``folder``; a finished run is left as it is.

    ``stop`` is asked after each step (with the number of steps done) whether to stop as an interrupt would.

    Raises InputError or UsageError for inputs that don't fit the folder's run, FolderLocked, StorageError (what was
    finished is intact), DivergedError, and KeyboardInterrupt once the state is saved.
    """
    with FolderLock(folder, LOCK):
        manifest = _manifest(job, folder, command)
        done = _done(job, folder)
        if manifest["finished"]:
            # A process may have been killed just before it did this.
            (folder / STATE).unlink(missing_ok=True)
            progress.message(f"{folder} is finished")
            return Outcome(folder, done, Log(folder, job.steps).records)
        with storage(folder):
            sweep(folder)
        run = _Run(job, folder, progress, manifest)
        try:
            run.go(stop)
        finally:
            run.close()
        with storage(folder):
            TRAINING.write(folder, manifest | {"finished": True})
        (folder / STATE).unlink(missing_ok=True)
        return Outcome(folder, done, run.log.records)


def _done(job: Job, folder: Path) -> dict[str, list[Path]]:
    return {name: [folder / name / epoch_name(e) for e in plan.checkpoints] for name, plan in job.plans.items()}


def _manifest(job: Job, folder: Path, command: str) -> dict[str, Any]:
    """Write the manifest, or check that the one that is there is of the same run."""
    if (old := TRAINING.read(folder)) is not None:
        now = {"numerics": NUMERICS_VERSION} | job.identity()
        # Another machine's last bits are others; what is finished may lie anywhere.
        machine = {} if old["finished"] else {"instructions": instructions(job.device.type)}
        TRAINING.refuse_changes(folder, old, now | machine)
        return old
    manifest = {
        "numerics": NUMERICS_VERSION,
        **job.identity(),
        "instructions": instructions(job.device.type),
        "base": job.source.name,
        "revision": job.source.revision,
        "personas": {name: dataset.record() for name, dataset in job.datasets.items()},
        "steps": {name: plan.steps for name, plan in job.plans.items()},
        "checkpoints": {n: {f"{e:g}": s for e, s in p.checkpoints.items()} for n, p in job.plans.items()},
        # What settings left open; a continued run takes these, because they decide the last bits.
        "threads": job.threads,
        "micro_tokens": job.micro_tokens,
        "versions": {name: version(name) for name in ("torch", "numpy")} | {"warmeng": __version__},
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "command": command,
        "finished": False,
    }
    with storage(folder):
        TRAINING.write(folder, manifest)
    return manifest


class _Run:
    """The loop's parts."""

    def __init__(self, job: Job, folder: Path, progress: Progress, manifest: Mapping[str, Any]) -> None:
        self.job, self.folder, self.progress, self.manifest = job, folder, progress, manifest
        self.micro_tokens = int(manifest["micro_tokens"])
        torch.set_num_threads(int(manifest["threads"]))
        progress.message(f"loading {job.source.name}")
        s = job.settings
        self.model = TrainingModel.load(job.source.folder, job.config, s.max_length, job.device, job.kind)
        self.adapters: dict[str, AdapterParameters] = {}
        self.optimisers: dict[str, Adam] = {}
        for name in job.datasets:
            adapter = AdapterParameters(job.config, s.targets, s.rank, job.device)
            adapter.initialise(s.seed)
            self.adapters[name], self.optimisers[name] = adapter, Adam.zeros(adapter.flat)
        self.step = load_state(folder, self.adapters, self.optimisers)
        self.log = Log(folder, self.step)
        self.first, self.tokens, self.pace = self.step, 0, Pace()
        self.reporters = [reporter(name, folder, s.record()) for name in s.report_to]
        if self.step:
            progress.message(f"continuing after step {self.step} of {job.steps}")

    def go(self, stop: Callable[[int], bool]) -> None:
        """Make the steps that are left."""
        job = self.job
        self.progress.start({"steps": job.steps}, {"steps": self.step}, self.status)
        with interruptible(lambda: self.pace.seconds / max(1, self.step - self.first)) as interrupted:
            while self.step < job.steps:
                record = self.advance()
                for name, plan in job.plans.items():
                    if job.held_out[name] and self.step in plan.checkpoints.values():
                        record["personas"][name]["held_out_loss"] = self.held_out_loss(name)
                self.log.append(record)
                for other in self.reporters:
                    other.log(self.step, values_of(record))
                self.tokens += record["tokens"]
                self.progress.advance("steps")
                for name, plan in job.plans.items():
                    for epoch, after in plan.checkpoints.items():
                        if after == self.step:
                            self.keep(name, epoch)
                asked = bool(interrupted) or stop(self.step)
                if asked or self.step % job.settings.save_every == 0:
                    self.save()
                if asked:
                    self.progress.stop()
                    self.progress.message(f"stopped after step {self.step}: the same command continues")
                    raise KeyboardInterrupt
        self.log.sync()
        draw(self.folder / "loss.png", self.log.records, {n: p.checkpoints for n, p in job.plans.items()})

    def held_out_loss(self, name: str) -> float:
        """Return the mean loss of a response token in a persona's conversations that are not learned, in nats."""
        samples = self.job.held_out[name]
        shares = {name: 1 / sum(sample.targets for sample in samples)}
        rows = micro_rows({name: samples}, self.micro_tokens)
        # The gradient that this leaves is set to zero before the next step's.
        scale = self.job.settings.scale
        return math.fsum(self.model.backward(row, self.adapters, scale, shares, None)[name] for row in rows)

    def status(self) -> str:
        """Return speed and time left, and each persona's loss and gradient norm in the last step."""
        left = self.pace.left(self.step - self.first, self.job.steps - self.first)
        last = self.log.records[-1]["personas"] if self.log.records else {}
        parts = [f"; {name} loss {v['loss']:.4f}, norm {v['grad_norm']:.3f}" for name, v in last.items()]
        return f"steps, {self.tokens / self.pace.seconds:.0f} tokens/s{left}{''.join(parts)}"

    def save(self) -> None:
        """Write the state, after the log that it belongs to."""
        self.log.sync()
        save_state(self.folder, self.step, self.adapters, self.optimisers)

    def close(self) -> None:
        """End the display, the log and what other software is told."""
        self.progress.stop()
        self.log.close()
        for other in self.reporters:
            other.close()

    def advance(self) -> dict[str, Any]:
        """Make one step of every persona that has one left; return its line of the log."""
        job, s, began = self.job, self.job.settings, time.perf_counter()
        batches = {
            name: [job.datasets[name].samples[i] for i in plan.batch_of(self.step)]
            for name, plan in job.plans.items()
            if self.step < plan.steps
        }
        shares = {name: 1 / sum(sample.targets for sample in samples) for name, samples in batches.items()}
        losses = dict.fromkeys(batches, 0.0)
        for name in batches:
            self.adapters[name].grad.zero_()
        for row in micro_rows(batches, self.micro_tokens):
            dropout = None
            if s.dropout:
                dropout = Dropout(s.dropout, s.seed, self.step, [x.index for x in row.samples], row.lengths)
            for name, part in self.model.backward(row, self.adapters, s.scale, shares, dropout).items():
                losses[name] += part
        personas = {}
        for name, loss in losses.items():
            plan, adapter = job.plans[name], self.adapters[name]
            norm, rate = clip(adapter.grad, s.max_grad_norm), s.rate(self.step, plan.steps)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise DivergedError(
                    f"the loss of {name} is {loss} and its gradient's norm {norm} at step {self.step + 1}: "
                    "use a lower learning rate in a new folder"
                )
            self.optimisers[name].update(adapter.flat, adapter.grad, rate, s.beta1, s.beta2, s.epsilon, s.weight_decay)
            epoch = (self.step + 1) / plan.steps_per_epoch
            personas[name] = {"epoch": epoch, "loss": loss, "grad_norm": norm, "learning_rate": rate}
        self.step += 1
        tokens = sum(len(sample.tokens) for samples in batches.values() for sample in samples)
        seconds = time.perf_counter() - began
        return {
            "step": self.step,
            "personas": personas,
            "tokens": tokens,
            "seconds": round(seconds, 4),
            "tokens_per_second": round(tokens / seconds, 1),
        }

    def keep(self, name: str, epoch: float) -> None:
        """Write one persona's adapter as a PEFT folder, with its manifest."""
        job, s, plan = self.job, self.job.settings, self.job.plans[name]
        adapter = self.adapters[name]
        earlier = max((after for after in plan.checkpoints.values() if after < self.step), default=0)
        losses = [r["personas"][name]["loss"] for r in self.log.records if earlier < r["step"] <= self.step]
        manifest = {
            "kind": "adapter",
            "persona": name,
            "epoch": epoch,
            "step": self.step,
            "steps": plan.steps,
            "loss": sum(losses) / len(losses),  # mean since the checkpoint before
            **{k: v for k, v in self.log.records[-1]["personas"][name].items() if k == "held_out_loss"},
            "base": job.source.name,
            "base_hash": job.base_hash,
            **({"weights": job.precision} if job.precision else {}),
            "data": job.datasets[name].record(),
            "settings": s.record(),
            "tokenizer_hash": job.tokenizer_hash,
            "template_hash": job.template_hash,
            "device": job.device.type,
            "threads": self.manifest["threads"],
            "micro_tokens": self.micro_tokens,
            "versions": self.manifest["versions"],
        }
        modules = [f"{target}_proj" for target in adapter.targets]
        config = adapter_config(s.rank, s.alpha, s.dropout, modules, job.source.name)
        folder = self.folder / name / epoch_name(epoch)
        write_folder(folder, lambda place: write_adapter(place, config, adapter.tensors(), manifest))
