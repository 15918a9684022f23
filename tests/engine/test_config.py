"""Reading config.json: what transformers writes is understood, everything else is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from warmeng.common.errors import InputError
from warmeng.engine.config import ModelConfig, RopeScaling, read_config

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def write(folder: Path, model_type: str = "llama", **changes: Any) -> Path:
    data = {"model_type": model_type, "hidden_act": "silu", **SMALL, **changes}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in data.items() if v != "absent"}))
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_config(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_what_transformers_saves_is_read_back(tmp_path: Path, family: str) -> None:
    transformers = pytest.importorskip("transformers")
    saved = transformers.AutoConfig.for_model(family, **SMALL, head_dim=16, tie_word_embeddings=True)
    saved.save_pretrained(tmp_path)
    config = read_config(tmp_path)
    assert config == ModelConfig(
        family=family,  # type: ignore[arg-type]
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        rope_scaling=None,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tie_word_embeddings=True,
        max_seq_len=128,
        sliding_window=None,
        stop_token_ids=(2,),
        bos_token_id=1,
    )


def test_both_generations_of_rope_keys_mean_the_same(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old = read_config(write(tmp_path / "old", rope_theta=5e5, rope_scaling=LLAMA3))
    new = read_config(write(tmp_path / "new", rope_parameters={"rope_theta": 5e5, **LLAMA3}))
    assert old == new
    assert old.rope_theta == 5e5
    assert old.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 64)


def test_linear_scaling_under_its_oldest_key(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, rope_scaling={"type": "linear", "factor": 2}))
    assert config.rope_scaling == RopeScaling("linear", 2.0)


def test_head_size_may_differ_from_hidden_over_heads(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, "mistral", head_dim=128, sliding_window=None)).head_dim == 128
    assert read_config(write(tmp_path, "llama")).head_dim == 8
    assert read_config(write(tmp_path, "qwen3")).head_dim == 128  # the family's own default


def test_old_llama_has_as_many_kv_heads_as_heads_and_others_must_say(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, num_key_value_heads="absent")).num_kv_heads == 4
    assert "num_key_value_heads is missing" in refused(write(tmp_path, "qwen2", num_key_value_heads="absent"))


@pytest.mark.parametrize(
    ("family", "fields", "length"),
    [
        ("mistral", {"sliding_window": 64}, 64),
        ("mistral", {"sliding_window": None}, 128),
        ("mistral", {"sliding_window": 4096}, 128),
        ("mistral", {"max_position_embeddings": 8192}, 4096),  # the default when the key is absent
        ("qwen2", {"sliding_window": 64, "use_sliding_window": False}, 128),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 1}, 64),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 2}, 128),
        ("qwen3", {"sliding_window": 64, "use_sliding_window": True, "layer_types": ["full_attention"] * 2}, 128),
        (
            "qwen3",
            {
                "sliding_window": 64,
                "use_sliding_window": True,
                "layer_types": ["full_attention", "sliding_attention"],
            },
            64,
        ),
    ],
)
def test_an_active_window_bounds_the_sequence(tmp_path: Path, family: str, fields: dict[str, Any], length: int) -> None:
    config = read_config(write(tmp_path, family, **fields))
    assert config.max_seq_len == length
    assert config.sliding_window == (length if length in (64, 4096) else None)


def test_stop_tokens_are_the_union_and_sampling_defaults_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, eos_token_id=[2, 5])
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 2], "temperature": 0.1, "top_k": 3}')
    assert read_config(tmp_path).stop_token_ids == (2, 5, 7)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ({"quantization_config": {"bits": 4}}, "quant_method is None"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
        ({"logit_scale": 0.5}, "logit_scale"),
        ({"attention_multiplier": 2}, "attention_multiplier"),
        ({"sliding_window": 64}, "sliding_window"),  # llama has none
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {**LLAMA3, "attention_factor": 2}}, "attention_factor"),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, "factor"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, "rope_theta"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"layer_types": ["chunked_attention"] * 2}, "chunked_attention"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
        ({"head_dim": 7}, "head_dim"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps"),
        ({"eos_token_id": 64}, "eos_token_id"),
        ({"hidden_size": "absent"}, "hidden_size is missing"),
    ],
)
def test_what_could_change_the_arithmetic_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    assert named in refused(write(tmp_path, **fields))


def test_switched_off_fields_are_harmless(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, rope_interleaved=False, new_thing=None, list_of_things=[], pretraining_tp=1))
    assert config.family == "llama"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"{", "malformed"),
        (b"[1]", "list"),
        (b'{"vocab_size": 1, "vocab_size": 2}', "key 'vocab_size' is given twice"),
        (b'{"rms_norm_eps": NaN}', "NaN"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 100_000, "malformed"),
    ],
)
def test_malformed_files_get_one_line(tmp_path: Path, raw: bytes, said: str) -> None:
    (tmp_path / "config.json").write_bytes(raw)
    assert said in refused(tmp_path)


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    assert "config.json" in refused(tmp_path)
