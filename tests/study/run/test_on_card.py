"""What a study takes on a card by prediction: its own requests, weights and personas."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import Heard

from warmeng.common.messages import duration
from warmeng.engine.prediction.card import CARDS
from warmeng.engine.prediction.clock import Precision
from warmeng.engine.prediction.predict import simulated_seconds
from warmeng.study.plan import Planner, Study
from warmeng.study.results.manifest import require_manifest
from warmeng.study.run.dry_run import load_tokenizer, planned
from warmeng.study.run.on_card import OnCard, model_on_card
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings

STUDY = StudySettings(personas=("original", "warm"), tasks=("facts", "health"), limit=6, asking=("open",))


def found(settings: StudySettings, card: str = "h100", workers: int = 1) -> tuple[float, str]:
    tokenizer, config, _ = load_tokenizer(settings)
    return model_on_card(card, OnCard(Study.load(settings), tokenizer, config, 300), workers)


def test_a_small_study_takes_what_its_requests_do() -> None:
    """Adapters, scores and shared prompts included: all requests of the plan, through the scheduler."""
    tokenizer, config, _ = load_tokenizer(STUDY)
    study = Study.load(STUDY)
    asked = [p.request for p in Planner(study, tokenizer, config.stop_token_ids, {}, {})]
    assert len(asked) == study.size + study.scores_beside
    seconds, told = found(STUDY)
    assert seconds == pytest.approx(
        simulated_seconds(config, CARDS["h100"], Precision(), asked, adapters=1, rank=4), rel=0.05
    )
    assert told.startswith("0.3 GiB of weights in bfloat16, 73.9 GiB for keys and values: ")
    assert told.endswith(" sequences of 300 tokens at once")


def test_more_answers_take_longer_and_more_cards_less() -> None:
    seconds, _ = found(STUDY)
    longer, _ = found(replace(STUDY, max_new_tokens=384))
    assert 1.5 * seconds < longer < 2.5 * seconds
    assert found(replace(STUDY, samples=2, limit=40))[0] > seconds
    assert found(STUDY, workers=4)[0] < seconds


def test_the_precision_is_that_of_the_settings() -> None:
    plain, _ = found(STUDY, "h200")
    small, told = found(replace(STUDY, weights="int4", kv_dtype="fp8"), "h200")
    assert small < plain
    assert told.startswith("0.1 GiB of weights in int4, ")
    assert "GiB for keys and values in fp8: " in told


def test_a_dry_run_says_that_it_is_a_prediction_and_loads_no_model(tmp_path: Path) -> None:
    rows = dict(planned(STUDY, tmp_path / "r", card="h100"))
    assert "not measured on a card" in rows["predicted"]
    assert "assumed shares of the card's ceilings" in rows["predicted"]
    assert "on h100" in rows
    assert "probe" not in rows
    assert dict(planned(STUDY, tmp_path / "r", probe=False))["time"].startswith("not predicted: ")
    assert not list(tmp_path.iterdir())


def test_of_a_run_that_was_begun_the_pace_so_far_is_told(fake: Any, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    settings = replace(STUDY, personas=("original", "warm-prompt"), warmth_prompts=0)
    run_study(settings, folder, Heard(stop_after=12), "warmeng run")
    session = {"seconds": 30.0, "records": 12}
    (folder / "sessions.jsonl").write_text(json.dumps(session) + "\n")
    total = require_manifest(folder).records
    told = dict(planned(settings, folder, probe=False))["time"]
    minutes = duration(30.0 * (total - 12) / 12)
    assert told == (
        f"about {minutes} for the {total - 12} records that are missing: the 12 that are there took 30 s, loading aside"
    )
