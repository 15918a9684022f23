"""Adapters: what PEFT saves is loaded exactly, everything that isn't understood is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from warmeng.common.errors import InputError
from warmeng.engine.adapters import TARGETS, Adapter, load_adapter, target_shapes
from warmeng.engine.config import ModelConfig
from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.request import GenerateRequest, SamplingParams
from warmeng.finetune.merge import merge

CONFIG = ModelConfig(
    family="llama",
    vocab_size=40,
    hidden_size=12,
    intermediate_size=20,
    num_layers=3,
    num_heads=3,
    num_kv_heads=1,
    head_dim=4,
    rms_norm_eps=1e-6,
    rope_theta=1e4,
    rope_scaling=None,
    qkv_bias=False,
    qk_norm=False,
    tie_word_embeddings=True,
    max_seq_len=64,
    sliding_window=None,
    stop_token_ids=(2,),
    bos_token_id=1,
)
ALL = [f"{target}_proj" for target in TARGETS]


def key(layer: int, target: str, side: str, infix: str = "") -> str:
    block = "self_attn" if target in "qkvo" else "mlp"
    return f"base_model.model.model.layers.{layer}.{block}.{target}_proj.lora_{side}{infix}.weight"


def tensors(
    rank: int = 2, targets: tuple[str, ...] = TARGETS, layers: tuple[int, ...] = (0, 1, 2), infix: str = ""
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    result = {}
    for layer in layers:
        for target in targets:
            width, height = target_shapes(CONFIG)[target]
            result[key(layer, target, "A", infix)] = torch.randn(rank, width, generator=generator)
            result[key(layer, target, "B", infix)] = torch.randn(height, rank, generator=generator)
    return result


def write(folder: Path, weights: dict[str, torch.Tensor] | None = None, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    data = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ALL, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(data))
    save_file(tensors() if weights is None else weights, folder / "adapter_model.safetensors")
    return folder


def refused(folder: Path, base_hash: str | None = None, config: ModelConfig = CONFIG) -> str:
    with pytest.raises(InputError) as caught:
        load_adapter(folder, config, base_hash)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_saves_is_loaded_as_peft_applies_it(tmp_path: Path, rslora: bool) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    hf = transformers.LlamaConfig(
        vocab_size=40, hidden_size=12, intermediate_size=20, num_hidden_layers=3, num_attention_heads=3,
        num_key_value_heads=1, head_dim=4,
    )  # fmt: skip
    torch.manual_seed(0)
    settings = peft.LoraConfig(
        r=2, lora_alpha=6, target_modules=ALL, use_rslora=rslora, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(transformers.LlamaForCausalLM(hf), settings)
    model.save_pretrained(tmp_path)
    adapter = load_adapter(tmp_path, CONFIG)
    assert adapter.scale == (6 / math.sqrt(2) if rslora else 3.0)
    assert adapter.targets == TARGETS
    assert not adapter.is_zero
    module = model.base_model.model.model.layers[1].mlp.down_proj
    a, b = adapter.layers[1]["down"]
    assert torch.allclose(adapter.scale * b @ a, module.get_delta_weight("default"), atol=1e-6)


def test_every_pair_lands_at_its_layer_and_target(tmp_path: Path) -> None:
    adapter = load_adapter(write(tmp_path), CONFIG)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    for index, layer in enumerate(adapter.layers):
        assert set(layer) == set(TARGETS)
        for target, (a, b) in layer.items():
            assert torch.equal(a, stored[key(index, target, "A")])
            assert torch.equal(b, stored[key(index, target, "B")])
    assert (adapter.rank, adapter.scale, adapter.base_name) == (2, 2.0, None)


def test_the_hash_is_of_the_content_not_of_folder_or_names(tmp_path: Path) -> None:
    def load(name: str, weights: dict[str, torch.Tensor], **settings: Any) -> Adapter:
        return load_adapter(write(tmp_path / name, weights, **settings), CONFIG)

    one = load("one", tensors())
    assert load("two", tensors(infix=".default"), lora_dropout=0.3).hash == one.hash
    assert load("scaled", tensors(), lora_alpha=8).hash != one.hash
    changed = tensors()
    changed[key(2, "up", "B")][0, 0] += 1e-6
    assert load("changed", changed).hash != one.hash


def test_some_targets_in_some_layers(tmp_path: Path) -> None:
    weights = tensors(targets=("q", "down"), layers=(0, 2))
    settings = {"target_modules": ["self_attn.q_proj", "down_proj"], "layers_to_transform": [0, 2]}
    adapter = load_adapter(write(tmp_path, weights, **settings), CONFIG)
    assert [set(layer) for layer in adapter.layers] == [{"q", "down"}, set(), {"q", "down"}]
    assert adapter.targets == ("q", "down")
    assert "lacks tensors" in refused(write(tmp_path, weights, target_modules=["q_proj", "down_proj"]))


def test_a_fresh_adapter_is_loaded_and_reported_as_zero(tmp_path: Path) -> None:
    weights = {name: torch.zeros_like(t) if "lora_B" in name else t for name, t in tensors().items()}
    assert load_adapter(write(tmp_path, weights), CONFIG).is_zero


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"task_type": "SEQ_CLS"}, "task_type"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"bias": "lora_only"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"some_future_method": True}, "some_future_method"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"target_modules": [*ALL, "lm_head"]}, "lm_head"),
        ({"target_modules": [*ALL, "embed_tokens"]}, "embed_tokens"),
        ({"target_modules": []}, "target_modules"),
        ({"target_modules": ["q_proj"]}, "doesn't target"),
        ({"layers_to_transform": [0, 1]}, "doesn't target"),
        ({"layers_to_transform": [7]}, "layers_to_transform"),
        ({"layers_pattern": "blocks"}, "layers_pattern"),
        ({"r": 0}, "r is 0"),
        ({"r": 4}, "r = 4"),
        ({"r": True}, "r is"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"lora_alpha": "8"}, "lora_alpha"),
        ({"use_rslora": "yes"}, "use_rslora"),
    ],
)
def test_unsupported_settings_are_refused_by_name(tmp_path: Path, settings: dict[str, Any], named: str) -> None:
    assert named in refused(write(tmp_path, **settings))


def test_tensors_missing_or_left_over_are_named(tmp_path: Path) -> None:
    whole = tensors()
    half = {name: t for name, t in whole.items() if name != key(1, "k", "B")}
    assert key(1, "k", "A") in refused(write(tmp_path, half))
    gone = {name: t for name, t in whole.items() if ".1.self_attn.k_proj" not in name}
    assert "layer 1 k_proj" in refused(write(tmp_path, gone))
    assert "layer 1 k_proj" in refused(write(tmp_path, gone, target_modules="all-linear"))
    for odd in (
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.up_proj.lora_A.weight",
        "base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector",
    ):
        assert odd in refused(write(tmp_path, {**whole, odd: torch.ones(2, 12)}))
    twice = {**whole, key(0, "q", "A", ".default"): torch.ones(2, 12)}
    assert "keep one" in refused(write(tmp_path, twice))


def test_an_adapter_for_another_base_is_told_from_a_wrong_rank(tmp_path: Path) -> None:
    wide = tensors()
    wide[key(0, "q", "A")] = torch.ones(2, 13)
    message = refused(write(tmp_path, wide, base_model_name_or_path="someone/other"))
    assert "adapter for another base" in message
    assert "someone/other" in message
    assert "another base" in refused(write(tmp_path, tensors(layers=(0, 1, 2)) | tensors(layers=(3,))))
    tall = tensors()
    tall[key(0, "q", "A")] = torch.ones(3, 12)
    assert "r = 2" in refused(write(tmp_path, tall))


def test_the_manifests_base_must_be_this_base(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "warmeng.json").write_text('{"base_hash": "abc"}')
    assert load_adapter(tmp_path, CONFIG, "abc").rank == 2
    assert "another base" in refused(tmp_path, "def")


def test_weights_that_are_not_finite_pickled_or_missing(tmp_path: Path) -> None:
    bad = tensors()
    bad[key(0, "q", "A")][0, 0] = float("nan")
    assert key(0, "q", "A") in refused(write(tmp_path, bad))
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    assert "adapter_model.bin" in refused(tmp_path)
    assert "adapter_config.json" in refused(tmp_path / "nothing")


@pytest.mark.slow
def test_a_merged_checkpoint_is_a_persona_that_shares_the_base(
    tiny_model: Callable[[str], Path], tiny_adapters: list[Path], tmp_path: Path
) -> None:
    base = tiny_model("llama")
    merge(str(base), tiny_adapters[0], tmp_path / "merged")
    engine = Engine.load(str(base), settings=EngineSettings(kv_bytes=8 * 2**20))
    given = engine.add_adapter("given", tiny_adapters[0])
    found = engine.add_adapter("merged", tmp_path / "merged")
    assert found.rank == given.rank
    prompt = tuple(engine.tokenizer.encode("What is asked of the two of them is the same"))
    params = SamplingParams(max_new_tokens=4, logprobs=True)
    one, other, plain = engine.generate(
        [
            GenerateRequest(name, prompt, params, adapter=adapter, prompt_logprobs=True)
            for name, adapter in (("a", "given"), ("b", "merged"), ("c", None))
        ]
    )
    assert one.token_ids == other.token_ids
    assert other.prompt_logprobs == pytest.approx(one.prompt_logprobs, abs=1e-3)
    assert other.prompt_logprobs != pytest.approx(plain.prompt_logprobs, abs=1e-2)
    with pytest.raises(InputError):
        engine.add_adapter("itself", base)  # no change at all
