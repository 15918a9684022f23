"""One reader for each format: which tensors a layer must have, and the ``Weight`` that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from warmeng.common.errors import InputError
from warmeng.engine.scheme import Scheme
from warmeng.engine.tensors import FLOATS, Checkpoint
from warmeng.kernels.quantized import MIDDLE, Int4, RowScaled, pack_int4

# Numbers of 4 bits in an int32.
_PER_WORD = 8
# Where AWQ's words hold their eight outputs, counted in nibbles from the lowest.
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
_TOP = 15


class Stored(NamedTuple):
    """What a tensor may look like."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: frozenset[str]
    optional: bool = False


@dataclass(frozen=True)
class Layer:
    """A quantised layer ``module`` of a checkpoint, [out, width], to be made on ``device``."""

    checkpoint: Checkpoint
    module: str
    scheme: Scheme
    out: int
    width: int
    device: torch.device

    @property
    def groups(self) -> int:
        """Scales along the input."""
        return -(-self.width // self.group)

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return min(self.scheme.group or self.width, self.width)

    def fail(self, what: str) -> InputError:
        return InputError(f"{self.checkpoint.folder}: {self.module}{what}")

    def tensor(self, name: str) -> Tensor:
        return self.checkpoint.tensor(f"{self.module}.{name}").to(self.device)

    def has(self, name: str) -> bool:
        return self.checkpoint.has(f"{self.module}.{name}")

    def scales(self, name: str) -> Tensor:
        """Return scales as they are stored, all above zero."""
        # A copy: a view of the file would keep it mapped.
        found = self.tensor(name).clone()
        if not bool((found > 0).all()):
            raise self.fail(f".{name} has a scale of {float(found.min()):g}, expected all above 0: fetch it again")
        return found


def is_quantized(checkpoint: Checkpoint, module: str, scheme: Scheme) -> bool:
    """Tell whether the checkpoint holds a layer quantised, where others are left plain."""
    return checkpoint.has(f"{module}.{_marker(scheme)}")


def stored_tensors(scheme: Scheme, out: int, width: int) -> dict[str, Stored]:
    """Return what a quantised layer [out, width] has to have, by the ends of the names.

    Raises ValueError where the format can't hold such a layer.
    """
    ints, words = frozenset({"I32", "I64"}), frozenset({"I32"})
    groups = -(-width // (scheme.group or width))
    if scheme.kind != "int4":
        found = {
            "weight": Stored(((out, width),), frozenset({"I8" if scheme.kind == "int8" else "F8_E4M3"})),
            "weight_scale": Stored(((), (1,)) if scheme.per_tensor else ((out, 1), (out,)), FLOATS),
        }
        return found | ({"input_scale": Stored(((), (1,)), FLOATS)} if scheme.static_input else {})
    if scheme.method == "compressed-tensors":
        found = {
            "weight_packed": Stored(((out, -(-width // _PER_WORD)),), words),
            "weight_scale": Stored(((out, groups),), FLOATS),
            "weight_shape": Stored(((2,),), ints),
        }
        zeros = Stored(((-(-out // _PER_WORD), groups),), words)
        return found | ({} if scheme.symmetric else {"weight_zero_point": zeros})
    if out % _PER_WORD or width % _PER_WORD or (scheme.method == "awq" and width % (scheme.group or width)):
        raise ValueError(f"{scheme.method} has no layer of {out} by {width}")
    found = {
        "qzeros": Stored(((groups, out // _PER_WORD),), words),
        "scales": Stored(((groups, out),), FLOATS),
    }
    if scheme.method == "awq":
        return found | {"qweight": Stored(((width, out // _PER_WORD),), words)}
    return found | {
        "qweight": Stored(((width // _PER_WORD, out),), words),
        "g_idx": Stored(((width,),), words, optional=True),
    }


def read_layer(layer: Layer) -> RowScaled | Int4:
    """Return a layer's weight. Raises InputError for tensors that are not what the format allows."""
    if layer.scheme.kind != "int4":
        return _eight_bits(layer)
    by_method: dict[str, Callable[[Layer], Int4]] = {"compressed-tensors": _packed, "awq": _awq, "gptq": _gptq}
    return by_method[layer.scheme.method](layer)


def _marker(scheme: Scheme) -> str:
    if scheme.method != "compressed-tensors":
        return "qweight"
    return "weight_packed" if scheme.kind == "int4" else "weight_scale"


def _eight_bits(layer: Layer) -> RowScaled:
    values = layer.tensor("weight")
    scales = layer.scales("weight_scale").float().flatten().expand(layer.out).contiguous()
    fixed = float(layer.scales("input_scale")) if layer.scheme.static_input else None
    return RowScaled(values.clone(), scales, fixed)


def _packed(layer: Layer) -> Int4:
    if (shape := layer.tensor("weight_shape").tolist()) != [layer.out, layer.width]:
        raise layer.fail(f".weight_shape is {shape}, expected {[layer.out, layer.width]} from config.json")
    numbers = _nibbles(layer.tensor("weight_packed"))[:, : layer.width]
    zeros = None
    if not layer.scheme.symmetric:
        # Packed along the outputs.
        zeros = _nibbles(layer.tensor("weight_zero_point").t())[:, : layer.out]
    return pack_int4(numbers, layer.scales("weight_scale").t(), zeros, layer.group)


def _awq(layer: Layer) -> Int4:
    def unpacked(name: str) -> Tensor:
        nibbles = _nibbles(layer.tensor(name))
        return nibbles.view(len(nibbles), -1, _PER_WORD)[:, :, list(_AWQ_PLACES)].flatten(1)

    return pack_int4(unpacked("qweight").t(), layer.scales("scales"), unpacked("qzeros"), layer.group)


def _gptq(layer: Layer) -> Int4:
    if layer.has("g_idx"):
        order = torch.arange(layer.width, device=layer.device) // layer.group
        if not torch.equal(layer.tensor("g_idx").long(), order):
            raise layer.fail(
                ".g_idx is not in ascending order (act-order, desc_act): use a quantisation without it, or the "
                "original with --weights int4"
            )
    zeros = _nibbles(layer.tensor("qzeros"))
    if layer.scheme.zero_shift:
        # As zero less one: 15 would be 16, which no 4 bits have, or the trace of a zero that ran over.
        if bool((zeros == _TOP).any()):
            raise layer.fail(f".qzeros has a zero point of {_TOP + 1}, expected at most {_TOP}: quantise it again")
        zeros += layer.scheme.zero_shift
    if layer.scheme.symmetric and not bool((zeros == MIDDLE).all()):
        raise layer.fail(f".qzeros has zero points other than {MIDDLE} though config.json says sym: correct it")
    symmetric = layer.scheme.symmetric
    numbers = _nibbles(layer.tensor("qweight").t())
    return pack_int4(numbers, layer.scales("scales"), None if symmetric else zeros, layer.group)


def _nibbles(words: Tensor) -> Tensor:
    """Return the numbers of 4 bits in int32 words [n, m], the lowest first, uint8 [n, 8 m]."""
    each = words.contiguous().view(torch.uint8)
    return torch.stack([each & 15, each >> 4], 2).flatten(1)
