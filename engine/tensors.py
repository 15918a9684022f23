"""Reading safetensors: checked headers, tensors copied once, straight to where they are used.

The safetensors library rejects most malformed files but accepts duplicate header keys, non-finite weights, names
with ``../`` and hundreds of thousands of empty tensors, so each header is parsed and checked here before the library
maps the file. No pickle is ever opened.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, TypeGuard

from warmeng.common.errors import InputError, name_some, one_line, show
from warmeng.common.files import parse_object, read_json
from warmeng.engine.config import inside

if TYPE_CHECKING:
    import torch

# A 400B model has about 1,200 tensors.
MAX_TENSORS = 20_000
# The header of ``MAX_TENSORS`` tensors with the longest names.
MAX_HEADER_BYTES = 8 * 2**20
FLOATS = frozenset({"F32", "F16", "BF16"})
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
# Of quantised layers alone.
_QUANTIZED_BYTES = {"F8_E4M3": 1, "I8": 1, "I32": 4, "I64": 8}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,255}")
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,200}\.safetensors")
# Nanoseconds within which a changed file may change again without showing it in its times.
RECENT = 2 * 10**9
# Hashes of files by place, size and time of change.
_KNOWN: dict[tuple[Path, int, int], str] = {}
# Rows that a transposing copy converts at a time: the block stays in the cache.
_COPY_ROWS = 2048


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies and what it looks like."""

    file: Path
    shape: tuple[int, ...]
    dtype: str  # as the file names it


class Checkpoint:
    """The tensors of one or several safetensors files under one set of names; knows which have been read.

    Tensors may be read from several threads at once.
    """

    def __init__(self, folder: Path, entries: dict[str, TensorEntry]) -> None:
        self.folder = folder
        self._entries = entries
        self._unused = set(entries)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def metadata(self) -> dict[str, str]:
        """The texts that the files' headers hold beside the tensors."""
        from safetensors import safe_open

        found: dict[str, str] = {}
        for path in sorted({entry.file for entry in self._entries.values()}):
            try:
                with safe_open(path, framework="pt") as file:
                    found |= file.metadata() or {}
            except Exception as error:
                # The library has an error type for each kind of damage.
                raise InputError(f"can't read {path} ({one_line(error, 120)}): fetch it again") from None
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of tensor ``name``; InputError when there's none."""
        if name not in self._entries:
            raise InputError(f"{self.folder} lacks the tensor {name}: fetch it again or use another checkpoint")
        return self._entries[name].shape

    def has(self, name: str) -> bool:
        """Whether there is a tensor ``name``."""
        return name in self._entries

    def dtype(self, name: str) -> str:
        """The type of tensor ``name`` as safetensors names it; InputError when there's none."""
        self.shape(name)
        return self._entries[name].dtype

    def require(self, names: Iterable[str]) -> None:
        """InputError that names all of ``names`` that are missing."""
        if missing := set(names) - self._entries.keys():
            raise InputError(f"{self.folder} lacks {len(missing)} expected tensors: {name_some(missing)}")

    def ignore(self, name: str) -> None:
        """Count ``name`` as used without reading it."""
        self._unused.discard(name)

    def tensor(self, name: str) -> torch.Tensor:
        """Tensor ``name`` as a read-only view of the mapped file in its stored dtype, all values finite.

        Each call maps the file anew: its pages leave this process's memory with the tensor, in whatever order tensors
        are read. Under one mapping a checkpoint that is read whole would come to lie in memory whole.
        """
        from safetensors import safe_open

        self.shape(name)
        path = self._entries[name].file
        try:
            with safe_open(path, framework="pt") as file:
                source: torch.Tensor = file.get_tensor(name)
        except Exception as error:
            # The library has an error type for each kind of damage.
            raise InputError(f"can't read {name} from {path} ({one_line(error, 120)}): fetch it again") from None
        if not _all_finite(source):
            raise InputError(f"{path}: {name} has NaN or infinite values, expected finite weights: fetch it again")
        self._unused.discard(name)
        return source

    def read_into(self, name: str, dest: torch.Tensor) -> None:
        """Copy tensor ``name`` into ``dest`` (same shape, any strides, dtype and device), converting the dtype.

        Raises:
            InputError: no such tensor, another shape, or values that aren't finite (in ``dest``'s dtype).
        """
        import torch

        if self.shape(name) != tuple(dest.shape):
            raise InputError(
                f"{self.folder}: {name} has shape {list(self.shape(name))}, expected {list(dest.shape)} "
                "from config.json: the two don't belong together"
            )
        source = self.tensor(name)
        if dest.dtype == torch.float16 and source.dtype != torch.float16:
            limit = torch.finfo(torch.float16).max
            if max(-source.min().item(), source.max().item()) > limit:
                raise InputError(f"{self.folder}: {name} has values beyond {limit:.0f}: use float32 or bfloat16")
        copy_rows(source, dest)

    def finish(self) -> None:
        """Raise InputError with the names of tensors that were not read."""
        if self._unused:
            raise InputError(
                f"{self.folder} has {len(self._unused)} tensors that this architecture doesn't use: "
                f"{name_some(self._unused)}"
            )


def _all_finite(source: torch.Tensor) -> bool:
    import torch

    if source.dtype == torch.float8_e4m3fn:
        # It has no infinities, and NaN with either sign. Few operations take the type itself.
        return not bool((source.view(torch.uint8) & 0x7F == 0x7F).any())
    if not source.is_floating_point():
        return True
    low, high = torch.aminmax(source)
    return bool(torch.isfinite(low) and torch.isfinite(high))


def copy_rows(source: torch.Tensor, dest: torch.Tensor) -> None:
    """``dest.copy_(source)``, blockwise where ``dest`` is a transposed view: more than twice as fast there."""
    if source.dim() != 2 or dest.is_contiguous():
        dest.copy_(source)
        return
    for start in range(0, source.shape[0], _COPY_ROWS):
        rows = slice(start, start + _COPY_ROWS)
        dest[rows].copy_(source[rows].to(dest.dtype))


def open_checkpoint(folder: Path, stem: str = "model", quantized: bool = False) -> Checkpoint:
    """The checkpoint in ``folder``: ``<stem>.safetensors``, or the shards of ``<stem>.safetensors.index.json``.

    Reads and checks every header and no tensor. ``quantized`` lets tensors have the types of quantised layers.

    Raises:
        InputError: no such file, or one that is damaged or hostile.
    """
    return Checkpoint(folder, _entries(folder, tensor_files(folder, stem), quantized))


def open_file(path: Path) -> Checkpoint:
    """The tensors of one safetensors file. Reads and checks its header; raises InputError as ``open_checkpoint``."""
    return Checkpoint(path, _entries(path, (path,)))


def tensor_files(folder: Path, stem: str = "model") -> tuple[Path, ...]:
    """The safetensors files that ``open_checkpoint`` reads, by name; each lies in ``folder``."""
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        return (inside(folder, single.name),)
    if index.is_file():
        shards = sorted(set(_weight_map(inside(folder, index.name)).values()))
        for name in shards:
            if not inside(folder, name).is_file():
                raise InputError(f"{folder / name} is missing though the index names it: fetch the checkpoint again")
        return tuple(folder / name for name in shards)
    pickled = sorted(
        path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt") for path in folder.glob(pattern)
    )
    if pickled:
        raise InputError(f"{folder} has only pickled weights ({name_some(pickled)}): convert them to safetensors")
    raise InputError(f"{folder} has neither {single.name} nor {index.name}: expected a safetensors checkpoint")


def content_hash(folder: Path, stem: str = "model", stop: Event | None = None) -> str:
    """SHA-256 (hex) over the tensor files and the configuration: what the base's identity is made of.

    The files are hashed in parallel, each once a process: 270 MB take about 0.7 s. An interrupt, or ``stop`` from
    another thread, ends it within a few hundredths of a second (with ``CancelledError`` of ``concurrent.futures``).
    """
    files = tensor_files(folder, stem)
    configs = tuple(p for p in (folder / "config.json", folder / "generation_config.json") if p.is_file())
    stop = stop or Event()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            digests = list(pool.map(partial(known_sha256, stop=stop), files + configs))
        except BaseException:
            # Leaving the block waits for every file.
            stop.set()
            raise
    whole = hashlib.sha256()
    for path, digest in zip(files + configs, digests, strict=True):
        whole.update(f"{path.name} {digest}\n".encode())
    return whole.hexdigest()


def known_sha256(path: Path, stop: Event | None = None) -> str:
    """``file_sha256``, read once a process as long as size and times stay the same."""
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"can't read {path} ({error.strerror}): check its permissions or fetch it again") from None
    changed = max(found.st_mtime_ns, found.st_ctime_ns)
    if time.time_ns() - changed < RECENT:
        return file_sha256(path, stop)
    key = path.resolve(), found.st_size, changed
    if key not in _KNOWN:
        _KNOWN[key] = file_sha256(path, stop)
    return _KNOWN[key]


def file_sha256(path: Path, stop: Event | None = None) -> str:
    """SHA-256 (hex) of a file's bytes; InputError when it can't be read, CancelledError once ``stop`` is set."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(16 * 2**20):
                if stop is not None and stop.is_set():
                    raise CancelledError
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"can't read {path} ({error.strerror}): check its permissions or fetch it again") from None
    return digest.hexdigest()


def _weight_map(index: Path) -> dict[str, str]:
    weights = read_json(index).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise InputError(f"{index} has no weight_map: expected a safetensors index, fetch it again")
    if len(weights) > MAX_TENSORS:
        raise InputError(f"{index} lists {len(weights)} tensors, expected at most {MAX_TENSORS}: it isn't sound")
    for name, shard in weights.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            what = f"{one_line(name, 80)} into {show(shard, 80)}"
            raise InputError(f"{index} puts {what}, expected a safetensors file beside it: don't trust this checkpoint")
    return weights


def _entries(folder: Path, files: tuple[Path, ...], quantized: bool = False) -> dict[str, TensorEntry]:
    sizes = _ITEM_BYTES | _QUANTIZED_BYTES if quantized else _ITEM_BYTES
    entries: dict[str, TensorEntry] = {}
    for path in files:
        for name, entry in _read_header(path, sizes).items():
            if name in entries:
                raise InputError(f"{path} and {entries[name].file.name} both have {name}: fetch the checkpoint again")
            entries[name] = entry
    if len(entries) > MAX_TENSORS:
        raise InputError(f"{folder} has {len(entries)} tensors, expected at most {MAX_TENSORS}: it isn't sound")
    index = files[0].with_name(re.sub(r"(-\d+-of-\d+)?\.safetensors$", ".safetensors.index.json", files[0].name))
    if len(files) > 1 and index.is_file():
        listed = {(name, shard) for name, shard in _weight_map(index).items()}
        if odd := {name for name, _ in listed ^ {(name, entry.file.name) for name, entry in entries.items()}}:
            raise InputError(f"{index} and its shards disagree about {name_some(odd)}: fetch the checkpoint again")
    return entries


def _read_header(path: Path, sizes: Mapping[str, int]) -> dict[str, TensorEntry]:
    """The checked header of one file; ``sizes``: bytes of the types that it may have."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little") if size >= 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise InputError(
                f"{path} has {size} bytes and claims a header of {length}, expected 2 to {MAX_HEADER_BYTES} "
                "within the file: it is truncated or no safetensors file, fetch it again"
            )
        header = parse_object(file.read(length), f"{path} (header)")
    header.pop("__metadata__", None)
    if not 1 <= len(header) <= MAX_TENSORS:
        raise InputError(f"{path} has {len(header)} tensors, expected 1 to {MAX_TENSORS}: fetch it again")
    entries: dict[str, TensorEntry] = {}
    spans: list[tuple[int, int, str]] = []
    for name, fields in header.items():
        entries[name], start, end = _entry(path, name, fields, sizes)
        spans.append((start, end, name))
    position = 0
    for start, end, name in sorted(spans):
        if start != position:
            raise InputError(f"{path}: {name} starts at {start}, expected {position}: it is damaged, fetch it again")
        position = end
    if position != size - 8 - length:
        raise InputError(
            f"{path} has {size - 8 - length} bytes of tensors, its header says {position}: "
            "it is truncated or damaged, fetch it again"
        )
    return entries


def _entry(path: Path, name: str, fields: object, sizes: Mapping[str, int]) -> tuple[TensorEntry, int, int]:
    where = f"{path}: tensor {show(name, 120)}"
    if not _NAME.fullmatch(name) or ".." in name:
        raise InputError(
            f"{where} has a hostile name, expected letters, digits, '_', '-' and dots: don't use this file"
        )
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{where} isn't described by dtype, shape and data_offsets: fetch it again")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in sizes:
        raise InputError(f"{where} has dtype {one_line(dtype, 40)}, expected {', '.join(sizes)}: convert it first")
    if not _whole(shape) or len(shape) > 8 or 0 in shape:
        raise InputError(f"{where} has shape {one_line(shape, 80)}, expected sizes above 0: fetch it again")
    if not _whole(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * sizes[dtype]:
        raise InputError(f"{where} has offsets {one_line(offsets, 80)} that don't fit its shape: fetch it again")
    return TensorEntry(path, tuple(shape), dtype), offsets[0], offsets[1]


def _whole(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**48 for v in values)
