"""``quantization_config``: what is understood, and what is refused by name with what to do."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from quantizing import BY_TOKEN, FP8, FP8_STATIC, INT8, awq, gptq, w4a16

from warmeng.common.errors import InputError
from warmeng.engine.scheme import Scheme, parse_scheme

CT = "compressed-tensors"


@pytest.mark.parametrize(
    ("about", "scheme", "words"),
    [
        (FP8, Scheme(CT, "fp8"), "fp8, a scale for each output, inputs by row (compressed-tensors)"),
        (
            FP8_STATIC,
            Scheme(CT, "fp8", per_tensor=True, static_input=True),
            "fp8, a scale for each weight, inputs by a fixed scale (compressed-tensors)",
        ),
        (INT8, Scheme(CT, "int8"), "int8, a scale for each output, inputs by row (compressed-tensors)"),
        (w4a16(128, True), Scheme(CT, "int4", 128), "int4, groups of 128, symmetric (compressed-tensors)"),
        (
            w4a16(None, False),
            Scheme(CT, "int4", None, symmetric=False),
            "int4, a scale for each output, with zero points (compressed-tensors)",
        ),
        (awq(128), Scheme("awq", "int4", 128, symmetric=False), "int4, groups of 128, with zero points (awq)"),
        (gptq(128), Scheme("gptq", "int4", 128, zero_shift=1), "int4, groups of 128, symmetric (gptq)"),
        (
            gptq(32, False, checkpoint_format="gptq_v2", desc_act=True, meta={"quantizer": ["a:1"]}),
            Scheme("gptq", "int4", 32, symmetric=False),
            "int4, groups of 32, with zero points (gptq)",
        ),
    ],
)
def test_what_is_understood(about: dict[str, Any], scheme: Scheme, words: str) -> None:
    assert parse_scheme(about, InputError) == scheme
    assert scheme.words() == words


def changed(about: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    about = deepcopy(about)
    *parents, last = place.split(".")
    at = about
    for name in parents:
        at = at[name]
    at[last] = value
    return about


def test_older_checkpoints_of_eight_bits_have_other_words() -> None:
    for about, scheme in ((FP8, Scheme(CT, "fp8")), (INT8, Scheme(CT, "int8"))):
        older = changed(changed(about, "format", "naive-quantized"), "quantization_status", "frozen")
        assert parse_scheme(older, InputError) == scheme


W, X = "config_groups.group_0.weights", "config_groups.group_0.input_activations"


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ("x", "quantization_config"),
        ({"bits": 4}, "quant_method is None"),
        ({"quant_method": ["awq"]}, "quant_method"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes', expected one of compressed-tensors"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "'fp8'"),
        (changed(FP8, "format", "nvfp4-pack-quantized"), "format is 'nvfp4-pack-quantized'"),
        (changed(FP8, "quantization_status", "calibration"), "quantization_status is 'calibration'"),
        (changed(FP8, "kv_cache_scheme", BY_TOKEN), "kv_cache_scheme is set (quantised keys and values"),
        (changed(FP8, "transform_config", {"config_groups": {"R1": {}}}), "transform_config is set"),
        (changed(FP8, "sparsity_config", {"format": "sparse-24-bitmask"}), "sparsity_config.format"),
        (changed(FP8, "config_groups.group_1", {}), "config_groups has 2 groups"),
        (changed(FP8, "config_groups", {}), "config_groups has 0 groups"),
        (changed(FP8, "config_groups.group_0", []), "config_groups.group_0 is []"),
        (changed(FP8, "config_groups.group_0.output_activations", BY_TOKEN), "output_activations is set"),
        (changed(FP8, "config_groups.group_0.format", "int-quantized"), "format is 'int-quantized'"),
        (changed(FP8, X, None), "input_activations is missing, expected 8 bits by token"),
        (changed(FP8, f"{X}.strategy", "tensor"), "dynamic is True, expected true by token, false by tensor"),
        (changed(FP8, f"{X}.strategy", "group"), "input_activations.strategy is 'group'"),
        (changed(FP8, f"{X}.num_bits", 4), "num_bits is 4, expected 8"),
        (changed(FP8, f"{W}.strategy", "block"), "weights.strategy is 'block'"),
        (changed(FP8, f"{W}.block_structure", [128, 128]), "block_structure is set"),
        (changed(INT8, f"{W}.symmetric", False), "weights.symmetric is False"),
        (changed(INT8, f"{X}.symmetric", False), "input_activations.symmetric is False"),
        (changed(INT8, f"{X}.strategy", "tensor"), "input_activations.strategy is 'tensor', expected 'token'"),
        (changed(INT8, f"{X}.dynamic", "local"), "dynamic is 'local'"),
        (changed(INT8, f"{W}.num_bits", True), "num_bits is True"),
        (changed(INT8, f"{W}.group_size", 128), "group_size is set"),
        (changed(INT8, f"{W}.new_thing", 1), "unknown field config_groups.group_0.weights.new_thing"),
        (changed(INT8, "new_thing", 1), "unknown field new_thing could change the arithmetic"),
        (changed(w4a16(128, True), f"{W}.num_bits", 8), "num_bits is 8, expected 4"),
        (changed(w4a16(128, True), f"{W}.actorder", "group"), "columns in another order"),
        (changed(w4a16(128, True), f"{W}.group_size", 7), "group_size is 7"),
        (changed(w4a16(128, True), f"{W}.group_size", 10**9), "group_size is 1000000000"),
        (changed(w4a16(128, True), f"{W}.group_size", 0), "group_size is 0"),
        (changed(w4a16(128, True), f"{W}.strategy", "channel"), "group_size is 128 with strategy 'channel'"),
        (changed(w4a16(128, True), X, BY_TOKEN), "input_activations is set, expected none"),
        (awq(128, bits=8), "bits is 8, expected 4"),
        (awq(128, version="gemv"), "version is 'gemv'"),
        (awq(128, zero_point=False), "zero_point is False"),
        (awq(-128), "group_size is -128"),
        (awq(True), "group_size is True"),
        (gptq(128, bits=3), "bits is 3, expected 4"),
        (gptq(128, checkpoint_format="marlin"), "checkpoint_format is 'marlin'"),
        (gptq(128, lm_head=True), "lm_head is set"),
        (gptq(128, dynamic={"+:.*down.*": {"bits": 8}}), "dynamic is set"),
        (gptq(128, rotation="hadamard"), "unknown field rotation"),
        (gptq(128, sym="yes"), "sym is 'yes'"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(about: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_scheme(about, InputError)
    message = str(caught.value)
    assert "\n" not in message
    assert said in message, message
