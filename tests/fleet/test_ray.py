"""The default study on a tiny model by two workers of a Ray cluster: the records of one process, whatever happens."""

from __future__ import annotations

import subprocess

import pytest
from fakes import Heard
from studies import lines, widened

from warmeng.study.run import fleet as fleets
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def settings(tiny_model, tmp_path_factory):
    """The default study, small, on a tiny model."""
    model = widened(tiny_model("llama"), tmp_path_factory.mktemp("fleet") / "model")
    return StudySettings(model=str(model), limit=4, max_new_tokens=24, warmth_prompts=2, stall_seconds=60)


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
    """Runs the study by the cluster's workers; returns the records and what was said."""
    monkeypatch.setattr(fleets, "join", lambda *given: cluster)
    monkeypatch.setattr(type(cluster), "close", lambda self: None)

    def run(folder, heard=None, **changes):
        from dataclasses import replace

        from warmeng.fleet.settings import FleetSettings

        heard = heard or Heard()
        done = run_study(replace(settings, **changes), folder, heard, fleet=FleetSettings(workers=2))
        return done.exit_code, sorted(lines(folder)), heard.lines

    yield run
    monkeypatch.undo()


def workers_of(cluster):
    """Return the processes of the actors that are alive."""
    from ray.util.state import list_actors  # noqa: F401

    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if "ray::Worker" in line]


def test_two_workers_leave_the_records_of_one_process(ask, whole, tmp_path):
    code, found, said = ask(tmp_path / "r")
    assert code == 0
    assert found == whole
    assert any("2 workers with 1 CPU core each" in line for line in said)
    assert not any("lost" in line or "taken out" in line for line in said)
