"""Requests over pretended workers: every order, loss, freeze and lie leaves each request answered once, and rightly."""

from __future__ import annotations

import random
import time
from collections import Counter
from functools import partial

import pytest
from fakes import FakeAdapter
from fleets import VOCAB, PretendedCluster, SteppingEngine, pretended_fleet

from warmeng.common.errors import InputError, UsageError
from warmeng.engine.request import GenerateRequest, RequestError, SamplingParams, ScoreRequest
from warmeng.fleet import crew
from warmeng.fleet.crew import NoWorkers
from warmeng.fleet.jobs import run_jobs
from warmeng.fleet.settings import FleetSettings
from warmeng.fleet.shards import BLOCK, MOST, PARTS, TOGETHER, cut, shared


def requests(count, seed=0, adapters=(None,)):
    rng = random.Random(seed)
    found = []
    for k in range(count):
        prompt = tuple(rng.randrange(1, VOCAB) for _ in range(rng.randrange(1, 80)))
        adapter = rng.choice(adapters)
        if rng.random() < 0.5:
            found.append(ScoreRequest(f"{k:08x}", prompt, ((5,), (6, 7)), adapter))
        else:
            found.append(GenerateRequest(f"{k:08x}", prompt, SamplingParams(max_new_tokens=9), adapter, ("i", k)))
    return found


def truth(asked):
    engine = SteppingEngine()
    return Counter(map(repr, map(engine._result, asked)))


def ask_all(fleet, asked, more=()):
    """Ask, adding ``more`` while results are read, and return what came."""
    for request in asked:
        fleet.add(request)
    later, found = iter(more), []
    for result in fleet.results():
        found.append(result)
        if (extra := next(later, None)) is not None:
            fleet.add(extra, urgent=True)
    return Counter(map(repr, found))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("warmeng.fleet.engine.TURN", 0.0005)
    monkeypatch.setattr("warmeng.fleet.engine.HELD", 20)
    monkeypatch.setattr("warmeng.fleet.crew.TICK", 0.0001)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_request_is_answered_once_as_one_engine_answers_it(workers):
    said = []
    fleet = pretended_fleet(PretendedCluster(workers), SteppingEngine, said)
    asked, more = requests(300), [GenerateRequest(f"m{k}", (k + 1,)) for k in range(40)]
    assert ask_all(fleet, asked, more) == truth([*asked, *more])
    assert not said
    assert [r.id for r in fleet.score([a for a in asked if isinstance(a, ScoreRequest)])] == [
        a.id for a in asked if isinstance(a, ScoreRequest)
    ]


def test_workers_that_die_at_any_call_lose_and_double_nothing(count):
    losses = 0
    for seed in range(count(20, 200, 8)):
        rng = random.Random(seed)

        def fault(worker, call, rng=rng):
            if call.method == "turn" and rng.random() < 0.03:
                worker.dead = True

        said = []
        fleet = pretended_fleet(PretendedCluster(4, seed, fault), SteppingEngine, said)
        fleet.add_adapter("warm", FakeAdapter("a" * 64, False))
        asked = requests(300, seed, (None, "warm"))
        assert ask_all(fleet, asked) == truth(asked), f"seed {seed}"
        assert all(" is lost " in line and "(it was killed)" in line for line in said)
        losses += len(said)
    assert losses > seed


def test_frozen_workers_are_ended_and_their_requests_asked_again(count):
    for seed in range(count(10, 100, 3)):
        frozen = []

        def fault(worker, call, frozen=frozen):
            if call.method == "turn" and len(frozen) < 2 and worker.worker._engine.answers > 25:
                worker.frozen = True
                frozen.append(worker)

        said = []
        fleet = pretended_fleet(PretendedCluster(3, seed, fault), SteppingEngine, said, patience=0.005)
        asked = requests(300, seed)
        assert ask_all(fleet, asked) == truth(asked), f"seed {seed}"
        assert sum("no sign of life" in line for line in said) >= 1


@pytest.mark.parametrize("probes", [0.0, 100.0])
def test_what_a_frozen_worker_has_is_asked_of_one_without_work(monkeypatch, probes):
    monkeypatch.setattr("warmeng.fleet.engine.LATE", 0.0)
    monkeypatch.setattr("warmeng.fleet.engine.QUIET", 0.01)
    monkeypatch.setattr("warmeng.fleet.engine.PROBE_SECONDS", probes)  # whether it holds answers then
    frozen = []

    def fault(worker, call):
        if call.method == "turn" and not frozen and worker.worker._engine.answers > 25:
            worker.frozen = True
            frozen.append(worker)

    said = []
    fleet = pretended_fleet(PretendedCluster(2, 1, fault), SteppingEngine, said)  # no patience: never ended
    asked = requests(200)
    assert ask_all(fleet, asked) == truth(asked)
    assert frozen
    assert not said


@pytest.mark.parametrize("after", [0, 7, 60, 200])
def test_a_worker_with_wrong_bits_is_named_and_leaves_nothing(after):
    said = []
    make = lambda k: SteppingEngine(k, lies_after=after if k == 1 else None)  # noqa: E731
    fleet = pretended_fleet(PretendedCluster(3), make, said)
    asked = requests(900)
    assert ask_all(fleet, asked) == truth(asked)
    assert len(said) == 1
    assert "worker 2 (process " in said[0]
    assert "taken out" in said[0]
    assert "prompt_tokens" in said[0]


def test_two_workers_that_differ_from_the_start_are_both_named():
    make = lambda k: SteppingEngine(k, lies_after=0 if k == 1 else None)  # noqa: E731
    fleet = pretended_fleet(PretendedCluster(2), make, [])
    with pytest.raises(InputError, match=r"worker \d .* and worker \d .* do not agree, and no majority"):
        ask_all(fleet, requests(10))


def test_a_worker_with_other_weights_is_refused_by_name():
    said = []
    make = lambda k: SteppingEngine(k, weights=("x" if k == 2 else "w") * 64)  # noqa: E731
    fleet = pretended_fleet(PretendedCluster(4), make, said)
    assert len(said) == 1
    assert "worker 3" in said[0]
    assert "its weights is 'xxxx" in said[0]
    asked = requests(100)
    assert ask_all(fleet, asked) == truth(asked)


def test_a_later_worker_must_be_as_the_first_ones_were():
    def fault(worker, call):
        if call.method == "turn" and worker.number == 0 and worker.worker._engine.answers > 9:
            worker.dead = True

    said = []
    make = lambda k: SteppingEngine(k, weights=("x" if k > 2 else "w") * 64)  # noqa: E731
    fleet = pretended_fleet(PretendedCluster(3, fault=fault), make, said)
    asked = requests(300)
    assert ask_all(fleet, asked) == truth(asked)
    assert any("worker 1" in line and "taken out" in line and "weights" in line for line in said)


def test_all_workers_gone_is_one_line_that_says_so():
    def fault(worker, call):
        worker.dead = worker.dead or call.method == "turn"

    said = []
    fleet = pretended_fleet(PretendedCluster(2, fault=fault), SteppingEngine, said)
    with pytest.raises(NoWorkers, match="no worker is left"):
        ask_all(fleet, requests(50))
    assert sum("it is given up" in line for line in said) == 2
    assert len(said) == 2 * crew.MOST_LOSSES


def test_other_templates_than_the_drivers_are_refused():
    def make(k):
        engine = SteppingEngine(k)
        engine.tokenizer.template_hash = "u" * 64
        return engine

    with pytest.raises(InputError, match="the workers' template is 'uuu"):
        pretended_fleet(PretendedCluster(2), make, [])


def test_what_no_worker_can_load_is_said_as_one_engine_says_it():
    def make(k):
        raise InputError("no such model 'x': give another")

    cluster = PretendedCluster(2)
    with pytest.raises(InputError, match="no such model"):
        pretended_fleet(cluster, make, [])


def test_requests_that_make_no_sense_are_refused_when_they_are_added():
    fleet = pretended_fleet(PretendedCluster(1), SteppingEngine, [])
    fleet.add(GenerateRequest("a", (1,)))
    for bad in (GenerateRequest("a", (1,)), GenerateRequest("b", (1,), adapter="none"), GenerateRequest("c", ())):
        with pytest.raises(RequestError):
            fleet.add(bad)
    assert [r.id for r in fleet.results()] == ["a"]


def test_reading_ends_early_where_it_is_interrupted():
    fleet = pretended_fleet(PretendedCluster(2), SteppingEngine, [])
    for request in requests(200):
        fleet.add(request)
    interrupted = []
    for count, _ in enumerate(fleet.results(interrupted)):
        if count == 5:
            interrupted.append(2)
    assert count < 199


def test_shards_keep_neighbours_together_and_have_all_requests():
    prefix = tuple(range(1, 1 + 3 * BLOCK))
    alike = [ScoreRequest(f"a{k}", (*prefix, k), ((5,),)) for k in range(MOST * TOGETHER + 9)]
    pairs = [GenerateRequest(f"p{k}{x}", (9, k % VOCAB, *range(40)), adapter=x) for k in range(200) for x in ("u", "v")]
    found = cut([*pairs, *alike], 4)
    assert Counter(r.id for s in found for r in s.requests) == Counter(r.id for r in [*pairs, *alike])
    assert len(found) >= 4 * PARTS
    with_alike = [s for s in found if any(r.id.startswith("a") for r in s.requests)]
    assert len(with_alike) <= 4
    assert max(len(s.requests) for s in found) <= MOST * TOGETHER
    assert all(len({r.adapter for r in s.requests}) <= 2 for s in found)
    assert shared(prefix, prefix) == 2 * BLOCK  # the last token is always computed
    assert shared(prefix, (*prefix, 1)) == 3 * BLOCK
    assert cut([], 3) == []


def test_settings_that_make_no_sense_are_refused():
    for bad in ({"workers": 0}, {"cores": -1}, {"address": "ray://host:10001"}):
        with pytest.raises(UsageError):
            FleetSettings(**bad)


def test_a_driver_that_was_stopped_for_long_ends_no_worker(monkeypatch):
    slept = []
    cluster = PretendedCluster(2)
    wait = cluster.wait

    def stopped_once(calls, seconds):
        if not slept:
            slept.append(time.sleep(0.05))
        return wait(calls, seconds)

    said = []
    fleet = pretended_fleet(cluster, SteppingEngine, said, patience=0.04)
    monkeypatch.setattr(cluster, "wait", stopped_once)
    asked = requests(50)
    assert ask_all(fleet, asked) == truth(asked)
    assert not said


def test_jobs_are_done_again_where_their_worker_died_and_given_in_their_order(count):
    for seed in range(count(20, 200, 8)):
        rng = random.Random(seed)

        def fault(worker, call, rng=rng):
            worker.dead = worker.dead or rng.random() < 0.1

        said = []
        jobs = {f"job {k}": partial(int, str(k)) for k in range(7)}
        try:
            found = run_jobs(PretendedCluster(3, seed, fault), jobs, said.append)
        except NoWorkers as error:
            assert "are lost 3 times" in str(error)  # noqa: PT017
            continue
        assert list(found.items()) == [(f"job {k}", k) for k in range(7)]


def test_what_a_job_raises_ends_all():
    def refuse():
        raise InputError("no such data: give other")

    cluster = PretendedCluster(2)
    with pytest.raises(InputError, match="no such data"):
        run_jobs(cluster, {"a": refuse, "b": dict})
    assert all(worker.dead for worker in cluster.started)
