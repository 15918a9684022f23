"""Names of models to folders: a local folder, the built-in model, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Literal

from warmeng.common.errors import InputError, one_line, show
from warmeng.engine import builtin
from warmeng.engine.config import ModelConfig, read_config
from warmeng.engine.shapes import SHAPES, shape_config
from warmeng.engine.tensors import content_hash, file_sha256, open_checkpoint, tensor_files

BUILT_IN = (builtin.NAME,)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][\w./\-]{0,199}")
_WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt"]
_UNWANTED = ["*/*", "consolidated*"]  # other formats of the same weights
_BLOB_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ModelSource:
    """A model's name and where its files are."""

    name: str
    folder: Path
    origin: Literal["local", "built-in", "hub"]
    revision: str | None  # of the hub: the commit
    license: str | None  # SPDX, where known


@dataclass(frozen=True)
class ModelEntry:
    """A line of the list of built-in models."""

    name: str
    license: str
    description: str
    folder: Path
    fetched: bool


def _quiet(message: str) -> None:
    pass


def resolve_model(name: str, revision: str | None = None, log: Callable[[str], None] = _quiet) -> ModelSource:
    """Find the folder of model ``name``, fetching it when it isn't on this machine yet.

    Args:
        name: a folder, a built-in name, or ``owner/name`` on the hub.
        revision: a branch, tag or commit of the hub's repository; for nothing else.
        log: told what takes long before it begins.

    Raises:
        InputError: no such model, or it can't be fetched.
    """
    if name not in BUILT_IN and (folder := _local_folder(name)):
        _refuse_revision(name, revision, "a folder")
        return ModelSource(name, folder, "local", None, None)
    if name in BUILT_IN:
        _refuse_revision(name, revision, "built in")
        return ModelSource(name, builtin.ensure_built_in(log), "built-in", None, builtin.LICENSE)
    if not _HUB_NAME.fullmatch(name):
        raise InputError(
            f"no such model {show(name, 120)}: expected a folder that exists, a built-in name "
            f"({', '.join(BUILT_IN)}) or owner/name on the Hugging Face hub"
        )
    log(f"fetching {name} from the Hugging Face hub, or finding it in its cache")
    folder = _from_hub(name, revision, "model")
    return ModelSource(name, folder, "hub", folder.name, None)


def fetch_adapter(name: str, revision: str | None = None) -> Path:
    """Return the folder of the adapter in repository ``owner/name`` of the hub, fetched unless it is here.

    Raises ``InputError`` where there is none, or where it can't be fetched.
    """
    if not _HUB_NAME.fullmatch(name):
        raise InputError(f"no such adapter {show(name, 120)}: expected owner/name on the Hugging Face hub")
    return _from_hub(name, revision, "adapter")


def base_hash(source: ModelSource, stop: Event | None = None) -> str:
    """``content_hash`` of a model that is about to be used; ``stop`` ends it.

    Raises:
        InputError: a file can't be read, or the built-in model's files are not what they have to be.
    """
    found = content_hash(source.folder, stop=stop)
    if source.origin == "built-in":
        builtin.check(source.folder, found)
    return found


def find_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of a model that is on this machine already, None where there is none: nothing is fetched."""
    if name in BUILT_IN:
        built_in = builtin.built_in_folder()
        return built_in if builtin.is_complete(built_in) else None
    if folder := _local_folder(name):
        return folder
    if not _HUB_NAME.fullmatch(name) or (revision is not None and not _REVISION.fullmatch(revision)):
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except Exception:
        # Not in the cache: the library raises all kinds.
        return None


def read_shape(name: str, revision: str | None = None) -> ModelConfig:
    """The configuration of a model or of a known shape; of a repository on the hub nothing else is fetched.

    Raises:
        InputError: no such model or shape, or a configuration that is not supported.
    """
    if name in SHAPES:
        return shape_config(name)
    if (folder := find_folder(name, revision)) is not None:
        return read_config(folder)
    check_name(name, revision)
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(name, "config.json", revision=revision))
    except Exception as error:
        # The hub's client raises all kinds.
        why = f"{type(error).__name__}: {one_line(error, 160)}"
        raise InputError(
            f"no configuration of {name!r} here or on the hub ({why}): give a folder, or one of {', '.join(SHAPES)}"
        ) from None
    return read_config(path.parent)


def parse_name(name: str) -> tuple[str, str | None]:
    """Divide ``MODEL`` or ``MODEL@REVISION``; a folder may have an ``@`` in its name."""
    model, at, revision = name.rpartition("@")
    return (model, revision) if at and model and _local_folder(name) is None else (name, None)


def is_same(name: str, other: str) -> bool:
    """Whether two names are of one model as far as names tell: nothing is read."""
    folder = _local_folder(name)
    return name == other or (folder is not None and folder == _local_folder(other))


def check_name(name: str, revision: str | None = None) -> None:
    """Raise InputError for a name that no model can have; nothing is fetched, and no repository asked for."""
    if name in BUILT_IN or _local_folder(name) or not _HUB_NAME.fullmatch(name):
        if name in BUILT_IN:
            _refuse_revision(name, revision, "built in")
        else:
            resolve_model(name, revision)


def list_models() -> list[ModelEntry]:
    """The built-in models and whether they have been fetched."""
    folder = builtin.built_in_folder()
    what = "SmolLM2-135M-Instruct, from a 4-bit GGUF, 135M parameters, runs on any CPU"
    return [ModelEntry(builtin.NAME, builtin.LICENSE, what, folder, builtin.is_complete(folder))]


def verify_model(name: str, revision: str | None = None, log: Callable[[str], None] = _quiet) -> dict[str, str]:
    """Read all of a model again: SHA-256 of each file, compared wherever the expected one is known.

    That is the case for the built-in model and for the hub's large files. Headers of all tensor files are checked,
    and ``content_hash`` gives the identity of the base under the key ``content``.

    Raises:
        InputError: no such model, or a file that differs or is damaged.
    """
    source = resolve_model(name, revision, log)
    open_checkpoint(source.folder, quantized=True)
    if source.origin == "built-in":
        hashes = builtin.verify_files(source.folder)
    else:
        hashes = {path.name: _verified(path) for path in tensor_files(source.folder)}
    return {**hashes, "content": base_hash(source)}


def _verified(path: Path) -> str:
    """A file's SHA-256; the hub's cache names the blob that a link of a snapshot leads to by it."""
    found = file_sha256(path)
    blob = path.resolve().name
    if path.is_symlink() and _BLOB_SHA256.fullmatch(blob) and blob != found:
        raise InputError(f"{path} has SHA-256 {found[:12]}..., expected {blob[:12]}...: delete it and fetch it again")
    return found


def _local_folder(name: str) -> Path | None:
    try:
        folder = Path(name).expanduser()
        return folder.resolve() if name and folder.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, no such user
        return None


def _refuse_revision(name: str, revision: str | None, what: str) -> None:
    if revision is not None:
        raise InputError(f"revision {show(revision, 80)} is given but {name} is {what}: leave the revision out")


def _from_hub(repository: str, revision: str | None, what: str) -> Path:
    """Return the folder of a snapshot, whose name is the commit."""
    from huggingface_hub import snapshot_download

    if revision is not None and not _REVISION.fullmatch(revision):
        raise InputError(f"revision {show(revision, 80)} isn't a branch, tag or commit: correct it")
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except Exception as error:
        # Network, permissions, names, disk: the library and its clients raise all kinds.
        why = f"{type(error).__name__}: {one_line(error, 160)}"
        at = f" at revision {revision!r}" if revision else ""
        raise InputError(
            f"no such {what} {repository!r}{at} here or on the hub ({why}): check the name, the network, "
            "HF_HUB_OFFLINE and access"
        ) from None
