"""The four regressions end to end, against single answers and formulas written out."""

import math
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from simulated import CONTEXTS, Truth, simulate

from warmeng.study.results.authors import read_authors
from warmeng.study.results.frame import Factor
from warmeng.study.results.views import outcome
from warmeng.study.stats import design as designs
from warmeng.study.stats.draws import Draws
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


@pytest.mark.parametrize("model", [m for m in MODELS if m.name in CASES], ids=lambda m: m.name)
def test_every_figure_equals_its_formula_on_single_answers(frame, model):
    keep, group, reference = CASES[model.name]
    x, x0, x1, y, groups, items, levels = single_answers(frame, "warm", keep, group, reference)
    beta = newton(x, y)
    plain, clustered = sandwich(x, y, beta, items)
    rows, _ = regressions(frame, outcome(frame), "original", ("warm",), Draws.make(frame, 0, 0))
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
        assert row["low"] is None
        assert row["raw_low"] is None


def test_the_coefficients_are_those_of_statsmodels(frame):
    keep, group, reference = CASES["each context"]
    x, _, _, y, _, items, levels = single_answers(frame, "warm", keep, group, reference)
    _, table = regressions(frame, outcome(frame), "original", ("warm",), Draws.make(frame, 0, 0))
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


def test_a_replicate_is_the_fit_of_the_questions_it_drew(frame):
    model = next(m for m in MODELS if m.name == "belief")
    use = model.rows(frame) & (frame.persona.is_("original") | frame.persona.is_("warm"))
    part = frame.take(use)
    draws = Draws.make(frame, 5, 4)
    known = outcome(part)
    design = designs.build(part, known, "warm", model.groups(part))
    found = designs.resample(design, designs.Fitted.of(design), draws)
    for b in range(4):
        times = draws.weights[b, part.item.codes].astype(int)
        again = part.take(np.repeat(np.arange(len(part)), times))
        rows, _ = regression(again, outcome(again), "warm", model.groups(again), Draws.make(again, 0, 0))
        for k, row in enumerate(rows):
            assert found.effect[b, k] == pytest.approx(row["effect"], abs=1e-6)
            assert found.raw[b, k] == pytest.approx(row["raw"], abs=1e-9)


def test_questions_are_drawn_within_their_task_and_by_seed(frame):
    draws = Draws.make(frame, 1, 50)
    task = np.zeros(len(frame.item.names), dtype=int)
    task[frame.item.codes] = frame.task.codes
    for k, size in enumerate(ITEMS.values()):
        assert (draws.weights[:, task == k].sum(axis=1) == size).all()
    assert (Draws.make(frame, 1, 50).weights == draws.weights).all()
    assert (Draws.make(frame, 2, 50).weights != draws.weights).any()


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
    draws = Draws.make(frame, 0, 100)
    both, _ = regressions(frame, outcome(frame), "original", ("warm", "cold"), draws)
    alone, _ = regressions(frame, outcome(frame), "original", ("cold",), draws)
    assert [r for r in both if r["variant"] == "cold"] == alone
    scopes = {r["scope"] for r in both}
    assert scopes == {"all", "task: trivia", "task: disinfo", "task: medqa", "model: a", "model: b"}
    part = frame.take(frame.model.is_("a"))
    mine, _ = regressions(part, outcome(part), "original", ("cold",), Draws.make(part, 0, 0))
    own = {(r["regression"], r["group"]): r["effect"] for r in mine if r["scope"] == "all"}
    for r in alone:
        if r["scope"] == "model: a":
            assert r["effect"] == pytest.approx(own[r["regression"], r["group"]], abs=1e-9)


def test_published_values_stand_beside_warm_variants_only(frame):
    rows, _ = regressions(frame, outcome(frame), "original", ("warm", "cold"), Draws.make(frame, 0, 0))
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
    rows, _ = regressions(part, outcome(part), "original", ("warm", "cold"), Draws.make(part, 0, 0))
    groups = {v: {r["group"] for r in rows if r["number"] == 3 and r["variant"] == v} for v in ("warm", "cold")}
    assert groups["cold"] - groups["warm"] == {"stake:high"}
    none = frame.take(frame.persona.is_("original"))
    rows, _ = regressions(none, outcome(none), "original", ("warm",), Draws.make(none, 0, 0))
    assert all(r["n"] == 0 and r["effect"] is None and "both personas" in r["refused"] for r in rows)


@pytest.mark.skipif(not SHARED.exists(), reason="the authors' files are not here")
def test_regressions_one_to_three_are_refused_on_the_authors_sample():
    frame = read_authors(SHARED / "sample_llama_70b")
    rows, table = regressions(frame, outcome(frame, "paper"), "original", ("warm",), Draws.make(frame, 0, 200))
    for row in rows:
        if row["scope"] == "all" and row["number"] < 4:
            assert "separated: no finite estimate of" in row["refused"]
            assert row["effect"] is None
            assert row["beta"] is None
            assert row["n"] > 0
            assert row["raw"] is not None  # what can still be said
    terms = {r["number"]: r["refused"] for r in rows if r["scope"] == "all"}
    assert "persona x emotion:sad" in terms[3]
    belief = {r["group"]: r for r in rows if r["regression"] == "belief" and r["scope"] == "all"}
    assert belief["wrong belief"]["refused"] == ""
    assert belief["wrong belief"]["effect"] == pytest.approx(-1.9, abs=0.05)
    assert not [r for r in table if r["scope"] == "all" and r["number"] < 4]


def test_the_nine_contexts_of_the_study_have_published_effects_where_the_paper_gives_them():
    from warmeng.study.stats.published import effect_of

    assert [effect_of(3, "all", c, "warm") is None for c in CONTEXTS] == [True] + [False] * 8
