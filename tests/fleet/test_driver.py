"""The driver of a fleet killed or interrupted: the same command goes on, and Ray's processes end by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time

import pytest
from fleets import needs_ray
from studies import lines, widened
from tiers import full

pytestmark = [pytest.mark.slow, needs_ray]


@pytest.fixture
def short():
    """A folder with a path that is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="wf", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


def ray_processes(folder):
    """Return the command lines of Ray's processes whose files are in a folder."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if folder in line]


@pytest.mark.parametrize(("number", "code"), [*full((signal.SIGKILL, -9)), (signal.SIGINT, 130)])
def test_a_driver_that_ends_early_is_continued(number, code, real_launcher, tiny_model, tmp_path, short):
    model = widened(tiny_model("llama"), tmp_path / "model")
    command = ["run", "--model", model, "--limit", "6", "--max-new-tokens", "16", "--warmth-prompts", "0", "--out"]
    done = real_launcher.run([*command, tmp_path / "whole"])
    assert done.code == 0, done.err
    whole = sorted(lines(tmp_path / "whole"))
    folder = tmp_path / "r"
    fleet = [*command, folder, "--ray", "--workers", "2", "--worker-cores", "1"]
    process = real_launcher.start(fleet, setup=["fleets", "hurry", short])
    end = time.monotonic() + 120
    while not lines(folder):
        assert time.monotonic() < end, process.err.read_text()
        time.sleep(0.005)
    process.kill(number)
    assert process.wait().code == code
    kept = set(lines(folder))
    assert 0 < len(kept) < len(whole)
    print("KEPT", len(kept), len(whole))
    end = time.monotonic() + 60
    assert number != signal.SIGKILL or os.listdir(short)  # Ray was started there
    while ray_processes(short):
        assert time.monotonic() < end, ray_processes(short)
        time.sleep(0.2)
    done = real_launcher.run(fleet, setup=["fleets", "hurry", short])
    assert done.code == 0, done.err
    assert sorted(lines(folder)) == whole
    assert kept <= set(whole)
    assert not ray_processes(short)
