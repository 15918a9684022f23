"""The stages of one call on a card: each leaves its line, none ends another, and all run through the interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from warmeng.engine.shapes import shape_config

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "slot.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("fail", ["", "first", "second", "third"])
def test_a_stage_that_fails_ends_no_other(fail: str, shape: str, tmp_path: Path, monkeypatch) -> None:
    from warmeng.bench import slot as module
    from warmeng.bench.slot_state import Slot

    stages = {name: (lambda slot, name=name: {"found": name}) for name in ("first", "second", "third")}
    monkeypatch.setattr(module, "STAGES", stages)
    slot = Slot(tmp_path, "interpret", shape, True, time.monotonic() + 100, shape_config(shape))
    plan = (("first", 1.0), ("second", 1.0), ("late", 1e6), ("third", 1.0))
    assert module.run_stages(slot, plan, fail) == ([fail] if fail else [])
    found = {line["stage"]: line for line in lines(tmp_path)}
    assert list(found) == ["first", "second", "late", "third"]
    for name in stages:
        assert found[name].get("found") == (None if name == fail else name)
        assert found[name].get("failed") == ("RuntimeError: made to fail" if name == fail else None)
    assert "it needs 1000000" in found["late"]["left_out"]
    assert found["first"]["backend"] == "cpu"


def test_plans_name_stages_that_are_there() -> None:
    from warmeng.bench.slot import PLANS, STAGES

    assert {name for plan in PLANS.values() for name, _ in plan} <= set(STAGES)


def test_a_profile_adds_up() -> None:
    """Overlapping kernels are counted once in what is busy; what lies between is idle."""
    from warmeng.bench.profile import profile_lines, summarise

    spans = [(0.0, 10.0, "void product(int)"), (5.0, 12.0, "attention"), (20.0, 30.0, "void product(int)")]
    found = summarise("two steps", 2, 64, 1e-4, spans)
    assert found.seconds == pytest.approx(30e-6)
    assert found.idle == pytest.approx(8e-6)
    assert [(k.name, k.calls) for k in found.kernels] == [("product", 2), ("attention", 1)]
    assert found.kernels[0].share == pytest.approx(20 / 30)
    assert "26.7% idle" in profile_lines(found)[0]
    assert summarise("none", 1, 0, 0.0, []).seconds == 0


def test_steps_by_rows() -> None:
    from warmeng.bench.stages import by_rows

    found = by_rows([(4096, 0.1), (1024, 0.04), (1000, 0.02), (513, 0.03), (0, 0.001)])
    assert [(g["rows_up_to"], g["steps"]) for g in found] == [(1, 1), (1024, 3), (4096, 1)]
    assert found[1]["median_ms"] == pytest.approx(30)
    assert found[1]["sum_s"] == pytest.approx(0.09)


@pytest.mark.slow
def test_all_stages_run_through_the_interpreter(shape: str, tmp_path: Path) -> None:
    """A rehearsal of everything that a card would be asked for; the bits agree there too."""
    stages = "roofline,deterministic,invariance,oracle,fast,grade,kernels,huggingface"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    quickly = (
        "import interpreting, runpy; interpreting.prepare(); runpy.run_module('warmeng.bench.slot', None, '__main__')"
    )
    command = [sys.executable, "-c", quickly, str(tmp_path), stages, "--device", "interpret", "--tiny",
               "--shape", shape, "--seconds", "900"]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {line["stage"]: line for line in lines(tmp_path)}
    assert list(found) == stages.split(",")
    assert not any("failed" in line or "left_out" in line for line in found.values())
    assert set(found["invariance"]["differing"].values()) == {0}
    assert found["oracle"]["ours_max"] < 1e-4
    assert found["grade"]["rate"] > 0
    assert all(k["failed"] is None for k in found["kernels"]["kernels"])
