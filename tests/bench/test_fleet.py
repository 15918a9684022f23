"""The bench of fleets: its engine takes the time that it says, and what it measures is told."""

from __future__ import annotations

import time

import pytest
from fleets import needs_ray

from warmeng.bench.fleet import REQUESTS, FleetResult, TimedEngine, measure_fleet, plan, record
from warmeng.bench.tables import fleet_lines


def test_the_timed_engine_takes_the_time_of_its_answers() -> None:
    asked = list(plan(50))
    engine = TimedEngine(rate=50_000.0)
    began = time.monotonic()
    for request in asked:
        engine.add(request)
    engine.cancel(asked[-1].id)
    found = []
    while engine.busy:
        engine.step()
        found += engine.take()
    took, ideal = time.monotonic() - began, sum(r.sampling.max_new_tokens for r in asked[:-1]) / 50_000.0
    assert [r.id for r in found] == [r.id for r in asked[:-1]]
    assert [len(r.token_ids) for r in found] == [r.sampling.max_new_tokens for r in asked[:-1]]  # type: ignore[union-attr]
    assert ideal <= took < ideal + 1.0
    assert record(found[0])["key"] == asked[0].id


def test_what_a_fleet_took_is_told() -> None:
    result = FleetResult(8, REQUESTS, 13_970.0, 11.5, 300.0, 297.0, 37.5, 500 * 2**20)
    assert result.share == pytest.approx(0.99)
    head, row, what = fleet_lines([result])
    assert row.split() == ["8", "300.0", "297.0", "99.0%", "444", "37.5", "3,550", "500"]
    assert "133,125 answers, 13,970 output tokens/s" in what
    assert head.startswith("workers")


@needs_ray
@pytest.mark.slow
def test_a_small_fleet_answers_the_workload() -> None:
    said: list[str] = []
    result = measure_fleet(2, 400, 20_000.0, said.append)
    assert result.requests == 400
    assert 0.2 < result.share <= 1.0
    assert result.driver_cpu > 0
    assert not any("lost" in line for line in said)
