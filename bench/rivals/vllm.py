"""vLLM's CPU backend, with its own scheduler and without a prefix cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from warmeng.bench.rivals.rival import Rival, Task

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_DTYPES = {"f32": "float32", "bf16": "bfloat16"}


class Vllm(Rival):
    """Adapters are mixed by a ``LoRARequest`` for each prompt."""

    mixes: ClassVar[bool] = True

    def __init__(self, task: Task) -> None:
        """Load the engine. Its processes count in the peak of memory."""
        import vllm

        self._task = task
        longest = max(map(len, task.prompts)) + task.max_new_tokens
        self._options: dict[str, Any] = {
            "dtype": _DTYPES[task.precision], "enable_prefix_caching": False, "max_num_seqs": len(task.prompts),
            "max_model_len": longest,
        }  # fmt: skip
        if task.adapters:
            settings = (Path(folder) / "adapter_config.json" for folder in task.adapters.values())
            rank = max(json.loads(path.read_text(encoding="utf-8"))["r"] for path in settings)
            # It knows some ranks alone.
            room = min(known for known in _RANKS if known >= rank)
            self._options |= {"enable_lora": True, "max_loras": len(task.adapters), "max_lora_rank": room}
        self._engine = vllm.LLM(model=task.folder, **self._options)
        self._params = vllm.SamplingParams(temperature=0.0, max_tokens=task.max_new_tokens, stop_token_ids=task.stops)

    def about(self) -> dict[str, Any]:
        """Return the options."""
        return dict(self._options)

    def run(self, batch: int | None, mixed: bool) -> list[list[int]]:
        """Answer all prompts at once."""
        from vllm.lora.request import LoRARequest

        task = self._task
        numbers = {name: number for number, name in enumerate(task.adapters, 1)}
        carried = [
            None if name is None else LoRARequest(name, numbers[name], task.adapters[name])
            for name in task.carried(mixed)
        ]
        results = self._engine.generate(
            [{"prompt_token_ids": prompt} for prompt in task.prompts], self._params, use_tqdm=False,
            lora_request=carried if mixed else None,
        )  # fmt: skip
        return [task.ended(result.outputs[0].token_ids) for result in results]
