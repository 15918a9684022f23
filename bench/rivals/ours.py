"""warmeng's own engine on the CPU."""

from __future__ import annotations

from typing import Any, ClassVar

from warmeng.bench.rivals.rival import Rival, Task
from warmeng.engine.engine import Engine
from warmeng.engine.request import GenerateRequest, SamplingParams
from warmeng.engine.settings import AUTO, EngineSettings

_DTYPES = {"f32": "float32", "bf16": "bfloat16"}


class Ours(Rival):
    """``f32`` and ``bf16`` are what products take; the others what the layers' weights are rounded to at load.

    ``int8-bf16``: with weights of int8, the head's product, keys and values in bfloat16.
    """

    mixes: ClassVar[bool] = True

    def __init__(self, task: Task) -> None:
        """Load the engine and the adapters."""
        weights, _, rest = task.precision.partition("-")
        dtype = _DTYPES.get(rest or weights, AUTO)
        weights = AUTO if weights in _DTYPES else weights
        settings = EngineSettings(dtype=dtype, weights=weights, fast=task.fast, threads=task.threads)
        self._engine = Engine.load(task.folder, device="cpu", settings=settings)
        for name, folder in task.adapters.items():
            self._engine.add_adapter(name, folder)
        self._task = task

    def about(self) -> dict[str, Any]:
        """Return the engine's own description."""
        return self._engine.describe()

    def run(self, batch: int | None, mixed: bool) -> list[list[int]]:
        """Answer all prompts; the end token, which is no part of a result, took a step as elsewhere and is added."""
        task = self._task
        self._engine.reset_prefix_cache()
        params = SamplingParams(max_new_tokens=task.max_new_tokens)
        requests = [
            GenerateRequest(str(i), tuple(prompt), params, adapter)
            for i, (prompt, adapter) in enumerate(zip(task.prompts, task.carried(mixed), strict=True))
        ]
        results = self._engine.generate(requests)
        return [[*r.token_ids, *(task.stops[:1] if r.finish_reason == "stop" else [])] for r in results]
