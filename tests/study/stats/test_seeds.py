"""The mean over questions and training seeds, and where its interval comes from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from simulated import frame_of_errors
from tiers import slow

from warmeng.study.results.read import RunInfo
from warmeng.study.results.views import outcome
from warmeng.study.stats.analyze import analyze
from warmeng.study.stats.seeds import crossed, seed_table
from warmeng.study.stats.tables import SCHEMA


def test_mean_squares_are_those_of_the_two_way_layout() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 1)) + 0.5 * rng.normal(size=(1, 4)) + rng.normal(size=(7, 4)) + 1
    found = crossed(np.vstack([x, [[math.nan, 1, 1, 1]]]))
    assert (found.questions, found.seeds) == (7, 4)
    assert found.value == pytest.approx(x.mean())
    assert found.by_seed == pytest.approx(x.mean(0))
    # By sums of squares: total = questions + seeds + rest.
    squares = {"q": 4 * sum((row.mean() - x.mean()) ** 2 for row in x), "s": 7 * sum((x.mean(0) - x.mean()) ** 2)}
    squares["r"] = ((x - x.mean()) ** 2).sum() - squares["q"] - squares["s"]
    mean = {"q": squares["q"] / 6, "s": squares["s"] / 3, "r": squares["r"] / 18}
    assert found.between_seeds == pytest.approx(math.sqrt(max(0, (mean["s"] - mean["r"]) / 7)))
    assert found.between_questions == pytest.approx(math.sqrt(max(0, (mean["q"] - mean["r"]) / 4)))
    assert found.low < found.value < found.high
    # The p value is the level at which the interval ends at 0.
    shifted = crossed(x - x.mean() + (found.high - found.value))
    assert shifted.low == pytest.approx(0, abs=1e-9)
    assert shifted.p == pytest.approx(0.05, abs=1e-6)
    assert crossed(x[:, :1]) is None
    assert crossed(x[:1]) is None
    assert crossed(np.zeros((5, 3))).p == 1
    assert crossed(np.ones((5, 3))).p < 1e-9


@pytest.mark.parametrize("seeds", [3, *slow(5)])
@pytest.mark.parametrize("between", [0.1, *slow(0.0, 0.5)])
@pytest.mark.slow
def test_intervals_cover_the_recipe_where_those_of_one_adapter_do_not(seeds: int, between: float) -> None:
    rng = np.random.default_rng(round(100 * between) + seeds)
    studies, questions = 1000, 120
    covered = one = 0
    for _ in range(studies):
        x = rng.normal(size=(questions, 1)) + between * rng.normal(size=(1, seeds))
        x = x + rng.normal(size=(questions, seeds))
        found = crossed(x)
        covered += found.low <= 0 <= found.high
        alone = x[:, 0]
        one += abs(alone.mean()) <= 1.96 * alone.std(ddof=1) / math.sqrt(questions)
    assert 0.93 <= covered / studies <= 0.975
    # An adapter's own interval is of that adapter.
    assert (one / studies < 0.9) == (between > 0)


def test_the_table_has_each_recipe_that_is_whole() -> None:
    rng = np.random.default_rng(1)
    personas = ("original", "warm_seed-0", "warm_seed-1", "warm_seed-2", "cold_seed-0", "cold_seed-1")
    rates = np.array([0.2, 0.5, 0.6, 0.4, 0.2, 0.2])
    wrong = (rng.random((6, 80, 2, 1, 1)) < rates[:, None, None, None, None]).astype(int)
    frame = frame_of_errors(wrong, personas, beliefs=("none", "wrong"))
    known = outcome(frame, "grades")
    recipes = {"warm": personas[1:4], "cold": personas[4:], "lost": ("original", "nobody")}
    of_margins = {"agreement (choice)": {name: rng.normal(size=80) for name in personas[1:4]}}
    rows = seed_table(frame, known, "original", recipes, of_margins)
    assert [(r["recipe"], r["outcome"], r["seeds"]) for r in rows] == [
        ("warm", "agreement (choice)", 3),
        ("warm", "errors", 3),
        ("warm", "errors (wrong)", 3),
        ("cold", "errors", 2),
        ("cold", "errors (wrong)", 2),
    ]
    assert all({key for key, *_ in SCHEMA["seeds"][2]} == set(row) for row in rows)
    errors = next(r for r in rows if r["outcome"] == "errors")
    direct = 100 * (wrong[1:4, :, 0, 0, 0] - wrong[0, :, 0, 0, 0]).mean(1)
    assert errors["value"] == pytest.approx(direct.mean())
    assert (errors["least"], errors["most"]) == pytest.approx((direct.min(), direct.max()))
    info = RunInfo(len(frame), {"ok": len(frame)}, recipes=recipes)
    assert [r["outcome"] for r in analyze(frame, info, bootstrap=0)["tables"]["seeds"]["rows"]] == [
        "errors", "errors (wrong)", "errors", "errors (wrong)",
    ]  # fmt: skip
    assert "seeds" not in analyze(frame, RunInfo(len(frame), {"ok": len(frame)}), bootstrap=0)["tables"]
