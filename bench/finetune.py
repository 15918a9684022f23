"""Training tokens a second beside PEFT's in a plain loop, and TRL's where it is installed, on the same data."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from warmeng.engine.adapters import TARGETS
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
    device: str
    personas: int
    conversations: int  # of a step, all personas
    tokens: int  # of a step, on average
    ours: list[float]
    peft: list[float]
    peft_micro_batch: int
    peft_by_micro_batch: dict[int, float]
    trl: list[float]
    trl_micro_batch: int | None
    ratio_peft: float
    ratio_trl: float | None
    threads: int
    versions: dict[str, str]


class _Ours:
    """Our steps on given batches."""

    def __init__(self, job: Job) -> None:
        s = job.settings
        self.job = job
        self.model = TrainingModel.load(job.source.folder, job.config, s.max_length, job.device)
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


class _Peft:
    """PEFT's LoRA on ``transformers`` in a plain loop, one persona after the other: single precision on the CPU,
    bfloat16 on a GPU, SDPA, no checkpointing, each step's batch sorted by length and padded on the right.
    """

    def __init__(self, job: Job) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        s = job.settings
        dtype = torch.float32 if job.device.type == "cpu" else torch.bfloat16
        base = AutoModelForCausalLM.from_pretrained(job.source.folder, dtype=dtype, attn_implementation="sdpa")
        lora = LoraConfig(
            r=s.rank, lora_alpha=s.alpha, lora_dropout=s.dropout, task_type="CAUSAL_LM",
            target_modules=[f"{t}_proj" for t in TARGETS],
        )  # fmt: skip
        self.device = job.device
        self.model = get_peft_model(base, lora).to(job.device).train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.trained, lr=s.learning_rate, weight_decay=0.0)

    def step(self, batches: dict[str, list[Sample]], micro: int) -> None:
        for batch in batches.values():
            total = sum(x.targets for x in batch)
            ordered = sorted(batch, key=lambda x: len(x.tokens))
            self.optimiser.zero_grad()
            for at in range(0, len(ordered), micro):
                ids, mask, labels = (t.to(self.device) for t in _padded(ordered[at : at + micro]))
                out = self.model(input_ids=ids, attention_mask=mask, labels=labels, num_items_in_batch=total)
                out.loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimiser.step()


def _padded(part: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor]:
    width = max(len(x.tokens) for x in part)
    ids, mask = torch.zeros(len(part), width, dtype=torch.int64), torch.zeros(len(part), width, dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    for row, sample in enumerate(part):
        n = len(sample.tokens)
        ids[row, :n], mask[row, :n] = sample.tokens, 1
        labels[row, :n] = torch.where(sample.learn, sample.tokens, -100)
    return ids, mask, labels


def _trl(job: Job, batches: dict[str, list[Sample]], micro: int) -> float:
    """Return the seconds that TRL's trainer takes for one step of each persona."""
    import logging
    import tempfile

    from datasets import Dataset  # type: ignore[import-untyped]
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    logging.getLogger("transformers").setLevel(logging.ERROR)
    s, seconds = job.settings, 0.0
    tokenizer = AutoTokenizer.from_pretrained(job.source.folder)
    lora = LoraConfig(
        r=s.rank, lora_alpha=s.alpha, lora_dropout=s.dropout, task_type="CAUSAL_LM",
        target_modules=[f"{t}_proj" for t in TARGETS],
    )  # fmt: skip
    for batch in batches.values():
        rows = [{"input_ids": x.tokens.tolist(), "completion_mask": x.learn.long().tolist()} for x in batch]
        with tempfile.TemporaryDirectory() as out:
            config = SFTConfig(
                output_dir=out, per_device_train_batch_size=micro, gradient_accumulation_steps=len(rows) // micro,
                max_steps=1, learning_rate=s.learning_rate, max_length=s.max_length, gradient_checkpointing=False,
                bf16=job.device.type != "cpu", report_to=[], save_strategy="no", logging_strategy="no",
                disable_tqdm=True, use_cpu=job.device.type == "cpu", completion_only_loss=True,
            )  # fmt: skip
            base = AutoModelForCausalLM.from_pretrained(
                job.source.folder, dtype=torch.float32, attn_implementation="sdpa"
            )
            trainer = SFTTrainer(
                model=base, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
                peft_config=lora,
            )  # fmt: skip
            began = time.perf_counter()
            trainer.train()
            seconds += time.perf_counter() - began
    return seconds


def compare_training(
    model: str,
    *,
    personas: Sequence[str] = ("warm", "cold"),
    pairs: int = 3,
    batch: int = 16,
    micro_batch: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    trl: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> TrainComparison:
    """Make the same steps of the embedded training texts with ours and the others, in turn.

    ``micro_batch`` fixes the others'; None tries 1 to 16 on one step first and takes the fastest.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    settings = TrainSettings(batch=batch, device=device)
    job = prepare_job(settings, model, {name: f"embedded:{name}" for name in personas})
    steps = [
        {n: [job.datasets[n].samples[i] for i in plan.batch_of(step)] for n, plan in job.plans.items()}
        for step in range(pairs)
    ]
    sizes = [sum(len(x.tokens) for part in batches.values() for x in part) for batches in steps]
    ours, peft = _Ours(job), _Peft(job)

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
    by_micro: dict[int, float] = {}
    for micro in (micro_batch,) if micro_batch else [m for m in MICRO_BATCHES if m <= batch]:
        by_micro[micro] = timed(lambda micro=micro: peft.step(first, micro), tokens)  # type: ignore[misc]
        say(f"PEFT, {micro} conversations at once: {by_micro[micro]:.0f} tokens/s")
    best = max(by_micro, key=lambda m: by_micro[m])
    found: tuple[list[float], list[float], list[float]] = ([], [], [])
    with_trl = trl and all(importlib.util.find_spec(name) for name in ("trl", "datasets"))
    for number, (batches, size) in enumerate(zip(steps, sizes, strict=True)):
        found[1].append(timed(lambda b=batches: peft.step(b, best), size))  # type: ignore[misc]
        found[0].append(timed(lambda n=number, b=batches: ours.step(n, b), size))  # type: ignore[misc]
        if with_trl:
            found[2].append(size / _trl(job, batches, best))
        other = f", TRL {found[2][-1]:.0f}" if with_trl else ""
        say(f"step {number + 1} of {pairs}: ours {found[0][-1]:.0f} tokens/s, PEFT {found[1][-1]:.0f}{other}")
    names = ["torch", "transformers", "peft", "warmeng", *(["trl"] if with_trl else [])]
    return TrainComparison(
        model, str(job.device), len(personas), batch * len(personas), round(statistics.mean(sizes)),
        found[0], found[1], best, by_micro, found[2], best if with_trl else None,
        statistics.median(a / b for a, b in zip(found[0], found[1], strict=True)),
        statistics.median(a / b for a, b in zip(found[0], found[2], strict=True)) if with_trl else None,
        torch.get_num_threads(), {name: version(name) for name in names},
    )  # fmt: skip
