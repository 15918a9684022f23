"""On a card: a request's log-probabilities have the same bits in any batch. A few steps of it run anywhere."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.request import GenerateRequest, SamplingParams

pytest.importorskip("triton")

INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"  # as tests/conftest.py set it


@dataclass(frozen=True)
class Counts:
    """How much is asked for."""

    own: int  # requests whose bits are compared
    all: int  # they and their company
    prompt: int  # tokens at most
    answer: int  # tokens at most, and about the number of steps


def values(folder: Path, device: str, counts: Counts, company: int, batched: int | None) -> dict[str, Tensor]:
    """Return the log-probabilities of the first requests, answered beside ``company`` others."""
    draw = random.Random(11)
    settings = EngineSettings(kv_bytes=16 * 2**20, max_batched_tokens=batched)
    engine = Engine.load(str(folder), device=device, settings=settings)
    requests = [
        GenerateRequest(
            str(i), tuple(draw.randrange(3, 250) for _ in range(draw.randint(1, counts.prompt))),
            SamplingParams(
                max_new_tokens=draw.randint(1, counts.answer), temperature=0.7 * (i % 2), seed=5, logprobs=True,
                ignore_eos=True,
            ), None, (f"item-{i}", 0), None, i % 3 == 0,
        )
        for i in range(counts.all)
    ]  # fmt: skip
    own, others = requests[: counts.own], requests[counts.own : counts.own + company]
    half = company // 2
    results = engine.generate([*others[:half], *own, *others[half:]])[half : half + counts.own]
    assert all(result.status == "ok" for result in results)
    return {r.id: torch.tensor([*r.logprobs, *r.prompt_logprobs], dtype=torch.float32) for r in results}


@pytest.mark.parametrize(
    ("device", "counts", "batched"),
    [
        pytest.param(
            "cuda", Counts(8, 200, 150, 40), 96,
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ),
        pytest.param(
            "interpret", Counts(2, 4, 30, 3), 20,
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not INTERPRETED, reason="kernels are compiled in this process"),
            ],
        ),
    ],
    ids=["cuda", "interpret"],
)  # fmt: skip
def test_bits_do_not_depend_on_company(
    tiny_model: Callable[[str], Path], device: str, counts: Counts, batched: int
) -> None:
    """Alone, among others, and in steps so small that prompts are cut.

    In the interpreter only within rounding: NumPy's products give a row other bits in another place of the tile.
    """
    with torch.device("cpu"):  # the engine says itself where its tensors are
        folder = tiny_model("llama")
        alone = values(folder, device, counts, 0, None)
        assert sum(map(len, alone.values())) > counts.own
        others = counts.all - counts.own
        for company, most in ((others, None), (others, batched), (0, batched)):
            found = values(folder, device, counts, company, most)
            assert found.keys() == alone.keys()
            for name, value in found.items():
                if device == "cuda":
                    assert torch.equal(value.view(torch.int32), alone[name].view(torch.int32)), (name, company, most)
                else:
                    torch.testing.assert_close(value, alone[name], atol=1e-4, rtol=0)
