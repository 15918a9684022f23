"""CTranslate2 in static batches, on weights that its own converter makes of the ``transformers`` model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from warmeng.bench.rivals.rival import STATIC_BATCHES, Rival, Task

_TYPES = {"f32": "float32", "bf16": "bfloat16", "int8": "int8_float32"}


class CTranslate2(Rival):
    """``int8`` are weights, by rows, with rounded inputs; all else is in float32."""

    batches: ClassVar[tuple[int, ...]] = STATIC_BATCHES

    @classmethod
    def prepare(cls, task: Task, folder: Path) -> None:
        """Convert, in the precision that is computed in."""
        from ctranslate2.converters import TransformersConverter

        converter = TransformersConverter(task.folder)
        converter.convert(str(folder), quantization=_TYPES[task.precision], force=True)

    def __init__(self, task: Task) -> None:
        """Load. CTranslate2 raises ValueError where this processor has no instructions for the precision."""
        import ctranslate2

        self._task = task
        self._generator = ctranslate2.Generator(
            task.prepared, device="cpu", compute_type=_TYPES[task.precision], inter_threads=1,
            intra_threads=task.threads,
        )  # fmt: skip
        # It takes tokens as texts, and has them in the order of their ids.
        vocabulary = json.loads((Path(task.prepared) / "vocabulary.json").read_text(encoding="utf-8"))
        self._prompts = [[vocabulary[token] for token in prompt] for prompt in task.prompts]

    def about(self) -> dict[str, Any]:
        """Return what it computes in."""
        return {"compute_type": self._generator.compute_type}

    def run(self, batch: int | None, mixed: bool) -> list[list[int]]:
        """Answer in batches, which the library sorts by length itself."""
        assert batch is not None
        results = self._generator.generate_batch(
            self._prompts, max_batch_size=batch, batch_type="examples", max_length=self._task.max_new_tokens,
            beam_size=1, sampling_topk=1, end_token=self._task.stops, return_end_token=True,
            include_prompt_in_result=False,
        )  # fmt: skip
        return [self._task.ended(result.sequences_ids[0]) for result in results]
