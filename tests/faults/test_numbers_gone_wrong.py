"""Logits that are no numbers end a request with a status, and a run with a reason; what only rounds is not applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_models import CONFIG, adapter_tensors, small_config, write_adapter, write_model
from safetensors.torch import load_file, save

from warmeng.common.errors import InputError
from warmeng.engine.config import parse_config
from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.request import GenerateRequest, SamplingParams
from warmeng.study.adapters import apply_adapters
from warmeng.study.personas import Change, Persona

SETTINGS = EngineSettings(kv_bytes=2**20)
GREEDY, DRAWN = SamplingParams(max_new_tokens=4), SamplingParams(max_new_tokens=4, temperature=1.0, top_p=0.9)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose numbers are finite."""
    return write_model(tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def engine(sound: Path) -> Engine:
    """The engine of that model."""
    return Engine.load(str(sound), device="cpu", settings=SETTINGS)


def overflowing(folder: Path, factor: float) -> Path:
    """Write a model of finite weights whose products overflow."""
    write_model(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if name.endswith(("up_proj.weight", "down_proj.weight", "gate_proj.weight")):
            tensors[name] *= factor
    (folder / "model.safetensors").write_bytes(save(tensors))
    return folder


@pytest.mark.parametrize("params", [GREEDY, DRAWN, SamplingParams(max_new_tokens=4, temperature=0.7, top_k=3)])
def test_logits_of_overflowing_weights_end_a_request_with_a_status(tmp_path: Path, params: SamplingParams) -> None:
    """An empty text would say that the model had nothing to say."""
    engine = Engine.load(str(overflowing(tmp_path, 1e25)), device="cpu", settings=SETTINGS)
    for result in engine.generate(["Who is it?", "What is it?"], params=params):
        assert (result.status, result.text, result.finish_reason) == ("not_finite", "", "none")
        assert "answer token 1 are not finite" in result.detail
    assert not engine.busy


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_only_the_requests_concerned_end(engine: Engine, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Also in the middle of an answer, and whoever else is in the batch, greedy and sampled, keeps every bit."""
    requests = [
        GenerateRequest(f"{k}", (5 + k, 9, 11), params, noise_key=(f"{k}", 0))
        for k, params in enumerate((GREEDY, DRAWN, GREEDY, DRAWN))
    ]
    whole = engine.generate(requests)
    real, calls = engine._runner.ops.logits, []

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        found = real(hidden)
        calls.append(len(found))
        if len(calls) == 2:
            found[2:] = value if value < 0 else found[2:]
            found[2:, 7] = value
        return found

    monkeypatch.setattr(engine._runner.ops, "logits", logits)
    results = engine.generate(requests)
    assert results[:2] == whole[:2]
    assert {r.status for r in results[:2]} == {"ok"}
    for result in results[2:]:
        assert result.status == "not_finite"
        assert "answer token 2 are not finite" in result.detail


def test_a_run_of_such_a_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    engine = Engine.load(str(overflowing(tmp_path, 1e25)), device="cpu", settings=SETTINGS)
    with pytest.raises(InputError, match="logits after a fixed text are not finite numbers"):
        engine.processor()


def test_a_grade_says_that_there_were_no_numbers() -> None:
    from warmeng.engine.results import refusal
    from warmeng.study.grading.exact import grade_answer
    from warmeng.study.tasks.task import Item

    result = refusal(GenerateRequest("0", (1,)), "not_finite", "why")
    found = grade_answer(Item("0", "Who?", "Ann", "Bea"), result)
    assert (found.grade, found.reason) == ("unscored", "not_finite")


LLAMA3 = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 1e-300},
        {"rope_theta": 0},
        {"rope_theta": 0.5},
        {"rope_theta": 1e29},
        {"rope_parameters": {"rope_theta": 1e-10}},
        {"rope_scaling": {"rope_type": "linear", "factor": 1e-20}},
        {"rope_scaling": {"rope_type": "linear", "factor": 1e20}},
        {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 1e29}},
        {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 0.5}},
        {"rope_scaling": {**LLAMA3, "high_freq_factor": 1e25, "original_max_position_embeddings": 8192}},
        {"rms_norm_eps": 1e-300},
    ],
)
def test_absurd_settings_are_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"(theta|factor|embeddings|eps) is .*, expected a number from"):
        parse_config({**CONFIG, "rope_theta": None, **changes}, "config.json")


@pytest.mark.parametrize("theta", [1.0, 1e4, 5e5, 1e7])
def test_settings_of_known_models_are_read(theta: float) -> None:
    assert parse_config({**CONFIG, "rope_theta": theta}, "config.json").rope_theta == theta


@pytest.mark.parametrize(("scale", "applied"), [(1e-7, False), (1e-6, False), (0.01, True), (1.0, True)])
def test_an_adapter_that_only_rounds_is_not_applied(
    engine: Engine, tmp_path: Path, scale: float, applied: bool
) -> None:
    tensors = adapter_tensors(small_config(), seed=int(1e7 * scale))  # each its own content
    folder = write_adapter(tmp_path / "adapter", small_config(), tensors, lora_alpha=2 * scale * 0.01)
    persona = Persona(f"p{scale}", (Change(folder),))
    if applied:
        assert apply_adapters(engine, [persona])[persona.name].probe > 0
    else:
        with pytest.raises(InputError, match="is not applied"):
            apply_adapters(engine, [persona])


def test_a_devices_rows_without_a_number_are_told_by_their_sum() -> None:
    """The kernel's log-probability is NaN there, whatever token it chose; the device's own token stays one that is."""
    import numpy as np

    from warmeng.engine.backend import NOT_FINITE
    from warmeng.engine.gpu.runner import GpuStepHandle
    from warmeng.engine.layout import LogitsPlan

    logprobs = np.array([-0.5, float("nan"), float("inf"), -float("inf")], dtype=np.float32)
    output = torch.from_numpy(np.concatenate([np.array([7, 3, 0, 9], dtype=np.int32), logprobs.view(np.int32)]))
    plan = LogitsPlan(sample_rows=[0, 1, 2, 3], sampled=[None] * 4, targets=[])  # type: ignore[list-item]
    found = GpuStepHandle(output, None, plan, 0).wait()
    assert found.tokens == [7, NOT_FINITE, NOT_FINITE, NOT_FINITE]
