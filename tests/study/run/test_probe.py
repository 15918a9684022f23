"""The probe's prediction against a machine whose speed is known."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fakes import FakeEngine

from warmeng.study.estimate import estimate
from warmeng.study.plan import Planner, Study
from warmeng.study.run.energy import EnergyMeter
from warmeng.study.run.probe import Probe, _steady, run_probe, sample
from warmeng.study.settings import StudySettings

EACH = 0.002  # seconds an answer


def test_the_sample_keeps_whole_items_of_every_task() -> None:
    study = Study.load(StudySettings(limit=0, contexts=("all",), beliefs=("none", "wrong", "doubt", "right")))
    small = sample(study)
    assert [t.name for t in small.tasks] == [t.name for t in study.tasks]
    assert all(set(a.items) < set(b.items) for a, b in zip(small.tasks, study.tasks, strict=True))
    generated = sum(Study(**{**vars(small), "tasks": (t,)}).size for t in small.tasks if t.generated)
    assert 120 <= generated <= 480
    assert sample(small).size <= small.size


def test_the_prediction_is_what_the_run_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    # The engine alone takes time, so that nothing else on the machine is measured.
    # Answers alone: of a score the engine's time is by unshared tokens, which this one does not know.
    monkeypatch.setattr("warmeng.study.plan.has_margin", lambda task, item: False)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    study = Study.load(StudySettings(tasks=("facts",), limit=60))
    engine = FakeEngine(delay=EACH)
    probe = run_probe(engine, study)
    plan = estimate(Planner(study, engine.tokenizer, engine.config.stop_token_ids, {}, {}))
    assert probe.prompt_rate is None
    assert probe.answers < plan.generations == study.size
    began = time.monotonic()
    for planned in Planner(study, engine.tokenizer, engine.config.stop_token_ids, {}, {}):
        engine.add(planned.request)
    assert sum(1 for _ in engine.results()) == study.size
    assert probe.predict(plan) == pytest.approx(time.monotonic() - began, rel=0.05)


def test_a_slow_start_and_a_long_end_are_counted_once() -> None:
    steady = [10 + k * 0.1 for k in range(240)]  # ten seconds of prefill, then ten answers a second
    rate = _steady([*steady[:-10], *(steady[-10] + k for k in range(1, 11))])  # the last ten straggle
    assert rate == pytest.approx(10.0)
    probe = Probe(50.0, 240, steady[-1] + 9, rate, 30.0, None, 20.0, None)

    class Plan:
        generations, scores, new_score_tokens = 1240, 0, 0

    assert probe.predict(Plan) == pytest.approx(steady[-1] + 9 + 100)  # type: ignore[arg-type]
    assert probe.predict(Plan, judged=100) == pytest.approx(steady[-1] + 9 + 105)  # type: ignore[arg-type]
    assert probe.predict(Plan, workers=2) == pytest.approx(steady[-1] + 9 + 38)  # type: ignore[arg-type]
    assert probe.predict(Plan, workers=100) == pytest.approx(steady[-1] + 9)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("generations", "scores", "helps"), [(0, 31, 1), (0, 3200, 64), (2000, 0, 8), (20_000, 0, 128)]
)
def test_workers_that_would_save_little_are_not_recommended(generations: int, scores: int, helps: int) -> None:
    probe = Probe(50.0, 240, 50.0, 10.0, 30.0, 100.0, None, None)

    class Plan:
        new_score_tokens = 100 * scores

    Plan.generations, Plan.scores = generations, scores  # type: ignore[attr-defined]
    found = probe.useful(Plan)  # type: ignore[arg-type]
    assert found == helps
    assert probe.energy(10) is None


def test_answers_of_one_batch_that_end_together_have_no_rate_between_them() -> None:
    together = [1.0, 1.5, *(9.0 + k * 1e-6 for k in range(30))]
    assert _steady(together) == pytest.approx(32 / 9.0, rel=1e-3)
    assert _steady([2.0] * 40) == pytest.approx(20.0)
    assert _steady([]) is None


def test_energy_counters_are_summed_and_may_wrap(tmp_path: Path) -> None:
    assert EnergyMeter(powercap=tmp_path).joules() is None
    packages = []
    for k in range(2):
        package = tmp_path / f"intel-rapl:{k}"
        package.mkdir()
        (package / "energy_uj").write_text("900000\n")
        (package / "max_energy_range_uj").write_text("1000000\n")
        (tmp_path / f"intel-rapl:{k}:0").mkdir()  # a part of the package: counted in it already
        packages.append(package)
    meter = EnergyMeter(powercap=tmp_path)
    (packages[0] / "energy_uj").write_text("950000\n")
    (packages[1] / "energy_uj").write_text("100000\n")
    assert meter.joules() == pytest.approx(0.05 + 0.2)
    (packages[0] / "energy_uj").write_text("999999\n")
    assert meter.joules() == pytest.approx(0.05 + 0.2 + 0.049999)
