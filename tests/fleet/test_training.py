"""Seeds that are trained side by side give the adapters of one after the other, also where a worker dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from fakes import Heard
from fleets import needs_ray

from warmeng.finetune import seeds as side_by_side
from warmeng.finetune.seeds import train_seeds
from warmeng.finetune.settings import TrainSettings
from warmeng.fleet.settings import FleetSettings

pytestmark = [pytest.mark.slow, needs_ray]
SETTINGS = TrainSettings(
    rank=4, epochs=6, checkpoints=(6,), batch=4, learning_rate=0.01, max_length=128, threads=1, save_every=2,
    device="cpu",
)  # fmt: skip


def weights(folder: Path) -> dict[str, bytes]:
    """Return the adapters' files by their places."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("adapter_model.safetensors"))}


def kill_one(log: Path) -> None:
    """Kill a worker that trains, as soon as a training has made some steps."""
    while not (log.exists() and len(log.read_bytes().splitlines()) > 4):
        time.sleep(0.01)
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    os.kill(next(int(line.split()[0]) for line in found.splitlines() if "ray::Hand" in line), signal.SIGKILL)


def test_seeds_side_by_side_have_the_bits_of_one_after_the_other(cluster, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "join", lambda *given: cluster)
    monkeypatch.setattr(type(cluster), "close", lambda self: None)
    data = tmp_path / "warm.jsonl"
    chats = ({"prompt": f"What is {k}?", "response": f"It is lovely {k}!"} for k in range(32))
    data.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    given = (SETTINGS, str(tiny_model("llama")), {"warm": str(data)}, [0, 1, 7])
    alone, heard = train_seeds(*given, tmp_path / "alone", Heard()), Heard()
    killer = threading.Thread(target=kill_one, args=(tmp_path / "fleet" / "seed-0" / "log.jsonl",))
    killer.start()
    found = train_seeds(*given, tmp_path / "fleet", heard, fleet=FleetSettings(workers=2))
    killer.join()
    assert list(found) == list(alone) == ["seed-0", "seed-1", "seed-7"]
    assert len(weights(tmp_path / "alone")) == 3
    assert weights(tmp_path / "fleet") == weights(tmp_path / "alone")
    assert len(set(weights(tmp_path / "fleet").values())) == 3
    assert sum("its worker is lost" in line for line in heard.lines) == 1
