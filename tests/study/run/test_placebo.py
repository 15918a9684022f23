"""Placebos: each module's norm is the reference's, the coefficient is found by measurement, PEFT reads the folder."""

from __future__ import annotations

import json
import math

import pytest
import torch
from click.testing import CliRunner

from warmeng.cli.main import warmeng
from warmeng.common.errors import InputError, UsageError
from warmeng.engine.adapter_folder import save_adapter
from warmeng.engine.adapters import load_adapter
from warmeng.engine.config import read_config
from warmeng.engine.random_adapter import change_norm, random_like, scaled
from warmeng.study.run.placebo import PASSES, make_placebos, match
from warmeng.study.settings import StudySettings


@pytest.fixture
def reference(tiny_model, tiny_adapters):
    return load_adapter(tiny_adapters[1], read_config(tiny_model("llama")))


def test_random_directions_have_the_references_norm_in_each_module(reference) -> None:
    one, again, other = (random_like(reference, seed) for seed in (0, 0, 1))
    assert one.hash == again.hash != other.hash
    assert (one.rank, one.scale, one.targets) == (reference.rank, reference.scale, reference.targets)
    cosines = []
    for mine, theirs in zip(one.layers, reference.layers, strict=True):
        assert mine.keys() == theirs.keys()
        for target, (a, b) in mine.items():
            true_a, true_b = theirs[target]
            assert (a.shape, b.shape) == (true_a.shape, true_b.shape)
            change, true = b @ a, true_b @ true_a
            assert float(torch.linalg.matrix_norm(change)) == pytest.approx(
                float(torch.linalg.matrix_norm(true)), rel=1e-5
            )
            cosines.append(float((change * true).sum() / true.norm() / change.norm()))
    assert max(map(abs, cosines)) < 0.2  # no module's change is the reference's
    half = scaled(one, 0.5)
    assert half.scale == one.scale / 2
    assert half.hash != one.hash


def test_a_module_that_the_reference_leaves_is_left(reference) -> None:
    a, b = reference.layers[1]["q"]
    reference.layers[1]["q"] = (a, torch.zeros_like(b))
    assert change_norm(*random_like(reference, 0).layers[1]["q"]) == 0.0


def test_a_saved_adapter_is_read_back_by_the_engine_and_by_peft(reference, tiny_model, tmp_path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    made = scaled(random_like(reference, 3), 2.5)
    save_adapter(tmp_path, made, {"kind": "placebo"})
    again = load_adapter(tmp_path, read_config(tiny_model("llama")))
    assert again.scale == pytest.approx(made.scale, rel=1e-12)
    assert torch.equal(again.layers[0]["down"][1], made.layers[0]["down"][1])
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model("llama")), tmp_path)
    module = model.base_model.model.model.layers[2].self_attn.q_proj
    assert module.scaling["default"] == pytest.approx(made.scale)
    assert torch.equal(module.lora_A["default"].weight, made.layers[2]["q"][0])


def test_an_adapter_of_some_modules_names_them_one_by_one(reference, tiny_model, tmp_path) -> None:
    del reference.layers[0]["up"]
    save_adapter(tmp_path, reference, {})
    assert "up" not in load_adapter(tmp_path, read_config(tiny_model("llama"))).layers[0]
    assert "model.layers.1.mlp.up_proj" in json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("size", [1e-4, 0.02, 0.5, 80.0])
def test_the_coefficient_is_found_in_few_measurements(power, size) -> None:
    asked = []

    def measure(trial):
        asked.append(dict(trial))
        return {seed: (1 + seed) * size * c**power for seed, c in trial.items()}

    found = match(measure, (0, 1, 2), 0.6)
    for seed, c in found.items():
        assert (1 + seed) * size * c**power == pytest.approx(0.6, rel=0.1)
    assert len(asked) <= PASSES
    assert asked[0] == {0: 1.0, 1: 1.0, 2: 1.0}


def test_a_noisy_saturating_kl_is_matched_and_one_out_of_reach_refused() -> None:
    def noisy(trial):
        return {s: 5 * (1 - math.exp(-0.01 * c * c)) * (1 + 0.03 * math.sin(50 * c)) - 0.02 for s, c in trial.items()}

    found = match(noisy, (0,), 0.65)[0]
    assert noisy({0: found})[0] == pytest.approx(0.65, rel=0.1)
    with pytest.raises(InputError, match=r"seed 4: no coefficient gives a KL of 7 within 10% after 10 measurements"):
        match(lambda trial: dict.fromkeys(trial, 3.0), (4,), 7.0)


@pytest.mark.slow
def test_placebos_are_written_as_far_from_the_base_as_the_reference(tiny_model, tiny_adapters, tmp_path) -> None:
    said: list[str] = []
    settings = StudySettings(model=str(tiny_model("llama")), device="cpu")
    made = make_placebos(settings, tiny_adapters[0], (0, 5), tmp_path / "out", limit=12, say=said.append)
    assert [p.folder.name for p in made.placebos] == ["seed-0", "seed-5"]
    for one in made.placebos:
        about = json.loads((one.folder / "warmeng.json").read_text())
        assert about["kind"] == "placebo"
        assert about["seed"] == one.seed
        assert about["coefficient"] == one.coefficient
        assert about["kl"]["mean"] == pytest.approx(about["like"]["kl"]["mean"], rel=0.1)
        assert (about["kl"]["temperature"], about["kl"]["n"]) == (1.0, 12)
    assert any("of it)" in line for line in said)
    with pytest.raises(UsageError, match="is there already"):
        make_placebos(settings, tiny_adapters[0], (0,), tmp_path / "out")
    with pytest.raises(UsageError, match="seeds are 1, 1, expected different ones"):
        make_placebos(settings, tiny_adapters[0], (1, 1), tmp_path / "new")


def test_the_command_plans_and_names_what_is_wrong(tiny_model, tiny_adapters, tmp_path) -> None:
    words = [
        "placebo",
        "--model",
        str(tiny_model("llama")),
        "--like",
        str(tiny_adapters[0]),
        "--out",
        str(tmp_path / "o"),
    ]
    told = CliRunner().invoke(warmeng, [*words, "--dry-run", "--limit", "4"])
    assert told.exit_code == 0, told.output
    assert "rank 4, 21 modules (q, k, v, o, gate, up, down)" in told.output
    assert "up to 124 of up to 80 tokens" in told.output
    assert not (tmp_path / "o").exists()
    wrong = CliRunner().invoke(warmeng, [*words, "--seeds", "0,x"])
    assert "expected whole numbers from 0 with commas between" in str(wrong.exception)
