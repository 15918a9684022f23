"""What our training is measured beside: PEFT in a plain loop, and TRL's trainer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from warmeng.engine.adapters import TARGETS
from warmeng.finetune.job import Job
from warmeng.finetune.layers import leave_cudnn_attention
from warmeng.finetune.model import Sample


class Peft:
    """PEFT's LoRA on ``transformers`` in a plain loop, one persona after the other: single precision on the CPU,
    bfloat16 on a GPU, SDPA without cuDNN, no checkpointing, each step's batch sorted by length and padded on the right.
    """

    def __init__(self, job: Job) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        leave_cudnn_attention()
        s = job.settings
        dtype = torch.float32 if job.device.type == "cpu" else torch.bfloat16
        base = AutoModelForCausalLM.from_pretrained(
            job.source.folder, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
        )
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


def trl_seconds(job: Job, batches: dict[str, list[Sample]], micro: int) -> float:
    """Return the seconds of one step of each persona by TRL's trainer, from its first pass to its update.

    What its trainer does once, before the step and after it, is not counted.
    """
    import logging
    import tempfile

    from datasets import Dataset  # type: ignore[import-untyped]
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Times steps."""

        def on_step_begin(self, *args: Any, **more: Any) -> None:
            self.began = _now(job)

        def on_step_end(self, *args: Any, **more: Any) -> None:
            self.seconds = _now(job) - self.began

    logging.getLogger("transformers").setLevel(logging.ERROR)
    s, seconds = job.settings, 0.0
    tokenizer = AutoTokenizer.from_pretrained(job.source.folder, trust_remote_code=False)
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
                job.source.folder, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
            )
            trainer = SFTTrainer(
                model=base, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
                peft_config=lora, callbacks=[clock := Clock()],
            )  # fmt: skip
            trainer.train()
            seconds += clock.seconds
    return seconds


def _now(job: Job) -> float:
    if job.device.type != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()
