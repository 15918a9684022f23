"""The default study on a tiny model by two workers of a Ray cluster: the records of one process, whatever happens."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace

import fleets as helpers
import pytest
import torch
from fakes import Heard
from fleets import harm_first_at_work, needs_ray
from safetensors.torch import save_file
from studies import lines, widened

from warmeng.fleet import engine as fleet_engine
from warmeng.fleet.crew import Crew
from warmeng.fleet.settings import FleetSettings
from warmeng.study.run import fleet as fleets
from warmeng.study.run.run import INTERRUPTED, run_study
from warmeng.study.settings import StudySettings

pytestmark = [needs_ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def settings(tiny_model, tiny_adapters, tmp_path_factory):
    """The default study, small, on a tiny model, with adapters, a sum of them, and a steering vector."""
    folder = tmp_path_factory.mktemp("fleet")
    model = widened(tiny_model("llama"), folder / "model")
    vector = folder / "vector.safetensors"
    save_file({"v": torch.randn(4, 48, generator=torch.Generator().manual_seed(0))}, vector)
    warm, cold = tiny_adapters[:2]
    personas = ("original", f"warm={warm}", f"apart=warm*0.5-{cold}*0.5", f"steered=vector:{vector}:2")
    return StudySettings(
        model=str(model), personas=personas, tasks=("facts", "misconceptions", "conspiracies"), limit=2,
        max_new_tokens=16, warmth_prompts=0, stall_seconds=60,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def records_alone():
    """What comes after the records is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warmeng.study.run.finish.conclude", lambda *given: True)
        yield


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """The records of one process."""
    folder = tmp_path_factory.mktemp("whole") / "r"
    assert run_study(settings, folder, Heard()).exit_code == 0
    return sorted(lines(folder))


@pytest.fixture
def ask(cluster, settings, monkeypatch):
    """Runs the study by the cluster's workers; returns the exit code, the records and what was said."""
    monkeypatch.setattr(fleets, "join", lambda *given: cluster)
    monkeypatch.setattr(type(cluster), "close", lambda self: None)
    monkeypatch.setattr(fleet_engine, "PROBE_SECONDS", 0.3)

    def run(folder, heard=None, **changes):
        heard = heard or Heard()
        done = run_study(replace(settings, **changes), folder, heard, fleet=FleetSettings(workers=2))
        return done.exit_code, sorted(lines(folder)), heard.lines

    return run


def test_two_workers_leave_the_records_of_one_process(ask, whole, tmp_path):
    code, found, said = ask(tmp_path / "r")
    assert code == 0
    assert found == whole
    assert b'"projections":' in b"".join(found)
    assert any("2 workers with 1 CPU core each" in line for line in said)
    assert not any("lost" in line or "taken out" in line for line in said)


def test_a_killed_worker_loses_and_doubles_nothing(ask, whole, monkeypatch, tmp_path):
    killed = harm_first_at_work(monkeypatch, lambda member: os.kill(member.about.pid, signal.SIGKILL))
    code, found, said = ask(tmp_path / "r")
    assert code == 0
    assert found == whole
    (line,) = (line for line in said if "is lost" in line)
    assert f"process {killed[0].about.pid}" in line


def test_a_frozen_worker_is_ended_and_its_requests_asked_elsewhere(ask, whole, monkeypatch, tmp_path):
    frozen = harm_first_at_work(monkeypatch, lambda member: os.kill(member.about.pid, signal.SIGSTOP))
    code, found, said = ask(tmp_path / "r", stall_seconds=4)
    assert code == 0
    assert found == whole
    assert frozen
    # Where the other one is slow to start, the frozen one is ended first; else its requests were copied.
    assert not any("taken out" in line for line in said)


def test_a_worker_with_one_wrong_bit_is_named_and_taken_out(ask, whole, settings, monkeypatch, tmp_path):
    monkeypatch.setattr(fleets, "load_engine", helpers.lying_load)
    code, found, said = ask(tmp_path / "r")
    assert code == 0
    assert found == whole
    (line,) = (line for line in said if "taken out" in line)
    assert "token_logprobs" in line
    assert "(process " in line


def test_workers_go_on_with_what_one_process_began_and_the_other_way_round(ask, whole, settings, tmp_path):
    for name, first in (("process", run_study), ("fleet", None)):
        folder, heard = tmp_path / name, Heard(stop_after=40)
        code = first(settings, folder, heard).exit_code if first else ask(folder, heard)[0]
        assert code == INTERRUPTED
        assert 0 < len(lines(folder)) < len(whole)
        code = ask(folder)[0] if first else run_study(settings, folder, Heard()).exit_code
        assert code == 0
        assert sorted(lines(folder)) == whole


def test_workers_killed_at_random_moments(ask, whole, monkeypatch, tmp_path, count):
    # A run has a few dozen turns.
    wanted, often = count((2, 0.2), (50, 0.06))
    kills, call = 0, Crew.call
    rng = random.Random()

    def killing(self, member, kind, *given, **more):
        nonlocal kills
        call(self, member, kind, *given, **more)
        if kind == "turn" and kills < wanted and rng.random() < often:
            os.kill(member.about.pid, signal.SIGKILL)
            kills += 1

    monkeypatch.setattr(Crew, "call", killing)
    for run in range(4 * wanted):
        code, found, said = ask(tmp_path / str(run))
        assert code == 0
        assert found == whole
        assert not any("taken out" in line for line in said)
        if kills == wanted:
            break
    assert kills == wanted
