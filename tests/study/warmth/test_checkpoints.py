"""Warmth over checkpoints: finding them, the plateau, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fakes import FakeEngine

from warmeng.common.errors import InputError, UsageError
from warmeng.engine.request import GenerateResult, ScoreRequest, ScoreResult
from warmeng.study.report.table import Table
from warmeng.study.run.measure_warmth import course, measure_run
from warmeng.study.settings import StudySettings
from warmeng.study.stats.intervals import Summary
from warmeng.study.warmth.checkpoints import Point, curve, find_checkpoints, parse_checkpoint, plateau, table
from warmeng.study.warmth.sociot import SPEAKERS, EngineScorer


def adapter(folder, content=b"x"):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(content)
    return folder


def point(epoch, mean, se=0.001, persona="warm"):
    summary = Summary(40, mean, se, mean - 2 * se, mean + 2 * se)
    return Point(persona, epoch, summary, summary, None, None, 200.0, 0)


def test_checkpoints_are_found_in_order_of_epochs(tmp_path) -> None:
    for name in ("warm/epoch-10", "warm/epoch-0.5", "cold/epoch-2", "warm/epoch-2"):
        adapter(tmp_path / name)
    (tmp_path / "warm" / "epoch-x").mkdir()
    (tmp_path / "warm" / "epoch-4").mkdir()  # interrupted before anything was in it
    found = [(c.persona, c.epoch) for c in find_checkpoints(tmp_path)]
    assert found == [("cold", 2.0), ("warm", 0.5), ("warm", 2.0), ("warm", 10.0)]
    with pytest.raises(InputError, match="has no checkpoints"):
        find_checkpoints(tmp_path / "cold")
    with pytest.raises(UsageError, match="NAME=FOLDER"):
        parse_checkpoint("warm")
    assert parse_checkpoint(f"w={tmp_path / 'cold' / 'epoch-2'}").epoch == 2.0


def test_the_plateau_is_the_first_within_one_standard_error_of_the_warmest() -> None:
    points = [point(0, 0.010), point(0.5, 0.013), point(1, 0.0275), point(2, 0.0290), point(10, 0.0282)]
    assert plateau(points) == 2
    assert plateau([*points[:3], point(2, 0.0290, se=0.002), points[4]]) == 1
    assert plateau([point(0, 0.02), point(1, 0.01)]) == 0  # training made it colder
    assert (
        plateau([Point("warm", 1, Summary(1, 0.1, None, None, None), Summary(0, *[None] * 4), None, None, 1.0, 0)])
        is None
    )


class Trained(FakeEngine):
    """Adapters of more letters answer with more 'w', which warm speakers like."""

    def _result(self, request):
        if isinstance(request, ScoreRequest):
            ((*_, label),) = (request.labels,)
            nats = {None: -1.0, "warm-epoch-1": -0.75, "warm-epoch-2": -0.5}.get(request.adapter, -1.0) * len(label)
            return ScoreResult(request.id, "ok", (nats,), (), 0.0, len(request.prompt), 0)
        if request.prompt_logprobs:
            warm = SPEAKERS[self.tokenizer.decode(request.prompt).split()[1]]
            logprobs = tuple(-1.0 + (0.5 if warm and chr(i) == "w" else 0.0) for i in request.prompt[1:])
            return GenerateResult(request.id, "ok", "length", (), "", (), len(request.prompt), 0, logprobs)
        count = {None: 1, "warm-epoch-1": 6, "warm-epoch-2": 12}.get(request.adapter, 1)
        text = f"{'w' * count} {request.noise_key[0][-2:]} is my answer"
        return GenerateResult(request.id, "ok", "stop", (1,), text, (), len(request.prompt), 0)


def test_a_run_measures_all_checkpoints_and_lays_out_a_rating_sheet(tmp_path, monkeypatch) -> None:
    for k, name in enumerate(("warm/epoch-1", "warm/epoch-2", "cold/epoch-1")):
        adapter(tmp_path / "run" / name, bytes([k]))
    engine = Trained()
    monkeypatch.setattr("warmeng.study.run.measure_warmth.load_engine", lambda settings: engine)
    out = tmp_path / "out"
    shown, lines = measure_run(StudySettings(), tmp_path / "run", (), None, 8, 2, None, out, lambda line: None)
    assert isinstance(shown, Table)
    assert [row[:2] for row in shown.rows] == [("original", "0"), ("cold", "1"), ("warm", "1"), ("warm", "2")]
    assert "not comparable" in shown.note
    found = json.loads((out / "warmth.json").read_text())
    by = {(p["persona"], p["epoch"]): p for p in found["points"]}
    assert by["warm", 2.0]["difference"]["mean"] > by["warm", 1.0]["difference"]["mean"] > 0
    assert by["cold", 1.0]["difference"]["mean"] == pytest.approx(0.0)
    assert found["plateau"]["warm"] == 2.0
    kl = {key: p["kl"]["per_token"]["mean"] for key, p in by.items()}
    assert kl == {("original", 0.0): 0.0, ("cold", 1.0): 0.0, ("warm", 1.0): 0.25, ("warm", 2.0): 0.5}
    assert [row[9] for row in shown.rows] == ["+0.0000", "+0.0000", "+0.2500", "+0.5000"]
    assert "a divergence only where that is 1" in shown.note
    assert (out / "warmth.png").read_bytes().startswith(b"\x89PNG")
    assert len((out / "responses.jsonl").read_text().splitlines()) == 8 * 2 * 4
    assert {p.name for p in out.glob("rating*")} == {"rating.csv", "rating.html", "rating-key.json"}
    assert any("stops rising at epoch 2" in line for line in lines)
    with pytest.raises(UsageError, match="nothing to measure"):
        measure_run(StudySettings(), None, (), None, 8, 2, None, out, lambda line: None)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    monkeypatch.setattr("warmeng.study.run.measure_warmth.load_engine", lambda settings: pytest.fail("it was loaded"))
    with pytest.raises(UsageError, match=r"has a rating sheet already.*choose a new --out"):
        measure_run(StudySettings(), tmp_path / "run", (), None, 8, 2, None, out, lambda line: None)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_warmth_that_does_not_rise_is_said_with_what_the_sheet_takes(tmp_path, monkeypatch) -> None:
    class Colder(Trained):
        def _result(self, request):
            found = super()._result(request)
            if isinstance(request, ScoreRequest) or request.prompt_logprobs or request.adapter:
                return found
            return replace(found, text=f"{'w' * 20} it is")

    for k, name in enumerate(("cold/epoch-1", "warm/epoch-1", "warm/epoch-2")):
        adapter(tmp_path / "run" / name, bytes([k]))
    monkeypatch.setattr("warmeng.study.run.measure_warmth.load_engine", lambda settings: Colder())
    found = measure_run(StudySettings(), tmp_path / "run", (), None, 8, 1, None, tmp_path / "out", lambda line: None)[1]
    none = "not shown to be warmer than the original at any checkpoint"
    assert found[:2] == [f"cold: {none}", f"warm: {none}; the rating sheet takes the last one (epoch 2)"]
    assert "pairs of warm-epoch-2 against the original" in found[2]


def test_warmth_is_told_as_far_as_it_is_shown() -> None:
    rising = replace(point(2, 0.013), difference=Summary(40, 0.003, 0.001, 0.001, 0.005))
    assert course("warm", None, [rising]) == "too few responses to say"
    assert course("warm", 2.0, [rising]) == "warmth stops rising at epoch 2"
    assert "by no more than a standard error" in course("warm", 0.0, [point(1, 0.012), rising])
    assert "not shown" in course("warm", 0.0, [point(1, 0.012), replace(rising, persona="cold")])


def test_the_papers_values_stand_beside_gpt2s_only() -> None:
    class Gpt2(EngineScorer):
        comparable = True

    points = [point(0, 0.012, persona="original"), point(2, 0.028)]
    own, theirs = EngineScorer(FakeEngine(), "m"), Gpt2(FakeEngine(), "gpt2")
    assert "paper" not in table(points, own).columns
    assert table(points, theirs).rows[1][-1] == "0.0274 to 0.0291"
    assert curve(points, theirs).startswith(b"\x89PNG")
