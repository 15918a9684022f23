"""What files were when they were used, so that it can be told later, cheaply, whether they are the same.

Of each file are kept its size, its times and the SHA-256 of its content. Where size and times are what they were, the
content is not read again; where they are not (a file was replaced, or only copied or touched), the content decides.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError
from warmeng.engine.adapters import is_merged
from warmeng.engine.tensors import RECENT, known_sha256

TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "tokenizer.model", "vocab.json", "merges.txt",
)  # fmt: skip


def model_files(folder: Path) -> tuple[Path, ...]:
    """Return the files in a model's folder that its answers depend on, by name."""
    return _files(folder, "model", ("config.json", "generation_config.json", *TOKENIZER))


def adapter_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of an adapter, or of the merged checkpoint that stands for one, by name.

    An adapter's own tokenizer is not among them: it answers with its base's.
    """
    return model_files(folder) if is_merged(folder) else _files(folder, "adapter_model", ("adapter_config.json",))


def _files(folder: Path, stem: str, others: Iterable[str]) -> tuple[Path, ...]:
    whole = folder / f"{stem}.safetensors"
    tensors = [whole] if whole.is_file() else [*folder.glob(f"{stem}-*.safetensors"), *folder.glob(f"{stem}.*.json")]
    return tuple(sorted({path for path in (*tensors, *(folder / name for name in others)) if path.is_file()}))


def appearance(files: Iterable[Path]) -> list[tuple[object, ...]]:
    """Return what files look like, without reading them: equal before and after their use, they were not replaced.

    Raises InputError where one is gone.
    """
    found: list[tuple[object, ...]] = []
    for path in files:
        try:
            s = path.stat()
        except OSError as error:
            raise InputError(f"can't read {path} ({error.strerror}): check its permissions or fetch it again") from None
        found.append((path.name, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns))
    return found


def stamp(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return what files are now, by name: JSON types only. Raises InputError where one can't be read."""
    return {path.name: {"state": _state(path), "sha256": known_sha256(path)} for path in files}


def contents(files: Iterable[Path], before: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the SHA-256 of files by name; those that look as they did ``before`` are not read."""
    found = {}
    for path in files:
        kept = before.get(path.name, {})
        state = _state(path)
        found[path.name] = str(kept["sha256"]) if state and state == kept.get("state") else known_sha256(path)
    return found


def _state(path: Path) -> list[int] | None:
    """Return size and times (nanoseconds) of a file; None where it was changed too recently to be known by them."""
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"can't read {path} ({error.strerror}): check its permissions or fetch it again") from None
    recent = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < RECENT
    return None if recent else [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
