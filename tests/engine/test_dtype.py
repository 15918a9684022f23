"""Products of bfloat16 on the CPU: as near to single precision as others', and refused where they are slow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from warmeng.common.errors import UsageError
from warmeng.engine import load
from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.identity import identity_of
from warmeng.engine.load import choose_dtype
from warmeng.engine.random import random_adapter
from warmeng.engine.request import GenerateRequest, SamplingParams
from warmeng.kernels.arrangement import multiplies_bf16
from warmeng.study.settings import StudySettings

with_bf16 = pytest.mark.skipif(not multiplies_bf16(), reason="this processor does not multiply bfloat16")
TEXTS = ("A short one", "Something longer, so that the sums of attention have more than a few terms. " * 3)


@with_bf16
@pytest.mark.parametrize("family", ["llama", "qwen2-bias", "qwen3-norm"])
def test_log_probabilities_are_as_near_as_those_of_transformers(tiny_model: Callable[[str], Path], family: str) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_model(family)
    engines = {
        dtype: Engine.load(str(folder), device="cpu", settings=EngineSettings(dtype=dtype, kv_bytes=4 * 2**20))
        for dtype in ("float32", "bfloat16")
    }
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, trust_remote_code=False).eval()
    errors: dict[str, list[torch.Tensor]] = {"ours": [], "theirs": []}
    for text in TEXTS:
        ids = tuple(engines["float32"].tokenizer.encode(text))
        ask = GenerateRequest("a", ids, SamplingParams(max_new_tokens=1), prompt_logprobs=True)
        exact, ours = (torch.tensor(engines[d].generate([ask])[0].prompt_logprobs) for d in ("float32", "bfloat16"))
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1, : engines["float32"].tokenizer.vocab_size]
        theirs = logits.float().log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        errors["ours"].append((ours - exact).abs())
        errors["theirs"].append((theirs - exact).abs())
    ours, theirs = (torch.cat(errors[name]).mean() for name in ("ours", "theirs"))
    assert 0 < ours < 1.1 * theirs


@with_bf16
@pytest.mark.slow
def test_adapters_of_a_high_rank_keep_their_bits_in_any_company() -> None:
    # Of the built-in model's widths: the products of small ones have one order.
    engine = Engine.load("smollm2-135m-instruct", device="cpu", settings=EngineSettings(dtype="bfloat16"))
    engine.add_adapter("high", random_adapter(engine.config, 48, 1))
    params = SamplingParams(max_new_tokens=4, logprobs=True)
    asked = [
        GenerateRequest(str(k), tuple(engine.tokenizer.encode(f"Item {k}: {TEXTS[k % 2]}")), params, "high")
        for k in range(90)
    ]
    together = {r.id: (r.token_ids, r.logprobs) for r in engine.generate(asked)}
    for one in asked[::30]:
        engine.reset_prefix_cache()
        (alone,) = engine.generate([one])
        assert (alone.token_ids, alone.logprobs) == together[one.id]


@with_bf16
def test_the_dtype_is_part_of_what_determines_results(tiny_model: Callable[[str], Path]) -> None:
    engine = Engine.load(str(tiny_model("llama")), device="cpu", settings=EngineSettings(dtype="bfloat16"))
    assert identity_of(engine.describe())["dtype"] == "bfloat16"
    assert engine.describe()["products"].startswith(("panels of pairs", "oneDNN"))


def test_what_a_device_takes_and_what_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "multiplies_bf16", lambda: True)
    assert [choose_dtype(name, "cpu") for name in ("auto", "float32", "bfloat16")] == [
        torch.float32, torch.float32, torch.bfloat16,
    ]  # fmt: skip
    assert choose_dtype("auto", "cuda") == choose_dtype("bfloat16", "cuda") == torch.bfloat16
    assert choose_dtype("auto", "interpret") == torch.float32
    with pytest.raises(UsageError, match="cuda computes in bfloat16"):
        choose_dtype("float32", "cuda")
    monkeypatch.setattr(load, "multiplies_bf16", lambda: False)
    with pytest.raises(UsageError, match=r"no instructions for it \(AVX512_BF16 or AMX\): take float32"):
        choose_dtype("bfloat16", "cpu")
    assert choose_dtype("auto", "cpu") == torch.float32


def test_settings_name_it_and_keep_their_folder_without_it() -> None:
    plain = StudySettings()
    assert "dtype" not in plain.as_dict()
    assert plain.digest == StudySettings(dtype="auto").digest != StudySettings(dtype="bfloat16").digest
    for wrong in ("bf16", "", 16):
        with pytest.raises(UsageError, match="dtype"):
            StudySettings(dtype=wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected one of auto, float32, bfloat16"):
        EngineSettings(dtype="half")
