"""The four regressions end to end, against single answers and formulas written out."""

import math
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from simulated import Truth, simulate
from tiers import slow

from warmeng.study.results.authors import read_authors
from warmeng.study.results.frame import Factor
from warmeng.study.results.views import outcome
from warmeng.study.stats import design as designs
from warmeng.study.stats.logit import expit, fit
from warmeng.study.stats.regression import MODELS, regression, regressions

SHARED = Path(__file__).parents[4] / "shared" / "data" / "paper"
TRUTH = Truth(
    task={"trivia": -1.5, "disinfo": -2.0, "medqa": -0.3},
    persona={"original": 0.0, "warm": 0.4, "cold": -0.1},
    model={"a": 0.0, "b": 0.5},
    context={"emotion:sad": 0.2, "stake:high": -0.1},
    belief={"wrong": 0.5, "doubt": 0.2, "right": -1.0},
    extra={("warm", "emotion:sad"): 0.3, ("warm", "wrong"): 0.2},
)
ITEMS = {"trivia": 25, "disinfo": 20, "medqa": 30}
SOME = ("unmodified", "emotion:sad", "emotion:anger", "stake:high", "relation:close")


@pytest.fixture(scope="module")
def frame():
    return simulate(np.random.default_rng(7), TRUTH, ITEMS, SOME, ("none", "wrong", "doubt", "right"), missing=0.05)


def single_answers(frame, variant, keep, group, reference):
    """Design and outcomes of single answers, written out row by row; also the group and question of each."""
    x, y, groups, items = [], [], [], []
    names = []
    for i in range(len(frame)):
        label = {
            name: getattr(frame, name).names[getattr(frame, name).codes[i]]
            for name in ("persona", "task", "model", "context", "belief", "item")
        }
        if frame.grade[i] > 1 or label["persona"] not in ("original", variant) or not keep(label):
            continue
        names.append(label)
        y.append(float(frame.grade[i]))
        groups.append(group(label))
        items.append(label["item"])
    levels = [reference, *sorted(set(groups) - {reference})]
    tasks = ["disinfo", *sorted({n["task"] for n in names} - {"disinfo"})]
    models = sorted({n["model"] for n in names})

    def row(label, g, on):
        dummies = [float(g == level) for level in levels[1:]]
        return [
            1.0, on, *dummies, *(on * d for d in dummies),
            *(float(label["task"] == t) for t in tasks[1:]), *(float(label["model"] == m) for m in models[1:]),
        ]  # fmt: skip

    x = np.array([row(n, g, float(n["persona"] == variant)) for n, g in zip(names, groups, strict=True)])
    x0 = np.array([row(n, g, 0.0) for n, g in zip(names, groups, strict=True)])
    x1 = np.array([row(n, g, 1.0) for n, g in zip(names, groups, strict=True)])
    return x, x0, x1, np.array(y), np.array(groups), np.array(items), levels


def newton(x, y):
    beta = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ beta))
        beta = beta + np.linalg.inv(x.T @ np.diag(p * (1 - p)) @ x) @ x.T @ (y - p)
    return beta


def sandwich(x, y, beta, items):
    p = 1 / (1 + np.exp(-x @ beta))
    bread = np.linalg.inv(sum(p[i] * (1 - p[i]) * np.outer(x[i], x[i]) for i in range(len(x))))
    meat = np.zeros_like(bread)
    names = sorted(set(items))
    for name in names:
        score = sum((y[i] - p[i]) * x[i] for i in np.flatnonzero(items == name))
        meat += np.outer(score, score)
    g, n, k = len(names), len(x), x.shape[1]
    return bread, g / (g - 1) * (n - 1) / (n - k) * bread @ meat @ bread


CASES = {
    "main effect": (lambda n: n["context"] == "unmodified" and n["belief"] == "none", lambda n: "all", "all"),
    "context group": (
        lambda n: n["belief"] == "none",
        lambda n: n["context"].split(":")[0],
        "unmodified",
    ),
    "each context": (lambda n: n["belief"] == "none", lambda n: n["context"], "unmodified"),
    "belief": (
        lambda n: n["belief"] != "right",
        lambda n: "no belief" if n["belief"] == "none" else "wrong belief",
        "no belief",
    ),
    "belief and emotion": (
        lambda n: n["belief"] != "right",
        lambda n: {
            (False, False): "neither",
            (True, False): "emotion only",
            (False, True): "belief only",
            (True, True): "emotion + belief",
        }[n["context"].startswith("emotion"), n["belief"] != "none"],
        "neither",
    ),
}


MODELS_WITH_CASES = [m for m in MODELS if m.name in CASES]


@pytest.mark.parametrize("model", [*MODELS_WITH_CASES[:2], *slow(*MODELS_WITH_CASES[2:])], ids=lambda m: m.name)
def test_every_figure_equals_its_formula_on_single_answers(frame, model):
    keep, group, reference = CASES[model.name]
    x, x0, x1, y, groups, items, levels = single_answers(frame, "warm", keep, group, reference)
    beta = newton(x, y)
    plain, clustered = sandwich(x, y, beta, items)
    rows, _ = regressions(frame, outcome(frame), "original", ("warm",))
    mine = {r["group"]: r for r in rows if r["regression"] == model.name and r["scope"] == "all"}
    assert set(mine) == set(levels)
    for k, level in enumerate(levels):
        pick = np.zeros(len(beta))
        pick[1] = 1
        if k:
            pick[1 + len(levels) - 1 + k] = 1
        here = groups == level

        def ame(b, here=here):
            return float(np.mean(1 / (1 + np.exp(-x1[here] @ b)) - 1 / (1 + np.exp(-x0[here] @ b))))

        step = 1e-6
        slope = np.array([(ame(beta + step * e) - ame(beta - step * e)) / (2 * step) for e in np.eye(len(beta))])
        row = mine[level]
        assert row["n"] == here.sum()
        assert row["beta"] == pytest.approx(pick @ beta, abs=1e-6)
        assert row["se"] == pytest.approx(math.sqrt(pick @ plain @ pick), abs=1e-6)
        assert row["se_clustered"] == pytest.approx(math.sqrt(pick @ clustered @ pick), abs=1e-6)
        assert row["effect"] == pytest.approx(100 * ame(beta), abs=1e-6)
        assert row["effect_se"] == pytest.approx(100 * math.sqrt(slope @ plain @ slope), abs=1e-6)
        assert row["effect_se_clustered"] == pytest.approx(100 * math.sqrt(slope @ clustered @ slope), abs=1e-6)
        without = np.mean(1 / (1 + np.exp(-x0[here] @ beta)))
        assert row["relative"] == pytest.approx(ame(beta) / without, abs=1e-6)
        on = x[:, 1] == 1
        assert row["raw"] == pytest.approx(100 * (y[here & on].mean() - y[here & ~on].mean()), abs=1e-9)
        assert row["low"] < row["effect"] < row["high"]
        assert row["raw_low"] < row["raw"] < row["raw_high"]


def test_the_coefficients_are_those_of_statsmodels(frame):
    keep, group, reference = CASES["each context"]
    x, _, _, y, _, items, levels = single_answers(frame, "warm", keep, group, reference)
    _, table = regressions(frame, outcome(frame), "original", ("warm",))
    mine = {r["term"]: r for r in table if r["regression"] == "each context" and r["scope"] == "all"}
    others = levels[1:]
    terms = ["intercept", "persona", *others, *(f"persona x {g}" for g in others)]
    terms += ["task: medqa", "task: trivia", "model: b"]
    assert set(mine) == set(terms)
    family = sm.families.Binomial()
    plain = sm.GLM(y, x, family=family).fit(tol=1e-14)
    groups = np.unique(items, return_inverse=True)[1]
    clustered = sm.GLM(y, x, family=family).fit(cov_type="cluster", cov_kwds={"groups": groups}, tol=1e-14)
    for k, term in enumerate(terms):
        row = mine[term]
        assert row["beta"] == pytest.approx(plain.params[k], abs=1e-8)
        assert row["se"] == pytest.approx(plain.bse[k], abs=1e-8)
        assert row["p"] == pytest.approx(plain.pvalues[k], abs=1e-8)
        assert row["se_clustered"] == pytest.approx(clustered.bse[k], abs=1e-8)
        assert row["p_clustered"] == pytest.approx(clustered.pvalues[k], abs=1e-8)


def test_the_reference_task_is_disinformation_where_there_is_one(frame):
    group = Factor(("all",), np.zeros(len(frame), dtype=np.int32))
    design = designs.build(frame, outcome(frame), "warm", group)
    assert [t for t in design.terms if t.startswith("task")] == ["task: trivia", "task: medqa"]
    other = frame.take(~frame.task.is_("disinfo"))
    design = designs.build(other, outcome(other), "warm", group.take(np.arange(len(other))))
    assert [t for t in design.terms if t.startswith("task")] == ["task: medqa"]


def test_an_interval_is_the_middle_95_percent_of_sound_replicates():
    from warmeng.study.stats.draws import interval

    values = np.arange(1.0, 1001.0)
    low, high = interval(np.random.default_rng(0).permutation(values))
    assert 25 <= low <= 26
    assert 975 <= high <= 976
    assert interval(np.where(values <= 40, np.nan, values))[0] is not None
    assert interval(np.where(values <= 60, np.nan, values)) == (None, None)
    assert interval(values[:39]) == (None, None)


def test_each_variant_stands_alone_and_scopes_are_subsets(frame):
    both, _ = regressions(frame, outcome(frame), "original", ("warm", "cold"))
    alone, _ = regressions(frame, outcome(frame), "original", ("cold",))
    assert [r for r in both if r["variant"] == "cold"] == alone
    scopes = {r["scope"] for r in both}
    assert scopes == {"all", "task: trivia", "task: disinfo", "task: medqa", "model: a", "model: b"}
    part = frame.take(frame.model.is_("a"))
    mine, _ = regressions(part, outcome(part), "original", ("cold",))
    own = {(r["regression"], r["group"]): r["effect"] for r in mine if r["scope"] == "all"}
    for r in alone:
        if r["scope"] == "model: a":
            assert r["effect"] == pytest.approx(own[r["regression"], r["group"]], abs=1e-9)


def test_published_values_stand_beside_warm_variants_only(frame):
    rows, _ = regressions(frame, outcome(frame), "original", ("warm", "cold"))
    shown = {(r["number"], r["scope"], r["group"]): r["published"] for r in rows if r["variant"] == "warm"}
    assert shown[1, "all", "all"] == 7.43
    assert shown[1, "task: medqa", "all"] == 8.6
    assert shown[3, "all", "emotion:sad"] == 11.87
    assert shown[4, "all", "emotion + belief"] == 12.1
    assert shown[2, "task: medqa", "emotion"] is None
    assert {r["published"] for r in rows if r["variant"] == "cold"} == {None}


def test_a_group_that_one_persona_lacks_is_left_out(frame):
    lacking = ~(frame.persona.is_("warm") & frame.context.is_("stake:high"))
    part = frame.take(lacking)
    rows, _ = regressions(part, outcome(part), "original", ("warm", "cold"))
    groups = {v: {r["group"] for r in rows if r["number"] == 3 and r["variant"] == v} for v in ("warm", "cold")}
    assert groups["cold"] - groups["warm"] == {"stake:high"}
    none = frame.take(frame.persona.is_("original"))
    rows, _ = regressions(none, outcome(none), "original", ("warm",))
    assert all(r["n"] == 0 and r["effect"] is None and "both personas" in r["limits"] for r in rows)


@pytest.mark.skipif(not SHARED.exists(), reason="the authors' files are not here")
def test_what_is_finite_on_the_authors_sample_is_told_where_something_else_is_not():
    frame = read_authors(SHARED / "sample_llama_70b")
    rows, table = regressions(frame, outcome(frame, "paper"), "original", ("warm",))
    shown = {(r["number"], r["group"]): r for r in rows if r["scope"] == "all"}
    main = shown[1, "all"]
    assert "separated: no finite estimate of intercept, task: medqa" in main["limits"]
    # Disinfo is all correct, so its effect is 0 in the limit; the other tasks' is finite.
    assert (main["beta"], main["effect"]) == pytest.approx((-1.0351, -14.2857), abs=1e-4)
    assert main["low"] < main["effect"] < main["high"]
    terms = {r["term"]: r["beta"] for r in table if r["number"] == 1 and r["scope"] == "all"}
    assert {name for name, beta in terms.items() if beta is None} == set(main["limits"].partition("of ")[2].split(", "))
    sad = shown[3, "emotion:sad"]
    assert "persona x emotion:sad" in sad["limits"]
    assert (sad["beta"], sad["effect"]) == (None, pytest.approx(0.0))


def test_an_effect_is_the_limit_where_a_task_is_answered_all_correctly(frame):
    """Against the same answers with one wrong in that task, weighing ever less: the likelihood's limit."""
    use = frame.context.is_("unmodified") & frame.belief.is_("none") & ~frame.persona.is_("cold") & (frame.grade < 2)
    part = frame.take(use)
    known = np.where(part.task.is_("trivia"), 0, outcome(part)).astype(np.int8)
    group = Factor(("all",), np.zeros(len(part), dtype=np.int32))
    [row], table = regression(part, known, "warm", group)
    assert row["limits"] == "quasi-completely separated: no finite estimate of task: trivia"
    design = designs.build(part, known, "warm", group)
    n, y = design.totals
    for weight in (1e-4, 1e-6):
        some = fit(design.x, n, np.where(y == 0, weight * n, y))
        change = expit(design.on @ some.beta) - expit(design.off @ some.beta)
        assert row["effect"] == pytest.approx(100 * float(n @ change / n.sum()), abs=3000 * weight)
        assert row["beta"] == pytest.approx(some.beta[1], abs=300 * weight)
    others = part.take(~part.task.is_("trivia"))
    [left], _ = regression(others, outcome(others), "warm", group.take(np.arange(len(others))))
    assert (row["beta"], row["se"]) == pytest.approx((left["beta"], left["se"]), abs=1e-9)
    assert row["effect"] == pytest.approx(left["effect"] * left["n"] / row["n"], abs=1e-9)
    assert {r["term"] for r in table if r["beta"] is None} == {"task: trivia"}


def test_a_persona_without_an_error_has_an_effect_and_no_odds_ratio(frame):
    use = frame.context.is_("unmodified") & frame.belief.is_("none") & ~frame.persona.is_("cold") & (frame.grade < 2)
    part = frame.take(use)
    known = np.where(part.persona.is_("warm"), 0, outcome(part)).astype(np.int8)
    [row], _ = regression(part, known, "warm", Factor(("all",), np.zeros(len(part), dtype=np.int32)))
    assert row["limits"] == "quasi-completely separated: no finite estimate of persona"
    assert (row["beta"], row["se"]) == (None, None)
    assert row["effect"] == pytest.approx(-100 * row["error_baseline"], abs=3)
    assert row["low"] < row["effect"] < row["high"] < 0
