"""A cluster of several nodes, one of which is lost."""

from __future__ import annotations

import os
from dataclasses import replace

import psutil
import pytest
from fakes import Heard
from fleets import harm_first_at_work, needs_ray
from studies import lines, widened

from warmeng.common.errors import UsageError
from warmeng.fleet import engine as fleet_engine
from warmeng.fleet.cluster import ENVIRONMENT, join
from warmeng.fleet.settings import FleetSettings
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings

pytestmark = [pytest.mark.slow, needs_ray]


@pytest.fixture
def nodes(monkeypatch):
    """A head without cores and three nodes of one core."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
    for _ in range(3):
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def node_of(nodes, member):
    """Return the node whose process started a member's."""
    parent = psutil.Process(member.about.pid).ppid()
    started = {node.all_processes["raylet"][0].process.pid: node for node in nodes.worker_nodes}
    return started[parent]


def test_a_lost_node_loses_and_doubles_nothing(nodes, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("warmeng.study.run.finish.conclude", lambda *given: True)
    monkeypatch.setattr(fleet_engine, "PROBE_SECONDS", 0.5)
    model = widened(tiny_model("llama"), tmp_path / "model")
    settings = StudySettings(model=str(model), limit=3, max_new_tokens=16, warmth_prompts=0, stall_seconds=60)
    assert run_study(settings, tmp_path / "whole", Heard()).exit_code == 0
    lost = harm_first_at_work(
        monkeypatch, lambda member: nodes.remove_node(node_of(nodes, member), allow_graceful=False)
    )
    heard = Heard()
    fleet = FleetSettings(address=nodes.address)  # as many as there is room for: one a node
    assert run_study(replace(settings), tmp_path / "r", heard, fleet=fleet).exit_code == 0
    assert sorted(lines(tmp_path / "r")) == sorted(lines(tmp_path / "whole"))
    assert any("3 workers with 1 CPU core each" in line for line in heard.lines)
    (line,) = (line for line in heard.lines if "is lost" in line)
    assert f"process {lost[0].about.pid}" in line


@pytest.mark.full
def test_more_workers_than_there_is_room_for_are_refused(nodes):
    with pytest.raises(UsageError, match=r"has 3 CPU cores on 4 nodes, room for 3 workers of 1 cores, not for 4"):
        join(FleetSettings(address=nodes.address, workers=4), "cpu")
    with pytest.raises(UsageError, match="0 GPUs"):
        join(FleetSettings(address=nodes.address), "cuda")
    assert not os.environ.get("RAY_ADDRESS")
