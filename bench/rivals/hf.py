"""``generate`` of ``transformers`` at its best here: SDPA, sorted by length, padded on the left, static batches."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from warmeng.bench.rivals.rival import STATIC_BATCHES, Rival, Task

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class Hf(Rival):
    """Adapters are mixed by PEFT's ``adapter_names``."""

    batches: ClassVar[tuple[int, ...]] = STATIC_BATCHES
    mixes: ClassVar[bool] = True

    def __init__(self, task: Task) -> None:
        """Load the model, with PEFT's layers around its own only where there are adapters."""
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(task.threads)
        self._task = task
        self._model = AutoModelForCausalLM.from_pretrained(
            task.folder, dtype=_DTYPES[task.precision], attn_implementation="sdpa", trust_remote_code=False
        ).eval()
        self._with_adapters: Any = None
        if task.adapters:
            from peft import PeftModel

            for name, folder in task.adapters.items():
                if self._with_adapters is None:
                    self._with_adapters = PeftModel.from_pretrained(self._model, folder, adapter_name=name).eval()
                else:
                    self._with_adapters.load_adapter(folder, adapter_name=name)

    def about(self) -> dict[str, Any]:
        """Return the precision and how attention is computed."""
        return {"dtype": str(self._model.dtype).removeprefix("torch."), "attention": "sdpa"}

    def run(self, batch: int | None, mixed: bool) -> list[list[int]]:
        """Answer in batches of similar length; tokens after the end token are not counted."""
        if self._with_adapters is None:
            return self._run(self._model, batch, None)
        if mixed:
            return self._run(self._with_adapters, batch, self._task.carried(True))
        with self._with_adapters.disable_adapter():
            return self._run(self._with_adapters, batch, None)

    def _run(self, model: Any, batch: int | None, carried: list[str | None] | None) -> list[list[int]]:
        task = self._task
        assert batch is not None
        order = sorted(range(len(task.prompts)), key=lambda i: len(task.prompts[i]))
        out: list[list[int]] = [[] for _ in order]
        for at in range(0, len(order), batch):
            rows = order[at : at + batch]
            width = max(len(task.prompts[i]) for i in rows)
            pads = [width - len(task.prompts[i]) for i in rows]
            ids = torch.tensor(
                [[task.stops[0]] * pad + task.prompts[i] for i, pad in zip(rows, pads, strict=True)]
            )  # fmt: skip
            mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
            # PEFT's own name for a row of the base.
            names = {} if carried is None else {"adapter_names": [carried[i] or "__base__" for i in rows]}
            with torch.inference_mode():
                generated = model.generate(
                    input_ids=ids, attention_mask=mask, max_new_tokens=task.max_new_tokens, do_sample=False,
                    eos_token_id=task.stops, pad_token_id=task.stops[0], **names,
                )  # fmt: skip
            for i, tokens in zip(rows, generated[:, width:].tolist(), strict=True):
                out[i] = task.ended(tokens)
        return out
