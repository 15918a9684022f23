"""Weights: read into the fused layout exactly, and hostile or damaged files refused with one line."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from warmeng.common.errors import InputError
from warmeng.engine.checkpoint import content_hash, expected_names, load_weights, open_checkpoint
from warmeng.engine.config import ModelConfig
from warmeng.kernels.linear import PlainProjection, Projection

CONFIG = ModelConfig(
    family="llama",
    vocab_size=40,
    hidden_size=12,
    intermediate_size=20,
    num_layers=2,
    num_heads=3,
    num_kv_heads=1,
    head_dim=6,  # unlike 12 / 3
    rms_norm_eps=1e-6,
    rope_theta=1e4,
    rope_scaling=None,
    qkv_bias=False,
    qk_norm=False,
    tie_word_embeddings=False,
    max_seq_len=64,
    sliding_window=None,
    stop_token_ids=(2,),
    bos_token_id=1,
)
FULL = replace(CONFIG, qkv_bias=True, qk_norm=True)  # every tensor that any family has


def random_tensors(config: ModelConfig, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    h, i, d = config.hidden_size, config.intermediate_size, config.head_dim
    q, kv = config.num_heads * d, config.num_kv_heads * d
    shapes = {"q_proj": (q, h), "k_proj": (kv, h), "v_proj": (kv, h), "o_proj": (h, q), "gate_proj": (i, h)}
    shapes |= {"up_proj": (i, h), "down_proj": (h, i), "embed_tokens": (config.vocab_size, h)}
    shapes |= {"lm_head": (config.vocab_size, h)}
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name in expected_names(config):
        module, kind = name.split(".")[-2:]
        shape = shapes.get(module, (d,) if module in ("q_norm", "k_norm") else (h,))
        tensors[name] = torch.randn(shape[:1] if kind == "bias" else shape, generator=generator).to(dtype)
    return tensors


def save(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, folder / "model.safetensors")
    return folder


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    return message


def write_raw(folder: Path, header: str | dict[str, Any], data: bytes = b"", length: int | None = None) -> Path:
    raw = (header if isinstance(header, str) else json.dumps(header)).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return folder


def plain(projection: Projection) -> torch.Tensor:
    assert isinstance(projection, PlainProjection)
    return projection.w


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_every_tensor_lands_in_its_fused_place(tmp_path: Path, stored: torch.dtype) -> None:
    tensors = random_tensors(FULL, stored)
    weights = load_weights(save(tmp_path, tensors), FULL, torch.float32)
    wanted = {name: tensor.float() for name, tensor in tensors.items()}
    assert torch.equal(weights.embed, wanted["model.embed_tokens.weight"])
    assert torch.equal(plain(weights.head), wanted["lm_head.weight"])
    assert torch.equal(weights.final_norm, wanted["model.norm.weight"])
    for index, layer in enumerate(weights.layers):
        p = f"model.layers.{index}."
        a = p + "self_attn."
        assert torch.equal(layer.attn_norm, wanted[p + "input_layernorm.weight"])
        assert torch.equal(layer.mlp_norm, wanted[p + "post_attention_layernorm.weight"])
        assert torch.equal(plain(layer.qkv), torch.cat([wanted[f"{a}{x}_proj.weight"] for x in "qkv"]))
        assert layer.qkv_bias is not None
        assert torch.equal(layer.qkv_bias, torch.cat([wanted[f"{a}{x}_proj.bias"] for x in "qkv"]))
        assert layer.q_norm is not None
        assert torch.equal(layer.q_norm, wanted[a + "q_norm.weight"])
        assert layer.k_norm is not None
        assert torch.equal(layer.k_norm, wanted[a + "k_norm.weight"])
        assert torch.equal(plain(layer.o), wanted[a + "o_proj.weight"])
        gate_up = torch.cat([wanted[f"{p}mlp.{x}_proj.weight"] for x in ("gate", "up")])
        assert torch.equal(plain(layer.gate_up), gate_up)
        assert torch.equal(plain(layer.down), wanted[p + "mlp.down_proj.weight"])
        for matrix in (layer.qkv, layer.o, layer.gate_up, layer.down, weights.head):
            assert plain(matrix).is_contiguous()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_expected_names_are_those_of_transformers(family: str, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = dict.fromkeys(["vocab_size", "hidden_size", "intermediate_size"], 8)
    sizes |= dict.fromkeys(["num_hidden_layers", "num_attention_heads", "num_key_value_heads"], 2)
    hf = transformers.AutoConfig.for_model(family, tie_word_embeddings=tied, **sizes)
    with torch.device("meta"):
        names = set(transformers.AutoModelForCausalLM.from_config(hf).state_dict())
    if tied:
        names.discard("lm_head.weight")
    config = replace(CONFIG, tie_word_embeddings=tied, qkv_bias=family == "qwen2", qk_norm=family == "qwen3")
    assert set(expected_names(config)) == names


def test_tied_head_is_the_embedding_and_an_equal_duplicate_is_accepted(tmp_path: Path) -> None:
    tied = replace(CONFIG, tie_word_embeddings=True)
    tensors = random_tensors(tied)
    for _ in range(2):
        weights = load_weights(save(tmp_path, tensors), tied, torch.float32)
        assert plain(weights.head) is weights.embed
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["lm_head.weight"][3, 3] += 1
    save(tmp_path, tensors)
    assert "lm_head.weight differs" in refused(lambda: load_weights(tmp_path, tied, torch.float32))


def shard(folder: Path, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    mapping = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    return mapping


def test_shards_equal_one_file(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    one = load_weights(save(tmp_path / "one", tensors), CONFIG, torch.float32)
    shard(tmp_path / "many", tensors)
    many = load_weights(tmp_path / "many", CONFIG, torch.float32)
    assert torch.equal(plain(one.head), plain(many.head))
    assert all(torch.equal(plain(a.qkv), plain(b.qkv)) for a, b in zip(one.layers, many.layers, strict=True))


def test_an_index_that_disagrees_with_its_shards(tmp_path: Path) -> None:
    mapping = shard(tmp_path, random_tensors(CONFIG))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {**mapping, "ghost.weight": min(mapping.values())}}))
    assert "ghost.weight" in refused(lambda: open_checkpoint(tmp_path))
    for path in ("../evil.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "weights.bin"):
        index.write_text(json.dumps({"weight_map": {**mapping, "model.norm.weight": path}}))
        assert "model.norm.weight" in refused(lambda: open_checkpoint(tmp_path))
    index.write_text(json.dumps({"weight_map": {**mapping, "model.norm.weight": "gone.safetensors"}}))
    assert "gone.safetensors" in refused(lambda: open_checkpoint(tmp_path))


def test_links_may_not_leave_the_folder_but_the_hubs_may_go_to_its_blobs(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "c0ffee", tmp_path / "models--a--b" / "blobs"
    for folder in (snapshot, blobs, tmp_path / "plain"):
        folder.mkdir(parents=True)
    save(blobs, random_tensors(CONFIG))
    (snapshot / "model.safetensors").symlink_to("../../blobs/model.safetensors")
    assert open_checkpoint(snapshot).names
    (tmp_path / "plain" / "model.safetensors").symlink_to(blobs / "model.safetensors")
    assert "leaves its folder" in refused(lambda: open_checkpoint(tmp_path / "plain"))


def test_missing_unused_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    gone = {n: t for n, t in tensors.items() if "layers.1.self_attn.k" not in n and n != "model.norm.weight"}
    message = refused(lambda: load_weights(save(tmp_path, gone), CONFIG, torch.float32))
    assert "model.layers.1.self_attn.k_proj.weight" in message
    assert "model.norm.weight" in message
    extra = {**tensors, "model.layers.0.self_attn.q_proj.bias": torch.zeros(18)}
    assert "q_proj.bias" in refused(lambda: load_weights(save(tmp_path, extra), CONFIG, torch.float32))
    wide = {**tensors, "model.norm.weight": torch.zeros(13)}
    message = refused(lambda: load_weights(save(tmp_path, wide), CONFIG, torch.float32))
    assert "model.norm.weight has shape [13], expected [12]" in message
    fine = {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3)}
    load_weights(save(tmp_path, fine), CONFIG, torch.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite(tmp_path: Path, value: float, stored: torch.dtype) -> None:
    tensors = random_tensors(CONFIG, stored)
    tensors["model.layers.1.mlp.up_proj.weight"][7, 5] = value
    message = refused(lambda: load_weights(save(tmp_path, tensors), CONFIG, torch.float32))
    assert "model.layers.1.mlp.up_proj.weight" in message


def test_values_beyond_half_precision(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG, torch.float32)
    tensors["model.norm.weight"][0] = 1e6
    assert "model.norm.weight" in refused(lambda: load_weights(save(tmp_path, tensors), CONFIG, torch.float16))


@pytest.mark.parametrize(
    ("header", "data", "length", "said"),
    [
        ("{}", b"", 2**63, "header"),
        ("{}", b"", 10**6, "truncated"),
        ("{}", b"", None, "0 tensors"),
        ("[]", b"", None, "list"),
        ("{'a'}", b"", None, "is not valid JSON"),
        ("[" * 50_000, b"", None, "nested too deeply"),
        ('{"a":%s,"a":%s}' % ((json.dumps(entry([1], 0, 4)),) * 2), b"\0" * 4, None, "twice"),
        ('{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4, None, "twice"),
        ({"../a": entry([1], 0, 4)}, b"\0" * 4, None, "name"),
        ({"/etc/a": entry([1], 0, 4)}, b"\0" * 4, None, "name"),
        ({"a\n\x1b[31m": entry([1], 0, 4)}, b"\0" * 4, None, "name"),
        ({"a": entry([0], 0, 0)}, b"", None, "shape"),
        ({"a": entry([-1, -1], 0, 4)}, b"\0" * 4, None, "shape"),
        ({"a": entry([1.0], 0, 4)}, b"\0" * 4, None, "shape"),  # type: ignore[list-item]
        ({"a": entry([2**40, 2**40], 0, 4)}, b"\0" * 4, None, "offsets"),
        ({"a": entry([1], 4, 8)}, b"\0" * 8, None, "starts at 4"),
        ({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"\0" * 4, None, "starts at 0"),
        ({"a": entry([2], 0, 8)}, b"\0" * 4, None, "truncated"),
        ({"a": entry([1], 0, 4)}, b"\0" * 9, None, "damaged"),
        ({"a": entry([1], 0, 8, "I64")}, b"\0" * 8, None, "I64"),
        ({"a": {"dtype": "F32"}}, b"", None, "data_offsets"),
        ({f"t{i}": entry([0], 0, 0) for i in range(50_000)}, b"", None, "50000 tensors"),
    ],
)
def test_hostile_files_get_one_line(
    tmp_path: Path, header: str | dict[str, Any], data: bytes, length: int | None, said: str
) -> None:
    write_raw(tmp_path, header, data, length)
    assert said in refused(lambda: open_checkpoint(tmp_path))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    save(tmp_path, {"a.weight": torch.arange(6.0).view(2, 3), "b.weight": torch.ones(4)})
    path = tmp_path / "model.safetensors"
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with contextlib.suppress(InputError):  # and nothing else
        checkpoint = open_checkpoint(tmp_path)
        for name in checkpoint.names:
            assert checkpoint.tensor(name).isfinite().all()
        checkpoint.finish()


def test_pickled_weights_and_empty_folders_are_refused(tmp_path: Path) -> None:
    assert "model.safetensors" in refused(lambda: open_checkpoint(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert "pytorch_model.bin" in refused(lambda: open_checkpoint(tmp_path))


def test_content_hash_follows_weights_and_configuration_not_the_folder(tmp_path: Path) -> None:
    hashes = []
    for number, (seed_change, config) in enumerate([(0, "{}"), (0, "{}"), (1, "{}"), (0, '{"a": 1}')]):
        folder = tmp_path / str(number)
        folder.mkdir()
        tensors = random_tensors(CONFIG)
        tensors["model.norm.weight"][0] += seed_change
        save(folder, tensors)
        (folder / "config.json").write_text(config)
        hashes.append(content_hash(folder))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_float32_checkpoint_keeps_its_bits(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG, torch.float32)
    weights = load_weights(save(tmp_path, tensors), CONFIG, torch.float32)
    stored = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(weights.embed, stored)
