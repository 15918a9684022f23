"""PEFT LoRA folders, loaded strictly: everything in the folder is understood and used, or refused by name.

PEFT itself only warns about missing keys and never looks at unexpected ones, so a half-applied adapter passes there.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from warmeng.common.errors import InputError, name_some, one_line, show
from warmeng.common.files import read_json
from warmeng.engine.config import ModelConfig, inside
from warmeng.engine.scheme import is_inert
from warmeng.engine.tensors import Checkpoint, open_checkpoint

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
MAX_RANK = 1024
# The largest lora_alpha: beyond it an adapter overflows before it means anything.
MAX_ALPHA = 2**20
_BLOCKS = {"q": "self_attn", "k": "self_attn", "v": "self_attn", "o": "self_attn"}  # the others are in mlp
_KEY = re.compile(
    r"base_model\.model\.model\.layers\.(0|[1-9]\d{0,3})\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
    r"\.lora_([AB])(\.default)?\.weight"
)
_READ = frozenset(
    {"peft_type", "task_type", "r", "lora_alpha", "use_rslora", "target_modules", "layers_to_transform", "bias"}
    | {"layers_pattern", "init_lora_weights", "base_model_name_or_path"}
)
_HARMLESS = frozenset(  # bookkeeping and training options
    {"auto_mapping", "revision", "inference_mode", "lora_dropout", "peft_version", "megatron_core", "eva_config"}
    | {"qalora_group_size", "corda_config", "lora_ga_config", "loftq_config", "runtime_config"}
)
# Other kinds of initialisation change the base weights too, so the adapter alone isn't the whole change.
_PLAIN_INITS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Adapter:
    """A low-rank change of the base: ``W x + scale * B (A x)`` for each target it has.

    ``layers`` has one mapping a layer of the base, from a target of ``TARGETS`` to its pair (A ``[r, in]``,
    B ``[out, r]``), float32 and not scaled; a target without change is absent. ``hash`` identifies the content and is
    the same whatever the folder's name.
    """

    hash: str  # SHA-256, hex
    rank: int
    # alpha / r, or alpha / sqrt(r) with rsLoRA.
    scale: float
    layers: tuple[Mapping[str, tuple[torch.Tensor, torch.Tensor]], ...]
    source: Path
    # What the adapter's configuration calls its base, for messages only.
    base_name: str | None
    # The adapter changes nothing: every B (or A) is zero, as freshly initialised ones are.
    is_zero: bool

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that some layer has, in the order of ``TARGETS``."""
        return tuple(t for t in TARGETS if any(t in layer for layer in self.layers))


def target_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """``(in, out)`` of each target's projection in this base."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = {"q": (hidden, q), "k": (hidden, kv), "v": (hidden, kv), "o": (q, hidden)}
    return attention | {"gate": (hidden, inner), "up": (hidden, inner), "down": (inner, hidden)}


def adapter_hash(layers: tuple[Mapping[str, tuple[torch.Tensor, torch.Tensor]], ...], scale: float) -> str:
    """SHA-256 (hex) of an adapter's content: scale, and each pair with its place and shape, in a fixed order."""
    digest = hashlib.sha256(struct.pack("<d", scale))
    for index, layer in enumerate(layers):
        for target in TARGETS:
            if target in layer:
                for matrix in layer[target]:
                    digest.update(f"{index} {target} {list(matrix.shape)}\n".encode())
                    digest.update(matrix.to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def is_merged(folder: Path) -> bool:
    """Whether a folder holds a whole checkpoint rather than an adapter."""
    return (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file()


def comparable_hash(config: ModelConfig, base_hash: str) -> str | None:
    """Return the hash that an adapter's base must have; None for a quantised base, whose original has another."""
    return None if config.quantization is not None else base_hash


def load_adapter(folder: Path, config: ModelConfig, base_hash: str | None = None) -> Adapter:
    """The PEFT LoRA adapter in ``folder`` for the base that ``config`` describes.

    Where the folder has a manifest ``warmeng.json`` that names the hash of its base, ``base_hash`` must equal it.

    Raises:
        InputError: a feature that isn't supported (by name), tensors missing or left over in either direction, a
            rank or shape that doesn't fit, an adapter for another base, or a damaged file.
    """
    path = inside(folder, "adapter_config.json")
    if not path.is_file():
        raise InputError(f"{folder} has no adapter_config.json: expected the folder of a PEFT LoRA adapter")
    data = read_json(path)
    rank, scale = _check_settings(path, data)
    base_name = data.get("base_model_name_or_path")
    base_name = base_name if isinstance(base_name, str) and base_name else None
    _check_manifest(folder, base_hash)
    checkpoint = open_checkpoint(folder, "adapter_model")
    names = _tensor_names(checkpoint)
    _check_targets(path, data, names, config)

    shapes = target_shapes(config)
    layers: list[dict[str, tuple[torch.Tensor, torch.Tensor]]] = [{} for _ in range(config.num_layers)]
    for layer, target in sorted({(layer, target) for layer, target, _ in names}):
        width, height = shapes[target]
        pair = []
        for side, shape in (("A", (rank, width)), ("B", (height, rank))):
            name = names[layer, target, side]
            _check_shape(checkpoint, name, shape, rank, side, base_name)
            matrix = torch.empty(shape)
            checkpoint.read_into(name, matrix)
            pair.append(matrix)
        layers[layer][target] = (pair[0], pair[1])
    checkpoint.finish()

    frozen = tuple(layers)
    is_zero = all(not (a.any() and b.any()) for layer in layers for a, b in layer.values())
    return Adapter(adapter_hash(frozen, scale), rank, scale, frozen, folder, base_name, is_zero)


def _check_settings(path: Path, data: Mapping[str, Any]) -> tuple[int, float]:
    """The rank and scale; refuses everything that would change what the tensors mean."""

    def fail(key: str, expected: str) -> InputError:
        return InputError(f"{path}: {key} is {show(data.get(key), 60)}, expected {expected}")

    if data.get("peft_type") != "LORA":
        raise fail("peft_type", "'LORA': only LoRA adapters are supported")
    if data.get("task_type") not in (None, "CAUSAL_LM"):
        raise fail("task_type", "'CAUSAL_LM'")
    if data.get("bias", "none") != "none":
        raise fail("bias", "'none': adapters that train biases aren't supported")
    if data.get("init_lora_weights", True) not in _PLAIN_INITS:
        raise fail("init_lora_weights", "one that leaves the base as it is: convert it to plain LoRA with PEFT")
    if data.get("layers_pattern") not in (None, "layers", [], ["layers"]):
        raise fail("layers_pattern", "'layers' or none")
    if unknown := {key for key, value in data.items() if key not in _READ | _HARMLESS and not is_inert(value)}:
        raise InputError(f"{path}: {name_some(unknown)} is set, which isn't supported: train without or merge it")
    rank, alpha, rslora = data.get("r"), data.get("lora_alpha"), data.get("use_rslora", False)
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise fail("r", f"a whole number from 1 to {MAX_RANK}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= MAX_ALPHA:
        raise fail("lora_alpha", f"a number above 0, up to {MAX_ALPHA}")
    if rslora not in (None, False, True):
        raise fail("use_rslora", "true or false")
    return rank, alpha / math.sqrt(rank) if rslora else alpha / rank


def _check_manifest(folder: Path, base_hash: str | None) -> None:
    path = inside(folder, "warmeng.json")
    if base_hash is None or not path.is_file():
        return
    trained = read_json(path).get("base_hash")
    if trained is not None and trained != base_hash:
        what = f"{one_line(trained, 16)}, not {base_hash[:13]}..."
        raise InputError(f"{folder} is an adapter for another base (its manifest says {what}): use that base")


def _tensor_names(checkpoint: Checkpoint) -> dict[tuple[int, str, str], str]:
    """(layer, target, "A" or "B") to tensor name; every tensor has such a place and every A its B."""
    places: dict[tuple[int, str, str], str] = {}
    odd = set()
    for name in checkpoint.names:
        match = _KEY.fullmatch(name)
        if match is None or match[2] != _BLOCKS.get(match[3], "mlp"):
            odd.add(name)
            continue
        place = (int(match[1]), match[3], match[4])
        if place in places:
            raise InputError(f"{checkpoint.folder} has both {places[place]} and {name}: keep one of them")
        places[place] = name
    if odd:
        raise InputError(f"{checkpoint.folder} has tensors of no supported target: {name_some(odd)}")
    other = {"A": "B", "B": "A"}
    if lone := {name for (layer, t, side), name in places.items() if (layer, t, other[side]) not in places}:
        raise InputError(f"{checkpoint.folder} lacks the other half of {name_some(lone)}: expected lora_A and lora_B")
    return places


def _check_targets(
    path: Path, data: Mapping[str, Any], names: Mapping[tuple[int, str, str], str], config: ModelConfig
) -> None:
    """The tensors must be exactly those that the configuration names: none missing, none left over."""
    layers = _layers(path, data, config)
    found = {(layer, target) for layer, target, _ in names}
    if beyond := {f"layer {layer}" for layer, _ in found if layer >= config.num_layers}:
        raise InputError(
            f"{path.parent} is an adapter for another base: it has {name_some(beyond)}, "
            f"this base has {config.num_layers} layers"
        )
    wanted = data.get("target_modules")
    if isinstance(wanted, str):
        # A pattern of unknown origin isn't run; what it must yield is one set of targets, the same in each layer.
        expected = {(layer, target) for layer in layers for target in {t for _, t in found}}
    elif isinstance(wanted, list) and wanted and all(isinstance(w, str) and w for w in wanted):
        every = [(i, t) for i in range(config.num_layers) for t in TARGETS]
        # Any last parts of a module's name, and the modules that have them.
        ending: dict[str, set[tuple[int, str]]] = {}
        for i, t in every:
            parts = f"model.layers.{i}.{_BLOCKS.get(t, 'mlp')}.{t}_proj".split(".")
            for start in range(len(parts)):
                ending.setdefault(".".join(parts[start:]), set()).add((i, t))
        if unmatched := set(wanted) - ending.keys():
            raise InputError(
                f"{path}: target_modules has {name_some(unmatched)}, which isn't supported: "
                f"expected {', '.join(t + '_proj' for t in TARGETS)} of this base's layers"
            )
        expected = {(i, t) for w in set(wanted) for i, t in ending[w] if i in layers}
    else:
        raise InputError(f"{path}: target_modules is {show(wanted, 60)}, expected a list of module names")
    if missing := {f"layer {layer} {target}_proj" for layer, target in expected - found}:
        raise InputError(f"{path.parent} lacks tensors of {len(missing)} targeted modules: {name_some(missing)}")
    if extra := {names[layer, target, "A"] for layer, target in found - expected}:
        raise InputError(f"{path.parent} has tensors of {len(extra)} modules it doesn't target: {name_some(extra)}")


def _layers(path: Path, data: Mapping[str, Any], config: ModelConfig) -> set[int]:
    chosen = data.get("layers_to_transform")
    if is_inert(chosen):
        return set(range(config.num_layers))
    indices = chosen if isinstance(chosen, list) else [chosen]
    if any(type(i) is not int or not 0 <= i < config.num_layers for i in indices):
        raise InputError(
            f"{path}: layers_to_transform is {one_line(chosen, 60)}, expected layers from 0 to "
            f"{config.num_layers - 1}: the adapter may be for another base"
        )
    return set(indices)


def _check_shape(
    checkpoint: Checkpoint, name: str, expected: tuple[int, int], rank: int, side: str, base_name: str | None
) -> None:
    shape = checkpoint.shape(name)
    if shape == expected:
        return
    what = f"{name} has shape {list(shape)}, expected {list(expected)}"
    if len(shape) != 2 or shape["AB".index(side)] != rank:
        raise InputError(f"{checkpoint.folder}: {what} from r = {rank} in adapter_config.json: the two don't fit")
    trained = f" (it names {one_line(base_name, 80)})" if base_name else ""
    raise InputError(f"{checkpoint.folder} is an adapter for another base{trained}: {what}")
