"""What a figure was measured on, and the JSON line that it is kept in."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson
import torch

from warmeng.common.errors import UsageError
from warmeng.common.version import commit as commit_of_clone

RESULTS = Path(__file__).parent / "results"
OUT_OF_MEMORY = "out of memory"
_PACKAGES = ("torch", "triton", "transformers", "peft", "trl", "warmeng")


@dataclass(frozen=True)
class Environment:
    """The device and the software of one measurement."""

    device: str  # the card's name, or the processor's
    backend: str  # "cuda" or "cpu"
    driver: str | None  # NVIDIA's
    cuda: str | None  # that PyTorch was built for
    processors: int  # multiprocessors, or threads of PyTorch
    memory: int  # bytes of the card; 0 on a CPU
    versions: dict[str, str | None]
    # This repository's commit, with "-changed" at its end where files differ from it.
    commit: str | None


def pick_device(device: str) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` means here. Raises UsageError where there is no CUDA."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("PyTorch finds no CUDA device: use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def environment(device: torch.device) -> Environment:
    """Return what is known of ``device`` and of the software."""
    on_card = device.type == "cuda"
    about = torch.cuda.get_device_properties(device) if on_card else None
    return Environment(
        device=about.name if about else processor(),
        backend=device.type,
        driver=_first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_card else None,
        cuda=torch.version.cuda if on_card else None,
        processors=about.multi_processor_count if about else torch.get_num_threads(),
        memory=about.total_memory if about else 0,
        versions=versions(_PACKAGES),
        commit=commit(),
    )


def processor() -> str:
    """Return the processor's name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each distribution; None where it isn't installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def commit() -> str | None:
    """Return ``WARMENG_COMMIT`` where it is set, as for a copy of a tree; else this repository's commit, or None."""
    return os.environ.get("WARMENG_COMMIT") or commit_of_clone()


def slug(device: str) -> str:
    """Return a short name of a card for file names: ``NVIDIA H100 80GB HBM3`` is ``h100``."""
    words = [w for w in re.split(r"[\s\-]+", device) if w.lower() not in ("nvidia", "geforce", "tesla")]
    last = next((i for i, word in enumerate(words) if re.search(r"\d", word)), 0)
    return re.sub(r"[^a-z0-9\-]", "", "-".join(words[: last + 1]).lower()) or "unknown"


def line(bench: str, where: Environment, fields: Mapping[str, Any]) -> str:
    """Return one measurement as a JSON line."""
    record = {"bench": bench, **asdict(where), **fields}
    return orjson.dumps(record, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_DATACLASS).decode()


def save(bench: str, where: Environment, text: str, folder: Path) -> Path:
    """Append a line to ``<bench>-<device>.jsonl`` in ``folder`` and return the file."""
    name = slug(where.device) if where.backend == "cuda" else where.backend
    path = folder / f"{bench}-{name}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")
    return path


class Partial:
    """What a bench has so far, as the one line of a separate file, for a bench that ends before ``save`` is reached.

    The file has the process's number in its name and another ending than saved lines, so nothing reads it by accident.
    """

    def __init__(self, bench: str, device: torch.device, folder: Path | None) -> None:
        """``folder``: where lines are saved; with None nothing is kept."""
        self._bench = bench
        self._where = environment(device) if folder is not None else None
        self._path = folder / f"{bench}-{os.getpid()}.partial" if folder is not None else None

    def keep(self, fields: Mapping[str, Any]) -> None:
        """Put these fields in the place of those before."""
        if self._path is None or self._where is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".new")
        beside.write_text(line(self._bench, self._where, fields) + "\n", encoding="utf-8")
        beside.replace(self._path)

    def remove(self) -> None:
        """Take the file away: all of it is saved now."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def read(folder: Path, bench: str) -> list[dict[str, Any]]:
    """Return the saved lines of a bench, of all devices, oldest first within each."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob(f"{bench}-*.jsonl")):
        lines = (orjson.loads(text) for text in path.read_bytes().split(b"\n") if text.strip())
        found.extend(record for record in lines if record.get("bench") == bench)
    return found


def _first_line(*command: str) -> str | None:
    """Return the first line that a command prints; None where it fails or isn't there."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None
