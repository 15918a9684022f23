"""An adapter written into its base: a checkpoint folder that any software reads."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from warmeng.common.errors import InputError, UsageError
from warmeng.common.storage import write_folder
from warmeng.engine.adapters import Adapter, load_adapter
from warmeng.engine.config import inside, read_config
from warmeng.engine.provenance import provenance, template_hash
from warmeng.engine.registry import base_hash, resolve_model
from warmeng.engine.tensors import open_checkpoint

SHARD_BYTES = 4 * 10**9
_MODULE = re.compile(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj\.weight")
_KEPT = ("*.json", "*.jinja", "tokenizer.model", "merges.txt", "LICENSE*")
_OURS = frozenset({"model.safetensors.index.json", "files.json", "warmeng.json"})


@dataclass(frozen=True)
class Merged:
    """A merged checkpoint."""

    folder: Path
    shards: int
    # Tensors that the adapter has a change for.
    changed: int
    # Share of their numbers that differ from the base's after rounding.
    moved: float


def merge(
    model: str,
    adapter: Path,
    out: Path,
    *,
    revision: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    log: Callable[[str], None] = lambda text: None,
) -> Merged:
    """Write base plus adapter into the new folder ``out``, with the base's configuration, tokenizer and template.

    Each changed weight is computed in float32 and rounded once to the dtype that the base stores it in; other tensors
    keep their bits. Raises InputError where base or adapter can't be used or don't belong together, or where a file of
    the base is a link that leads out of its folder, UsageError where ``out`` is there already, StorageError where it
    can't be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already: choose a new folder")
    source = resolve_model(model, revision, log)
    config = read_config(source.folder)
    if config.quantization is not None:
        raise InputError(f"{source.name} is quantised: an adapter is merged into full-precision weights alone")
    base = base_hash(source)
    change = load_adapter(adapter, config, base)
    for line in provenance(adapter, source.name, template_hash(source.folder)).lines():
        log(f"{adapter}: {line}")
    checkpoint = open_checkpoint(source.folder)
    changed, moved, numbers = 0, 0, 0

    def fill(place: Path) -> None:
        nonlocal changed, moved, numbers
        for pattern in _KEPT:
            for path in sorted(source.folder.glob(pattern)):
                if path.is_file() and path.name not in _OURS:
                    shutil.copyfile(inside(source.folder, path.name), place / path.name)
        about = {"kind": "merged", "base": source.name, "base_hash": base, "adapter_hash": change.hash}
        (place / "warmeng.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        writer = _Shards(place, shard_bytes)
        for name in checkpoint.names:
            stored = checkpoint.tensor(name)
            tensor = merged_weight(name, stored, change)
            if tensor is not stored:
                changed += 1
                moved += int((tensor != stored).sum())
                numbers += tensor.numel()
            writer.add(name, tensor)
        writer.finish()

    write_folder(out, fill)
    targets = sum(len(layer) for layer in change.layers)
    if changed != targets:
        shutil.rmtree(out)
        raise InputError(f"{source.folder} has {changed} of the {targets} weights that {adapter} changes: wrong base")
    return Merged(out, len(list(out.glob("*.safetensors"))), changed, moved / max(1, numbers))


def merged_weight(name: str, stored: Tensor, adapter: Adapter) -> Tensor:
    """Return a weight with the adapter's change, rounded once from float32; the weight itself where there is none."""
    match = _MODULE.fullmatch(name)
    pair = adapter.layers[int(match[1])].get(match[2]) if match and int(match[1]) < len(adapter.layers) else None
    if pair is None:
        return stored
    a, b = pair
    return torch.addmm(stored.float(), b, a, alpha=adapter.scale).to(stored.dtype)


class _Shards:
    """Writes tensors into files of a bounded size; holds one file's tensors at a time."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self.held: dict[str, Tensor] = {}
        self.size = self.total = 0
        self.files: list[list[str]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if self.held and self.size + size > self.most:
            self._flush()
        self.held[name] = tensor.contiguous()
        self.size += size
        self.total += size

    def finish(self) -> None:
        """Name the files, and write the index where there are several."""
        self._flush()
        count = len(self.files)
        if count == 1:
            self._part(0).rename(self.folder / "model.safetensors")
            return
        weights: dict[str, str] = {}
        for index, names in enumerate(self.files):
            name = f"model-{index + 1:05d}-of-{count:05d}.safetensors"
            self._part(index).rename(self.folder / name)
            weights |= dict.fromkeys(names, name)
        content = {"metadata": {"total_size": self.total}, "weight_map": weights}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n")

    def _part(self, index: int) -> Path:
        return self.folder / f"part-{index}"

    def _flush(self) -> None:
        from safetensors.torch import save_file

        try:
            save_file(self.held, self._part(len(self.files)), metadata={"format": "pt"})
        except Exception as error:
            # The library hides the system's error in one of its own.
            raise OSError(str(error)) from None
        self._part(len(self.files)).chmod(0o644)  # the library lets the owner alone read
        self.files.append(list(self.held))
        self.held, self.size = {}, 0
