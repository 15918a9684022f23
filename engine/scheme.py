"""How a checkpoint's linear layers are quantised, read from the ``quantization_config`` of its ``config.json``.

By an allow-list, as the rest of the configuration: what is not known to be harmless is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from warmeng.common.errors import InputError, name_some, show

Kind = Literal["int8", "fp8", "int4"]
Method = Literal["compressed-tensors", "awq", "gptq"]
Fail = Callable[[str], InputError]

# Who quantised a base, where it was not rounded at load.
CHECKPOINT = "the checkpoint"
# Inputs that share a scale. Smaller ones would have more scales than weights are worth, larger ones are no groups.
MIN_GROUP, MAX_GROUP = 16, 2**15
_ANOTHER = "use another quantisation of the model, or the original with --weights"


def is_inert(value: object) -> bool:
    """Whether a configuration value can't switch anything on: null, false or empty."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


@dataclass(frozen=True)
class Scheme:
    """What the tensors of a quantised layer mean. Which layers are, their tensors tell: others are left plain."""

    method: Method
    kind: Kind
    # Of int4, inputs that share a scale; None: all of an output.
    group: int | None = None
    # Of int4: no zero points, or all of them the middle.
    symmetric: bool = True
    # Of int8 and fp8: one scale for a weight, not one for each output.
    per_tensor: bool = False
    # Of fp8: the checkpoint holds one scale for all inputs of a layer, where others have one for each row.
    static_input: bool = False
    # What is added to a stored zero point.
    zero_shift: int = 0

    def words(self) -> str:
        """Return the scheme in a few words."""
        if self.kind == "int4":
            groups = f"groups of {self.group}" if self.group else "a scale for each output"
            return f"int4, {groups}, {'symmetric' if self.symmetric else 'with zero points'} ({self.method})"
        weights = "a scale for each weight" if self.per_tensor else "a scale for each output"
        inputs = "inputs by a fixed scale" if self.static_input else "inputs by row"
        return f"{self.kind}, {weights}, {inputs} ({self.method})"


def about_weights(scheme: Scheme | None, rounded: str) -> dict[str, Any] | None:
    """Return how a base's layers are quantised, for a manifest: JSON types only; None where they are not.

    ``rounded``: the kind that its weights were rounded to when they were loaded, "auto" for none.
    """
    if scheme is not None:
        return {"kind": scheme.kind, "scheme": scheme.words(), "group": scheme.group, "by": CHECKPOINT}
    if rounded == "auto":
        return None
    if rounded == "int4":
        words, group = "int4, groups of 128 (64 or 32 where these fit), symmetric, to the nearest", 128
    else:
        words, group = f"{rounded}, a scale for each output, inputs by row, to the nearest", None
    return {"kind": rounded, "scheme": words, "group": group, "by": "warmeng, at load"}


def parse_scheme(data: Any, fail: Fail) -> Scheme:
    """Return the scheme in a ``quantization_config``; raises what ``fail`` makes of a reason."""

    def refuse(what: str) -> InputError:
        return fail(f"quantization_config: {what}")

    if not isinstance(data, dict):
        raise refuse(f"is {show(data, 60)}, expected an object")
    method = data.get("quant_method")
    readers = {"compressed-tensors": _compressed, "awq": _awq, "gptq": _gptq}
    if not isinstance(method, str) or method not in readers:
        raise refuse(f"quant_method is {show(method, 60)}, expected one of {', '.join(readers)}: {_ANOTHER}")
    return readers[method](_Fields(data, "", refuse))


class _Fields:
    """An object of the configuration; what is not asked for and not inert is refused by ``finish``."""

    def __init__(self, data: Mapping[str, Any], where: str, fail: Fail) -> None:
        self.data, self.where, self.fail = data, where, fail
        self._asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self._asked.add(key)
        value = self.data.get(key)
        return default if value is None else value

    def harmless(self, text: str) -> None:
        self._asked.update(text.split())

    def expect(self, key: str, allowed: tuple[Any, ...], default: Any = None, what: str = "") -> Any:
        """Return a value, one of those allowed and of its type."""
        value = self.get(key, default)
        if not any(value == one and type(value) is type(one) for one in allowed):
            expected = what or " or ".join(show(one, 40) for one in allowed)
            raise self.fail(f"{self.where}{key} is {show(value, 60)}, expected {expected}: {_ANOTHER}")
        return value

    def inside(self, key: str) -> _Fields | None:
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fail(f"{self.where}{key} is {show(value, 60)}, expected an object")
        return _Fields(value, f"{self.where}{key}.", self.fail)

    def group(self, key: str) -> int | None:
        """Return a group size; None where it is the whole input."""
        value = self.get(key, -1)
        if type(value) is not int or not (value == -1 or (MIN_GROUP <= value <= MAX_GROUP and value % MIN_GROUP == 0)):
            raise self.fail(
                f"{self.where}{key} is {show(value, 60)}, expected -1 or a multiple of {MIN_GROUP} "
                f"up to {MAX_GROUP}: {_ANOTHER}"
            )
        return None if value == -1 else value

    def absent(self, key: str, why: str) -> None:
        """Refuse a feature that is switched on."""
        if not is_inert(self.get(key)):
            raise self.fail(f"{self.where}{key} is set ({why}): {_ANOTHER}")

    def finish(self) -> None:
        odd = {key for key, value in self.data.items() if key not in self._asked and not is_inert(value)}
        if odd:
            raise self.fail(f"unknown field {self.where}{name_some(odd)} could change the arithmetic: {_ANOTHER}")


def _compressed(f: _Fields) -> Scheme:
    formats = ("float-quantized", "int-quantized", "naive-quantized", "pack-quantized")
    kept = f.expect("format", formats, what=f"one of {', '.join(formats)}")
    # "frozen" stands in older checkpoints; what is stored, the tensors' types tell.
    f.expect("quantization_status", ("compressed", "frozen"), "compressed")
    f.absent("kv_cache_scheme", "quantised keys and values are not read")
    f.absent("transform_config", "transformed weights are not read")
    f.absent("moe_sparsity_config", "sparse experts are not read")
    if (sparse := f.inside("sparsity_config")) is not None and sparse.data:
        sparse.expect("format", ("dense",), "dense", "none: sparse weights are not read")
    f.harmless("quant_method ignore global_compression_ratio version")
    groups = f.inside("config_groups")
    if groups is None or len(groups.data) != 1:
        raise f.fail(f"config_groups has {len(groups.data) if groups else 0} groups, expected one: {_ANOTHER}")
    group = groups.inside(next(iter(groups.data)))
    if group is None or (weights := group.inside("weights")) is None:
        raise f.fail("config_groups has no weights, expected a scheme with weights and input_activations")
    group.absent("output_activations", "quantised outputs are not read")
    group.expect("format", (kept,), kept)
    group.harmless("targets")
    inputs = group.inside("input_activations")
    f.finish()
    group.finish()
    return _packed(weights, inputs) if kept == "pack-quantized" else _rows(kept, weights, inputs, f.fail)


_OF_CALIBRATION = "observer observer_kwargs scale_dtype zp_dtype"


def _packed(weights: _Fields, inputs: _Fields | None) -> Scheme:
    if inputs is not None:
        raise inputs.fail(f"{inputs.where[:-1]} is set, expected none beside weights of 4 bits: {_ANOTHER}")
    weights.expect("num_bits", (4,), what="4")
    weights.expect("type", ("int",))
    strategy = weights.expect("strategy", ("group", "channel"))
    weights.expect("actorder", ("weight", "static", False), False, "none: columns in another order are not read")
    weights.expect("dynamic", (False,), False)
    weights.absent("block_structure", "blocks are not read")
    weights.harmless(_OF_CALIBRATION)
    group = weights.group("group_size")
    if (strategy == "group") != (group is not None):
        raise weights.fail(f"{weights.where}group_size is {show(group, 40)} with strategy {strategy!r}: correct one")
    symmetric = weights.expect("symmetric", (True, False), True)
    weights.finish()
    return Scheme("compressed-tensors", "int4", group, symmetric)


def _rows(kept: str, weights: _Fields, inputs: _Fields | None, fail: Fail) -> Scheme:
    """Return a scheme of weights and inputs of 8 bits."""
    floating = kept == "float-quantized" or (kept == "naive-quantized" and weights.get("type") == "float")
    if inputs is None:
        raise fail(f"input_activations is missing, expected 8 bits by token with {kept}: {_ANOTHER}")
    for part in (weights, inputs):
        part.expect("num_bits", (8,), what="8")
        part.expect("type", ("float" if floating else "int",))
        part.expect("symmetric", (True,), True, "true: zero points of 8 bits are not read")
        part.absent("group_size", "groups of 8 bits are not read")
        part.absent("block_structure", "blocks are not read")
        part.expect("actorder", ("weight", "static", False), False, "none")
        part.harmless(_OF_CALIBRATION)
    strategy = weights.expect("strategy", ("channel", "tensor"))
    weights.expect("dynamic", (False,), False)
    by = inputs.expect("strategy", ("token", "tensor") if floating else ("token",))
    # One scale for all rows of a batch would make a row's numbers depend on the batch.
    inputs.expect("dynamic", (by == "token",), False, "true by token, false by tensor")
    weights.finish()
    inputs.finish()
    kind: Kind = "fp8" if floating else "int8"
    return Scheme("compressed-tensors", kind, per_tensor=strategy == "tensor", static_input=by == "tensor")


def _awq(f: _Fields) -> Scheme:
    f.expect("bits" if f.get("bits") is not None else "w_bit", (4,), what="4")
    version = f.get("version", "gemm")
    if not isinstance(version, str) or version.lower() != "gemm":
        raise f.fail(f"version is {show(version, 60)}, expected 'gemm': {_ANOTHER}")
    f.expect("zero_point", (True,), True)
    group = f.group("group_size" if f.get("group_size") is not None else "q_group_size")
    f.harmless("quant_method modules_to_not_convert backend do_fuse exllama_config w_bit q_group_size")
    f.finish()
    return Scheme("awq", "int4", group, symmetric=False)


def _gptq(f: _Fields) -> Scheme:
    f.expect("bits", (4,), what="4")
    version = f.expect("checkpoint_format", ("gptq", "gptq_v2"), f.get("format", "gptq"), "'gptq' or 'gptq_v2'")
    f.expect("format", (version,), version)
    f.expect("method", ("gptq",), "gptq")
    f.expect("pack_dtype", ("int32",), "int32")
    f.absent("lm_head", "a quantised head is not read")
    f.absent("dynamic", "layers of different kinds are not read")
    f.absent("is_marlin_format", "its layout is another one")
    # What order the columns are in, ``g_idx`` tells.
    f.expect("desc_act", (True, False), False)
    symmetric = f.expect("sym", (True, False), True)
    group = f.group("group_size")
    f.harmless("""
        quant_method true_sequential static_groups damp_percent damp_auto_increment dataset batch_size
        block_name_to_quantize modules_in_block_to_quantize module_name_preceding_first_block cache_block_outputs
        model_seqlen max_input_length model_name_or_path model_file_base_name pad_token_id tokenizer use_exllama
        use_cuda_fp16 disable_exllama exllama_config backend meta mse act_group_aware offload_to_disk
    """)
    f.finish()
    return Scheme("gptq", "int4", group, symmetric, zero_shift=1 if version == "gptq" else 0)
