"""What an interrupted run continues from: parameters, moments, the step, and the log up to it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from warmeng.common.errors import InputError, one_line
from warmeng.common.files import parse_json
from warmeng.common.storage import storage, write_atomic
from warmeng.engine.tensors import open_checkpoint
from warmeng.finetune.lora import AdapterParameters
from warmeng.finetune.optim import Adam

STATE = "state.safetensors"
LOG = "log.jsonl"
Record = dict[str, Any]


def save_state(
    folder: Path, step: int, adapters: Mapping[str, AdapterParameters], optimisers: Mapping[str, Adam]
) -> None:
    """Write the state after ``step`` steps, atomically. Raises StorageError."""
    from safetensors.torch import save

    tensors = {}
    for name, adapter in adapters.items():
        moments = optimisers[name]
        for part, tensor in (("flat", adapter.flat), ("first", moments.first), ("second", moments.second)):
            tensors[f"{name}.{part}"] = tensor.detach().cpu()
    steps = {name: optimiser.steps for name, optimiser in optimisers.items()}
    write_atomic(folder / STATE, save(tensors, metadata={"step": str(step), "updates": json.dumps(steps)}))


def load_state(folder: Path, adapters: Mapping[str, AdapterParameters], optimisers: Mapping[str, Adam]) -> int:
    """Put the saved state in place and return the number of steps done; 0 where nothing is saved.

    Raises InputError for a damaged file.
    """
    from safetensors import safe_open

    path = folder / STATE
    if not path.is_file():
        return 0
    checkpoint = open_checkpoint(folder, "state")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
        step, updates = int(about["step"]), json.loads(about["updates"])
        for name, adapter in adapters.items():
            moments = optimisers[name]
            moments.steps = int(updates[name])
            for part, tensor in (("flat", adapter.flat), ("first", moments.first), ("second", moments.second)):
                checkpoint.read_into(f"{name}.{part}", tensor)
    except (KeyError, ValueError, TypeError) as error:  # InputError is a ValueError
        raise InputError(f"{path} can't be continued from ({one_line(error, 120)}): remove the run folder") from None
    checkpoint.finish()
    return step


class Log:
    """``log.jsonl``, one line a step. Lines beyond the saved state are of steps that will be made again."""

    def __init__(self, folder: Path, step: int) -> None:
        """Keep the records of the first ``step`` steps and drop the others, a torn last line among them."""
        self.path = folder / LOG
        self.records: list[Record] = []
        if self.path.is_file():
            for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], start=1):
                record = parse_json(line.decode("utf-8", "replace"), f"{self.path}:{number}")
                if isinstance(record, dict) and record.get("step", 0) <= step:
                    self.records.append(record)
        kept = "".join(json.dumps(record) + "\n" for record in self.records)
        write_atomic(self.path, kept.encode())
        with storage(self.path):
            self._file = self.path.open("ab")

    def append(self, record: Record) -> None:
        """Write one line. Raises StorageError."""
        self.records.append(record)
        with storage(self.path):
            self._file.write((json.dumps(record) + "\n").encode())
            self._file.flush()

    def sync(self) -> None:
        """Make the lines durable."""
        with storage(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        with storage(self.path):
            self._file.close()


def device_of(name: str) -> torch.device:
    """Return the device that a setting means. Raises InputError where it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but PyTorch sees no GPU here: use 'cpu' or 'auto'")
    return torch.device(name)
