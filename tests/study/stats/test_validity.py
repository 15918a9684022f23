"""How well margins tell correct answers: the area under the curve, its error between questions, the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import number, user_text

from warmeng.common.progress import Silent
from warmeng.engine.request import GenerateRequest
from warmeng.study.results.margins import read_margins
from warmeng.study.results.read import read_run
from warmeng.study.results.records import read_records
from warmeng.study.results.views import outcome
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings
from warmeng.study.stats.validity import separation, validity
from warmeng.study.tasks.registry import load_tasks

RNG = np.random.default_rng


def test_the_area_is_the_share_of_pairs() -> None:
    rng = RNG()
    score, correct = np.round(rng.normal(size=60), 1), rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in score[correct] for b in score[~correct]]
    found = separation(score, correct, np.arange(60))
    assert found is not None
    assert found.area == pytest.approx(np.mean(pairs))


def test_without_clusters_the_error_is_delongs() -> None:
    rng = RNG()
    correct = np.arange(80) < 30
    score = rng.normal(size=80) + correct
    found = separation(score, correct, np.arange(80))
    above, below = score[correct], score[~correct]
    wins = (above[:, None] > below[None]).astype(float)
    delong = wins.mean(axis=1).var(ddof=1) / len(above) + wins.mean(axis=0).var(ddof=1) / len(below)
    assert found is not None
    assert found.error == pytest.approx(delong**0.5)


def test_one_kind_alone_has_no_area_and_a_perfect_one_no_interval() -> None:
    score = np.arange(6.0)
    assert separation(score, np.ones(6, dtype=bool), np.arange(6)) is None
    found = separation(score, score > 2, np.arange(6))
    assert found is not None
    assert found.area == 1.0
    assert found.interval == (None, None)
    alone = separation(score, score > 2, np.zeros(6, dtype=np.int64))
    assert alone is not None
    assert alone.interval == (None, None)


def study(rng: np.random.Generator, questions: int, each: int, own: float) -> tuple[Any, Any, Any]:
    """Scores and correctness that share a part by question."""
    shared = rng.normal(size=questions)
    cluster = np.repeat(np.arange(questions), each)
    latent = np.sqrt(own) * shared[cluster] + np.sqrt(1 - own) * rng.normal(size=len(cluster))
    return latent + rng.normal(size=len(cluster)), latent > 0.3, cluster


def test_the_interval_covers_where_one_without_clusters_does_not(count: Callable[..., Any]) -> None:
    rng, many = RNG(7), count(200, 2000, 200)
    truth = separation(*study(rng, 40_000, 8, 0.9))
    assert truth is not None
    held = naive = 0
    for _ in range(many):
        score, correct, cluster = study(rng, 60, 8, 0.9)
        for clusters, is_naive in ((cluster, False), (np.arange(len(cluster)), True)):
            found = separation(score, correct, clusters)
            assert found is not None
            low, high = found.interval
            assert low is not None
            assert high is not None
            covered = low <= truth.area <= high
            held, naive = held + (covered and not is_naive), naive + (covered and is_naive)
    spread = 3 * (0.05 * 0.95 / many) ** 0.5
    assert 0.95 - spread - 0.01 <= held / many <= 0.95 + spread
    assert naive / many < 0.9


def test_the_table_is_that_of_the_records(fake: Any, tmp_path: Path) -> None:
    """Answers and margins are joined by place, whatever their order in the file."""

    def answer(prompt: str, request: GenerateRequest) -> str:
        # The right answer, or the wrong one, or neither, by a fixed number; items are told by their questions.
        item = by_question[user_text(prompt).split(" I think")[0]]
        return f"It is {(item.answer, item.wrong, 'hard to say')[int(3 * number(prompt, request.noise_key))]}."

    by_question = {item.question: item for item in load_tasks(["facts"])[0].items}
    fake.answer = answer
    settings = StudySettings(
        personas=("original", "warm-prompt"), tasks=("facts",), contexts=("unmodified",), beliefs=("none", "wrong"),
        limit=20, samples=2, warmth_prompts=0,
    )  # fmt: skip
    run_study(settings, tmp_path, Silent(), "warmeng run")
    records = list(read_records(tmp_path / "records.jsonl"))
    place = ("persona", "task", "context", "belief", "item")
    margins = {
        tuple(r[k] for k in place): r["margin"]["right"]["own"] - r["margin"]["wrong"]["own"]
        for r in records
        if r["kind"] == "margin"
    }
    frame, info = read_run(tmp_path)
    rows = {(r["persona"], r["belief"]): r for r in validity(frame, outcome(frame, info.rule), read_margins(tmp_path))}
    assert set(rows) == {(p, b) for p in ("original", "warm-prompt") for b in ("all", "none", "wrong")}
    for (persona, belief), row in rows.items():
        mine = [
            (r["grade"] == "correct", margins[tuple(r[k] for k in place)] > 0)
            for r in records
            if r["kind"] == "answer" and r["persona"] == persona and belief in ("all", r["belief"])
            if r["grade"] in ("correct", "incorrect")
        ]
        assert row["n"] == len(mine) > 10
        assert row["correct"] == pytest.approx(np.mean([good for good, _ in mine]))
        assert row["likelier"] == pytest.approx(np.mean([likelier for _, likelier in mine]))
        assert row["same"] == pytest.approx(np.mean([good == likelier for good, likelier in mine]))
        assert row["low"] < row["value"] < row["high"]
