"""Quantised checkpoints: every number as the formats' own code has it; what is not understood refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quantizing import (
    FP8,
    FP8_STATIC,
    INT8,
    SCHEMES,
    Tensors,
    awq,
    awq_tensors,
    drawn,
    gptq,
    gptq_tensors,
    library,
    meaning,
    tiny,
    w4a16,
    words,
)
from safetensors.torch import load_file, save_file
from tiers import slow

from warmeng.common.errors import InputError, UsageError
from warmeng.engine.checkpoint import check_shapes, load_weights, open_checkpoint
from warmeng.engine.config import read_config
from warmeng.engine.quantization.layers import Layer, read_layer, stored_tensors
from warmeng.engine.scheme import parse_scheme
from warmeng.kernels.quantized import Int4, RowScaled, Weight

CPU = torch.device("cpu")


def read(folder: Path, tensors: Tensors, about: dict[str, Any], out: int, width: int) -> RowScaled | Int4:
    """Return the weight of one layer that a file has."""
    save_file({f"m.{name}": value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    scheme = parse_scheme(about, InputError)
    checkpoint = open_checkpoint(folder, quantized=True)
    for name, stored in stored_tensors(scheme, out, width).items():
        assert checkpoint.shape(f"m.{name}") in stored.shapes
        assert checkpoint.dtype(f"m.{name}") in stored.dtypes
    weight = read_layer(Layer(checkpoint, "m", scheme, out, width, CPU))
    checkpoint.finish()  # nothing is left over
    return weight


@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("out", "width", "group", "symmetric"),
    [(8, 64, 32, True), (5, 128, 128, False), (24, 96, 16, False), (3, 35, None, True), (11, 77, None, False)],
)
def test_packed_weights_mean_what_compressed_tensors_means(
    tmp_path: Path, out: int, width: int, group: int | None, symmetric: bool, scale_dtype: torch.dtype
) -> None:
    about = w4a16(group, symmetric)
    compressor, scheme = library(about)
    groups = -(-width // (group or width))
    generator = torch.Generator().manual_seed(width)
    state = {
        "weight": torch.randn(out, width, generator=generator),
        "weight_scale": (torch.rand(out, groups, generator=generator) * 0.3 + 0.01).to(scale_dtype),
        "weight_zero_point": torch.randint(-8, 8, (out, groups), generator=generator).to(torch.int8),
    }
    if symmetric:
        del state["weight_zero_point"]
    stored = compressor.compress(state, scheme)
    expected = compressor.decompress(stored, scheme)["weight"]
    found = read(tmp_path, stored, about, out, width)
    assert isinstance(found, Int4)
    assert (found.zeros is None) == symmetric
    assert torch.equal(found.dequantized(scale_dtype), expected.to(scale_dtype))


@pytest.mark.parametrize("about", [FP8, FP8_STATIC, INT8], ids=["fp8 by channel", "fp8 static", "int8"])
@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float32])
def test_eight_bits_mean_what_compressed_tensors_means(
    tmp_path: Path, about: dict[str, Any], scale_dtype: torch.dtype
) -> None:
    compressor, scheme = library(about)
    out, width = 7, 33
    static = about is FP8_STATIC
    generator = torch.Generator().manual_seed(1)
    scale = torch.rand(*((1,) if static else (out, 1)), generator=generator) * 0.02 + 0.001
    weight = torch.randn(out, width, generator=generator)
    stored = compressor.compress({"weight": weight, "weight_scale": scale.to(scale_dtype)}, scheme)
    if static:
        stored["input_scale"] = torch.tensor([0.25], dtype=scale_dtype)
    found = read(tmp_path, stored, about, out, width)
    assert isinstance(found, RowScaled)
    assert found.kind == ("int8" if about is INT8 else "fp8")
    assert found.input_scale == (0.25 if static else None)
    assert torch.equal(found.dequantized(scale_dtype), compressor.decompress(stored, scheme)["weight"])


@pytest.mark.parametrize(("out", "width", "group"), [(8, 64, 32), (24, 48, 16), (16, 40, None), (32, 128, 128)])
@pytest.mark.parametrize("kind", ["awq", "gptq", "gptq v2", "gptq symmetric"])
def test_awq_and_gptq_mean_what_their_layouts_say(
    tmp_path: Path, kind: str, out: int, width: int, group: int | None
) -> None:
    size = group or width
    numbers, scales, zeros = drawn(out, width, size)
    if kind == "gptq symmetric":
        zeros.fill_(8)
    if kind == "awq":
        about, tensors = awq(group or -1), awq_tensors(numbers, scales, zeros)
    else:
        shift = 0 if kind == "gptq v2" else 1
        about = gptq(group or -1, kind == "gptq symmetric", checkpoint_format="gptq" if shift else "gptq_v2")
        tensors = gptq_tensors(numbers, scales, zeros, size, shift)
    found = read(tmp_path, tensors, about, out, width)
    assert torch.equal(found.dequantized(torch.float16), meaning(numbers, scales, zeros, size))


class Kept:
    """A projection that keeps what it is made of."""

    def __init__(self, weight: Weight) -> None:
        self.weight = weight
        self.shape = (weight.shape[0], weight.shape[1])

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("name", list(SCHEMES))
@pytest.mark.parametrize("family", [*slow("llama"), "qwen2-bias"])
def test_every_layer_of_a_model_is_read_into_its_fused_place(
    tmp_path: Path, tiny_model: Callable[[str], Path], name: str, family: str
) -> None:
    folder, twin = tiny(tiny_model(family), tmp_path, SCHEMES[name])
    config = read_config(folder)
    found = load_weights(folder, config, torch.float32, project=Kept)
    expected = load_weights(twin, read_config(twin), torch.float32, project=Kept)
    for mine, theirs in zip(found.layers, expected.layers, strict=True):
        for product in ("qkv", "o", "gate_up", "down"):
            weight = getattr(mine, product).weight
            assert not isinstance(weight, torch.Tensor)
            scales = torch.float32 if "awq" not in name and "gptq" not in name else torch.float16
            assert torch.equal(weight.dequantized(scales).float(), getattr(theirs, product).weight)
    assert torch.equal(found.embed, expected.embed)
    assert isinstance(found.head, Kept)
    assert isinstance(found.head.weight, torch.Tensor)


def test_layers_that_are_left_plain_stay_plain(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    folder, twin = tiny(tiny_model("llama"), tmp_path, INT8)
    module = "model.layers.1.mlp.down_proj"
    tensors, plain = load_file(folder / "model.safetensors"), load_file(twin / "model.safetensors")
    del tensors[f"{module}.weight_scale"]
    tensors[f"{module}.weight"] = plain[f"{module}.weight"]
    save_file(tensors, folder / "model.safetensors")
    found = load_weights(folder, read_config(folder), torch.float32, project=Kept)
    down = found.layers[1].down
    assert isinstance(down, Kept)
    assert torch.equal(down.weight, plain[f"{module}.weight"])  # type: ignore[arg-type]


def test_biases_of_zeros_are_left_out_and_others_refused(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    folder, _ = tiny(tiny_model("llama"), tmp_path, gptq(16, False))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.o_proj.bias"] = torch.zeros(48)
    save_file(tensors, folder / "model.safetensors")
    load_weights(folder, read_config(folder), torch.float32, project=Kept)
    tensors["model.layers.0.self_attn.o_proj.bias"][3] = 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"o_proj\.bias isn't zero"):
        load_weights(folder, read_config(folder), torch.float32, project=Kept)


def test_who_multiplies_plain_weights_alone_refuses_others(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    folder, _ = tiny(tiny_model("llama"), tmp_path, INT8)
    with pytest.raises(UsageError, match="weights of int8 are not multiplied here"):
        load_weights(folder, read_config(folder), torch.float32)


UP = "model.layers.0.mlp.up_proj"
Q, K = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"


def poke(name: str, value: float, at: int = 0) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name].view(-1)[at] = value

    return change


def replaced(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name] = value(tensors[name]).contiguous()

    return change


def without(name: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        del tensors[name]

    return change


def nan_in_fp8(tensors: Tensors) -> None:
    tensors[f"{UP}.weight"].view(torch.uint8)[2, 3] = 0xFF


def added(name: str, value: torch.Tensor) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name] = value

    return change


HARMS: list[tuple[str, Callable[[Tensors], None], tuple[str, ...]]] = [
    ("int8", poke(f"{UP}.weight_scale", float("nan")), (f"{UP}.weight_scale", "NaN")),
    ("int8", poke(f"{UP}.weight_scale", 0.0), (f"{UP}.weight_scale", "a scale of 0", "above 0")),
    ("fp8", poke(f"{UP}.weight_scale", -0.5), (f"{UP}.weight_scale", "a scale of -0.5", "above 0")),
    ("fp8", nan_in_fp8, (f"{UP}.weight", "NaN")),
    ("fp8", replaced(f"{UP}.weight_scale", lambda t: t[:-1]), (f"{UP}.weight_scale", "shape [79, 1]", "[80, 1]")),
    ("fp8", replaced(f"{UP}.weight", lambda t: t.view(torch.int8)), (f"{UP}.weight", "I8", "F8_E4M3")),
    ("int8", without(f"{UP}.weight_scale"), (f"{UP}.weight", "I8", "BF16 or F16 or F32")),
    ("fp8 static", poke(f"{UP}.input_scale", 0.0), (f"{UP}.input_scale", "above 0")),
    ("fp8 static", without(f"{UP}.input_scale"), ("lacks", f"{UP}.input_scale")),
    ("fp8 static", poke(f"{K}.input_scale", 7.0), (Q, K, "quantised in different ways")),
    ("fp8", added(f"{UP}.input_scale", torch.ones(1)), ("doesn't use", f"{UP}.input_scale")),
    ("fp8", added("model.layers.0.self_attn.k_scale", torch.ones(1)), ("doesn't use", "k_scale")),
    ("w4a16", poke(f"{UP}.weight_shape", 47, 1), (f"{UP}.weight_shape", "[80, 47]", "[80, 48]")),
    ("w4a16", replaced(f"{UP}.weight_packed", lambda t: t[:, :-1]), (f"{UP}.weight_packed", "[80, 5]", "[80, 6]")),
    ("w4a16", replaced(f"{UP}.weight_scale", lambda t: t[:, :1]), (f"{UP}.weight_scale", "[80, 1]", "[80, 3]")),
    ("w4a16", poke(f"{UP}.weight_scale", float("inf")), (f"{UP}.weight_scale", "infinite")),
    ("w4a16", added(f"{UP}.weight_g_idx", torch.zeros(48).int()), ("doesn't use", "weight_g_idx")),
    ("awq", replaced(f"{UP}.qweight", lambda t: t.t()), (f"{UP}.qweight", "[10, 48]", "[48, 10]")),
    ("awq", poke(f"{UP}.scales", 0.0), (f"{UP}.scales", "above 0")),
    ("awq", without(f"{UP}.qzeros"), ("lacks", f"{UP}.qzeros")),
    ("awq", replaced(f"{UP}.qzeros", lambda t: t.float()), (f"{UP}.qzeros", "F32", "I32")),
    ("gptq", poke(f"{UP}.g_idx", 2), (f"{UP}.g_idx", "act-order", "--weights int4")),
    ("gptq", replaced(f"{UP}.qzeros", lambda t: torch.full_like(t, -1)), (f"{UP}.qzeros", "zero point of 16")),
    ("gptq", replaced(f"{UP}.qweight", lambda t: t[:-1]), (f"{UP}.qweight", "[5, 80]", "[6, 80]")),
]


@pytest.mark.parametrize(("name", "harm", "said"), HARMS, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(HARMS)])
def test_hostile_tensors_are_refused_by_name(
    tmp_path: Path, tiny_model: Callable[[str], Path], name: str, harm: Callable[[Tensors], None], said: tuple[str, ...]
) -> None:
    folder, _ = tiny(tiny_model("llama"), tmp_path, SCHEMES[name])
    tensors = load_file(folder / "model.safetensors")
    harm(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError) as caught:
        load_weights(folder, read_config(folder), torch.float32, project=Kept)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in said), message


def test_a_truncated_file_and_symmetric_zeros_that_are_not(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    folder, _ = tiny(tiny_model("llama"), tmp_path, gptq(16, False))
    about = json.loads((folder / "config.json").read_text())
    about["quantization_config"]["sym"] = True
    (folder / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=r"zero points other than 8 though config\.json says sym"):
        load_weights(folder, read_config(folder), torch.float32, project=Kept)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="truncated or damaged"):
        load_weights(folder, read_config(folder), torch.float32, project=Kept)


def test_a_configuration_that_names_a_scheme_and_tensors_without_one(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    folder, twin = tiny(tiny_model("llama"), tmp_path, INT8)
    (twin / "config.json").write_text((folder / "config.json").read_text())
    config = read_config(twin)
    with pytest.raises(InputError, match=r"no layer is quantised though config\.json says int8, a scale"):
        check_shapes(open_checkpoint(twin, quantized=True), config)


def test_words_are_packed_from_the_lowest_nibble() -> None:
    assert words([[1, 2, 3, 4, 5, 6, 7, 8]]).tolist() == [[0x87654321 - 2**32]]
    assert words([[1]]).tolist() == [[1]]
