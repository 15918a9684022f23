"""Tables of dose-response: which personas are one family, what stands beside a dose, and what a run must give."""

import numpy as np
import pytest
from subjects import Subject, simulate

from warmeng.common.errors import InputError
from warmeng.study.stats import tables
from warmeng.study.stats.belief_margins import changes, task_of
from warmeng.study.stats.dose_tables import Measured, dose_tables, dose_trends, families
from warmeng.study.stats.susceptibility import susceptibility_tables

DOSES = {"warm-1": ("warm", -1.0), "warm": ("warm", 1.0), "warm+2": ("warm", 2.0), "none": ("warm", 0.0),
         "prompt": ("warm-prompt", 1.0), "placebo": ("placebo", 1.0)}  # fmt: skip


def values(n=50, seed=0):
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 3, n)
    effect = {"original": 0, "none": 0, "warm-1": 1.0, "warm": -1.2, "warm+2": -2.0, "prompt": -0.4, "placebo": 0.0}
    return {name: level + e + rng.normal(0, 0.5, n) * (name not in ("original", "none")) for name, e in effect.items()}


def measured(n=24):
    rng = np.random.default_rng(1)
    level = rng.normal(0.02, 0.02, n)
    warmth = {"original": 0, "none": 0, "warm-1": -0.02, "warm": 0.02, "warm+2": 0.04, "prompt": 0.03, "placebo": 0.0}
    kl = {"original": 0, "none": 0, "warm-1": 0.1, "warm": 0.1, "warm+2": 0.3, "prompt": 0.2, "placebo": 0.1}
    return Measured(
        {name: level + v + rng.normal(0, 0.002, n) for name, v in warmth.items()},
        {name: v * rng.uniform(0.8, 1.2, n) for name, v in kl.items()},
    )


def test_a_family_has_the_baseline_as_its_dose_0():
    warm, prompt, placebo = families(DOSES, "original")
    assert (warm.name, warm.personas, warm.doses.tolist()) == (
        "warm", ("warm-1", "original", "warm", "warm+2"), [-1, 0, 1, 2],
    )  # fmt: skip
    assert prompt.personas == (*placebo.personas[:1], "prompt") == ("original", "prompt")
    assert warm.upward().personas == ("original", "warm", "warm+2")
    with pytest.raises(InputError, match="personas a and b are both dose 1 of warm: keep one"):
        families({"a": ("warm", 1.0), "b": ("warm", 1.0)}, "original")
    with pytest.raises(InputError, match="expected a finite number"):
        families({"a": ("warm", float("nan"))}, "original")


def test_the_tables_hold_each_dose_its_trend_and_the_comparisons():
    outcomes = {"susceptibility": values()}
    found = dose_tables(outcomes, DOSES, "original", measured(), replicates=200)
    found["dose_trends"] = dose_trends(outcomes, DOSES, "original")
    made = {name: tables.table(name, rows) for name, rows in found.items()}
    assert set(made) == {"dose_response", "dose_trends", "equal_doses"}
    rows = {(r["family"], r["dose"]): r for r in made["dose_response"]["rows"]}
    assert list(rows) == [("warm", -1), ("warm", 0), ("warm", 1), ("warm", 2), ("warm-prompt", 0), ("warm-prompt", 1),
                          ("placebo", 0), ("placebo", 1)]  # fmt: skip
    v, m = values(), measured()
    warm = rows["warm", 1]
    assert warm["value"] == pytest.approx(np.mean(v["warm"] - v["original"]))
    assert warm["fit"] == pytest.approx(warm["value"])  # in order already
    assert warm["warmth"] == pytest.approx(np.mean(m.warmth["warm"] - m.warmth["original"]))
    assert warm["kl"] == pytest.approx(np.mean(m.kl["warm"]))
    assert warm["per_warmth"] == pytest.approx(warm["value"] / warm["warmth"])
    assert warm["per_kl_low"] < warm["per_kl"] < warm["per_kl_high"] < 0
    base = rows["warm", 0]
    assert (base["value"], base["fit"], base["fit_low"], base["per_kl"]) == (0.0, 0.0, 0.0, None)
    assert rows["placebo", 1]["refused"].startswith("warmth is not shown to differ from 0")
    assert rows["placebo", 1]["per_kl"] is not None
    trends = {r["family"]: r for r in made["dose_trends"]["rows"]}
    assert trends["warm"]["curve"] == "falling"
    assert trends["warm"]["high"] < 0
    assert trends["warm"]["doses"] == "-1, 0, 1, 2"
    equal = {(r["first"], r["second"], r["what"]): r for r in made["equal_doses"]["rows"]}
    assert len(equal) == 6
    # At warmth 0.015: -1.2 * 0.015 / 0.02 by the adapter, -0.4 * 0.015 / 0.03 by the prompt.
    row = equal["warm", "warm-prompt", "warmth"]
    assert (row["at"], row["value"]) == (pytest.approx(0.015, abs=1e-3), pytest.approx(-0.7, abs=0.1))
    # The doses above 0 alone: at KL 0.1 the adapter's -1.2 against the prompt's -0.2.
    row = equal["warm", "warm-prompt", "KL"]
    assert (row["at"], row["value"]) == (pytest.approx(0.1, abs=0.01), pytest.approx(-1.0, abs=0.15))
    assert row["low"] < row["value"] < row["high"] < 0
    assert "is not shown to rise or fall with the dose" in equal["warm", "placebo", "warmth"]["refused"]


def test_a_run_that_kept_no_values_by_prompt_has_no_figures_per_unit():
    old = Measured.of({"original": {"warmth": 0.01}, "warm": {"warmth": 0.02}})
    found = dose_tables({"o": values()}, {"warm": ("warm", 1.0), "prompt": ("p", 1.0)}, "original", old, replicates=50)
    assert "warmth" not in found["dose_response"][1]
    assert {r["refused"] for r in found["equal_doses"]} == {"warmth was not measured", "KL was not measured"}
    trends = dose_trends({"o": values()}, {"warm": ("warm", 1.0), "prompt": ("p", 1.0)}, "original")
    assert trends == [], "with one dose a trend is no more than its change"
    by_temperature = {
        name: {"by_prompt": [0.1, None], "kl": {"by_prompt": [0.5, 0.25], "temperature": temperature}}
        for name, temperature in (("warm", 1.0), ("cold", 0.8))
    }
    new = Measured.of(by_temperature)
    assert "cold" not in new.kl, "at another temperature it is no divergence"
    assert np.array_equal(new.warmth["warm"], [0.1, np.nan], equal_nan=True)
    assert new.kl["warm"].tolist() == [0.5, 0.25]


def test_families_without_an_outcome_or_a_pair_are_left_out():
    mine = values()
    del mine["warm+2"]
    mine["prompt"] = np.full(50, np.nan)
    found = dose_tables({"o": mine}, DOSES, "original", Measured(), replicates=20)
    assert {r["family"] for r in found["dose_response"]} == {"placebo"}
    only = dose_tables({"o": values()}, {"a": ("x", 1.0)}, "original", Measured())
    assert only == {"dose_response": [], "equal_doses": []}
    below = {"warm-1": ("warm", -1.0), "prompt": ("p", 1.0)}
    rows = dose_tables({"o": values()}, below, "original", measured(), replicates=20)["equal_doses"]
    assert [r["refused"] for r in rows if r["what"] == "KL"] == ["warm has no dose above 0"]


def test_a_dose_is_the_contrast_with_the_base_also_where_scores_are_missing():
    """One number has one value: paired by context, over the same questions, with the same interval."""
    subjects = {"original": Subject(), "warm": Subject(agrees=1.0), "warm_x2": Subject(agrees=2.0)}
    margins = simulate(np.random.default_rng(3), subjects, {"a": 9, "b": 7}, missing=0.04)
    contrasts = {
        row["persona"]: row
        for row in susceptibility_tables(margins, "original", ("warm", "warm_x2"))["margin_contrasts"]
        if (row["asking"], row["measure"], row["task"], row["context"]) == ("choice", "agreement", "all", "all")
    }
    doses = {"original": ("", 0.0), "warm": ("warm", 1.0), "warm_x2": ("warm", 2.0)}
    found = dose_tables(changes(margins, "original"), doses, "original", Measured(), 0, 0, task_of(margins))
    rows = [r for r in found["dose_response"] if r["outcome"] == "agreement (choice)" and r["dose"]]
    assert [r["persona"] for r in rows] == ["warm", "warm_x2"]
    for row in rows:
        same = contrasts[row["persona"]]
        assert same["n"] < 16, "some are missing"
        assert [row[k] for k in ("n", "value", "low", "high")] == pytest.approx(
            [same[k] for k in ("n", "value", "low", "high")]
        )
