"""Steering vectors: directions that are added to the residual stream after a layer, or bound it along themselves.

Layers are counted from 1, so that layer L is the L-th entry of the hidden states that ``transformers`` returns, whose
entry 0 are the embeddings: the convention of published persona vectors (Chen et al. 2025, arXiv:2507.21509).
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from warmeng.common.errors import InputError, UsageError, name_some, one_line
from warmeng.engine.config import ModelConfig
from warmeng.engine.tensors import Checkpoint, open_file

_KEY = re.compile(r"(?:[A-Za-z_.\-]*[_.\-])?(?P<number>\d{1,4})(?:[_.\-][A-Za-z_.\-]*)?")


@dataclass(frozen=True)
class Vector:
    """A direction: after layer ``layer`` a row gains ``coefficient * values``, at every position.

    With a ``bound`` nothing is added: a row whose projection onto ``unit`` is above it is brought back to it along
    ``unit``, at every position, after the layer's vectors are added.

    values: float32 [hidden]. ``hash`` identifies values, layer and bound.
    """

    hash: str  # SHA-256, hex
    layer: int
    values: torch.Tensor
    unit: torch.Tensor  # the values divided by their length; zero where they are
    source: Path | None = None
    # In the units of the residual stream.
    bound: float | None = None

    def to(self, device: torch.device) -> Vector:
        """Return the vector on a device."""
        return replace(self, values=self.values.to(device), unit=self.unit.to(device))


def make_vector(values: torch.Tensor, layer: int, source: Path | None = None, bound: float | None = None) -> Vector:
    """Return a vector of these values, [hidden]. Raises ``UsageError`` for a bound that is not finite."""
    if bound is not None and not math.isfinite(bound):
        raise UsageError(f"the bound of a projection is {bound}, expected a finite number")
    kept = values.to(torch.float32).contiguous()
    bounded = "" if bound is None else f", bound {bound!r}"
    digest = hashlib.sha256(f"vector after layer {layer}{bounded}\n".encode() + kept.numpy().tobytes())
    unit = torch.nn.functional.normalize(kept.double(), dim=0, eps=1e-300).float()
    return Vector(digest.hexdigest(), layer, kept, unit, source, bound)


def load_vector(
    path: Path, layer: int, config: ModelConfig, base_hash: str | None = None, bound: float | None = None
) -> Vector:
    """Read the vector for a layer from a safetensors file; ``bound``: see ``Vector``.

    Understood are one tensor [layers + 1, hidden], whose row 0 is the embeddings'; one tensor [layers, hidden], whose
    row 0 is layer 1; and a tensor [hidden] for each of all layers, with a number in its name that counts in one of the
    same two ways. Nothing is unpickled. Where the file's metadata name the hash of its base (``warmeng vector`` writes
    it), ``base_hash`` must equal it.

    Raises:
        InputError: another layout, another base, a file that is damaged or pickled, a layer that the model hasn't, or
            a vector that is zero or not finite.
    """
    if not 1 <= layer <= config.num_layers:
        raise InputError(f"{path}: layer {layer} is asked for, expected 1 to {config.num_layers}, this base's layers")
    if not path.is_file():
        raise InputError(f"{one_line(path)} is not a file: expected a safetensors file of steering vectors")
    if path.suffix != ".safetensors":
        raise InputError(f"{path} is no safetensors file: convert it, nothing is unpickled here")
    checkpoint = open_file(path)
    made_for = checkpoint.metadata().get("base_hash")
    if base_hash is not None and made_for is not None and made_for != base_hash:
        what = f"{one_line(made_for, 16)}, not {base_hash[:13]}..."
        raise InputError(f"{path} has vectors for another base (its metadata say {what}): use that base")
    values = _row(path, checkpoint, layer, config).to(torch.float32).clone()
    if not values.any():
        raise InputError(f"{path}: the vector of layer {layer} is zero: expected a direction")
    return make_vector(values, layer, path, bound)


def _row(path: Path, checkpoint: Checkpoint, layer: int, config: ModelConfig) -> torch.Tensor:
    shapes = {name: checkpoint.shape(name) for name in checkpoint.names}
    layers, hidden = config.num_layers, config.hidden_size
    expected = f"[{layers + 1}, {hidden}] or [{layers}, {hidden}], or a tensor [{hidden}] for each layer"
    if len(shapes) == 1:
        ((name, shape),) = shapes.items()
        if shape not in ((layers + 1, hidden), (layers, hidden)):
            raise InputError(f"{path}: {name} has shape {list(shape)}, expected {expected}: it may be for another base")
        return checkpoint.tensor(name)[layer - (shape[0] == layers)]
    if odd := {name for name, shape in shapes.items() if shape != (hidden,) or not _KEY.fullmatch(name)}:
        raise InputError(f"{path} has the tensors {name_some(odd)}, expected one tensor {expected}")
    numbers = {int(match["number"]): name for name in shapes if (match := _KEY.fullmatch(name))}
    counted = sorted(numbers)
    if len(numbers) == len(shapes):
        if counted in (list(range(layers + 1)), list(range(1, layers + 1))):
            return checkpoint.tensor(numbers[layer])
        if counted == list(range(layers)):
            return checkpoint.tensor(numbers[layer - 1])
    raise InputError(
        f"{path} has tensors for {name_some(map(str, counted))}, expected one for each of {layers} layers, "
        "from 0 or 1: how its layers are counted can't be told"
    )
