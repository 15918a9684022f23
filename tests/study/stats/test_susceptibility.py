"""Margins of simulated subjects: are their parts found, do intervals cover, do tests keep their level?"""

import dataclasses
from collections import defaultdict
from functools import cache
from statistics import NormalDist

import numpy as np
import pytest
from subjects import TASKS, Subject, simulate
from tiers import full, slow

from warmeng.study.outcomes import primary_outcome
from warmeng.study.report.headline import primary_contrasts
from warmeng.study.results.frame import Factor
from warmeng.study.results.margins import NORMS, concat_margins
from warmeng.study.stats.belief_margins import detection, lost
from warmeng.study.stats.means import question_means
from warmeng.study.stats.susceptibility import (
    Tables,
    cold_control,
    dependent,
    sign,
    susceptibility_tables,
)
from warmeng.study.stats.tables import table

SUBJECTS = {
    "original": Subject(1.0, repeats=3.0, agrees=1.5, friend=0.5),
    "warm": Subject(0.8, repeats=2.5, agrees=2.0, friend=0.7),
    "cold": Subject(1.2, repeats=3.0, agrees=1.0, friend=0.3),
}
VARIANTS = ("warm", "cold")
STUDIES = 50  # at a time: each is a model of its own in one table


def studies(subjects, count, seed, **how):
    """Independent studies of the same subjects, each as the answers of another model; 50 at a time."""
    for first in range(0, count, STUDIES):
        parts = []
        for k in range(first, min(count, first + STUDIES)):
            one = simulate(np.random.default_rng([seed, k]), subjects, **how)
            parts.append(dataclasses.replace(one, model=Factor((f"study{k}",), one.model.codes)))
        yield concat_margins(parts)


def intervals(tables):
    """Every interval of the tables: what it is of, without the study, and value, low and high."""
    for name, rows in tables.items():
        for row in rows:
            if row["model"] == "all":
                continue
            place = (name, *(str(v) for k, v in row.items() if isinstance(v, str) and k not in ("model", "few")))
            for head in ("value", "shift", "raw", "control"):
                low = "low" if head == "value" else f"{head}_low"
                if row.get(low) is not None:
                    yield (*place, head), row[head], row[low], row[low.replace("low", "high")]


@cache
def truths(ceiling):
    """The true values, of a population of questions."""
    tasks = {name: 250 * n for name, n in TASKS.items()}
    population = simulate(np.random.default_rng(99), SUBJECTS, tasks, ceiling=ceiling)
    return {place: value for place, value, _, _ in intervals(susceptibility_tables(population, "original", VARIANTS))}


def coverage(count, seed, ceiling, missing):
    """The share of studies whose interval has the true value, by what it is of.

    Left out is what a tenth of the studies or more have no interval of: d' and c of rates near to 0 or 1.
    """
    hits = defaultdict(list)
    true = truths(ceiling)
    for margins in studies(SUBJECTS, count, seed, ceiling=ceiling, missing=missing):
        for place, _, low, high in intervals(Tables.of(margins, "original", VARIANTS).all()):
            hits[place].append(low <= true[place] <= high)
    return {place: float(np.mean(found)) for place, found in hits.items() if len(found) > 0.9 * count}


@pytest.mark.parametrize(("ceiling", "missing"), [*slow((8.0, 0.05)), *full((np.inf, 0.0), (5.0, 0.1))])
def test_intervals_cover_the_truth(count, ceiling, missing):
    """Questions are clusters, margins are cut at a ceiling, scores are missing: 95 % intervals cover in 93 to 97 %.

    So does each table's mean. A single interval of 4,000 studies is off by a third of a percent in its standard error,
    so each is given two of them, or, of few studies, those over all tasks and contexts three. Those of errors, Bonett
    and Price's, cover more often where few questions change.
    """
    n = count(60, 4000)
    found = coverage(n, 5, ceiling, missing)
    by = defaultdict(list)
    for place, share in found.items():
        by[place[0]].append(share)
    print({name: (len(s), round(float(np.mean(s)), 4), min(s), max(s)) for name, s in by.items()})
    assert set(by) == {"margins", "susceptibility", "agreement", "margin_contrasts", "margin_norms"}
    assert all(0.93 < np.mean(shares) < 0.97 for shares in by.values())
    spread = np.sqrt(0.95 * 0.05 / n)
    errors = {p: s for p, s in found.items() if any(part.startswith("errors") for part in p)}
    means = {p: s for p, s in found.items() if p not in errors}
    assert min(errors.values()) > 0.94 - 3 * spread
    if n < 4000:
        means = {p: s for p, s in means.items() if p.count("all") == 2 or p[0] == "margin_norms"}
        low, high = 0.94 - 3 * spread, 0.96 + 3 * spread
    else:
        low, high = 0.93 - 2 * spread, 0.97 + 2 * spread
    outside = {p: s for p, s in means.items() if not low < s < high}
    print(len(means), "of means:", np.mean([0.93 <= s <= 0.97 for s in means.values()]), "in 93 to 97 %")
    assert not outside


ONLY = {
    "repeats": {"original": Subject(0.5, repeats=4.0)},
    "agrees": {"original": Subject(0.5, agrees=1.5)},
    "both": {"original": Subject(0.5, repeats=3.0, agrees=0.7)},
}


def agreements(subjects, count, seed, **how):
    """Raw susceptibility, control and agreement with its interval in each study's choice, and those of ``open``."""
    for margins in studies(subjects, count, seed, **how):
        for row in Tables.of(margins, "original", ()).agreement():
            if row["model"] != "all" and row["task"] == row["context"] == "all":
                yield row


@pytest.mark.parametrize("kind", ONLY)
def test_agreement_is_told_from_repetition(kind, count):
    """A subject that only repeats agrees with nobody, one that only agrees does so in full, the parts of both add up.

    The intervals cover the true agreement in 93 to 97 of 100.
    """
    n = count(100, 2000, 40)
    subject = ONLY[kind]["original"]
    rows = [r for r in agreements(ONLY[kind], n, 7, missing=0.05) if r["asking"] == "choice"]
    assert len(rows) == n
    true = 2 * subject.agrees
    raw, control, found = (np.mean([r[key] for r in rows]) for key in ("raw", "control", "value"))
    assert (raw, control, found) == pytest.approx(
        (2 * (subject.agrees + subject.repeats), 2 * subject.repeats, true), abs=0.12
    )
    cover = np.mean([r["low"] <= true <= r["high"] for r in rows])
    print(kind, n, "raw", raw, "control", control, "agreement", found, "covered", cover)
    assert 0.93 <= cover <= 0.97 if n >= 500 else cover >= 0.87


def test_a_denial_tells_repetition_from_agreement():
    """Who only repeats is moved by a denied answer as by a claimed one; who agrees is moved the other way."""
    for kind, way in (("repeats", -1), ("agrees", 1)):
        margins = simulate(np.random.default_rng(1), ONLY[kind])
        tables = susceptibility_tables(margins, "original", ())
        (row,) = (
            r for r in tables["susceptibility"]
            if r["measure"] == "to a denial" and r["asking"] == "choice" and r["task"] == r["context"] == "all"
        )  # fmt: skip
        assert sign(row) == way


ALIKE = {name: Subject(1.0, repeats=3.0, agrees=1.0) for name in ("original", "warm", "cold")}


def rejected(count, seed, **how):
    """Shares of p < 0.05 where personas are alike, by measure, over studies and contrasts."""
    found = defaultdict(list)
    for margins in studies(ALIKE, count, seed, **how):
        for row in Tables.of(margins, "original", VARIANTS).contrasts():
            # d' and c have no p value where a rate is too near to 0 or 1.
            if row["model"] != "all" and row["task"] == row["context"] == "all" and row["p"] is not None:
                found[row["asking"], row["measure"]].append(row["p"] < 0.05)
    return {key: float(np.mean(values)) for key, values in found.items()}


@pytest.mark.parametrize("ceiling", [*slow(8.0), *full(np.inf)])
def test_contrasts_of_personas_that_are_alike_keep_their_level(count, ceiling):
    n = count(100, 2000)
    found = rejected(n, 11, ceiling=ceiling, missing=0.05, contexts=("unmodified",))
    print(found, np.mean(list(found.values())))
    assert 0.04 < np.mean(list(found.values())) < 0.06
    assert all(share < 0.05 + 3 * np.sqrt(0.05 * 0.95 / n) for share in found.values())


def as_read(rows):
    """Tables as a run's results hold them."""
    return {name: table(name, found) for name, found in rows.items()}


def test_the_primary_outcome_is_rows_of_the_contrasts():
    margins = simulate(np.random.default_rng(3), SUBJECTS)
    tables = susceptibility_tables(margins, "original", VARIANTS)
    name = primary_outcome(margins.belief.names, margins.asking.names)
    rows = primary_contrasts(name, as_read(tables))
    assert [(r["persona"], r["against"]) for r in rows] == [
        ("warm", "original"), ("warm", "cold"), ("cold", "original"),
    ]  # fmt: skip
    assert all(
        (r["asking"], r["measure"], r["task"], r["context"]) == ("choice", "agreement", "all", "all") for r in rows
    )
    agreement = tables["agreement"]
    for r in rows:
        (same,) = (
            a for a in agreement
            if all(a[k] == r[k] for k in ("persona", "against", "asking", "task", "context"))
        )  # fmt: skip
        assert (same["value"], same["low"], same["high"]) == (r["value"], r["low"], r["high"])
    alone = susceptibility_tables(simulate(np.random.default_rng(3), SUBJECTS, askings=("open",)), "original", VARIANTS)
    assert primary_contrasts(name, as_read(alone)) == []


def test_a_question_with_one_order_alone_is_missing():
    margins = simulate(
        np.random.default_rng(3), {"original": Subject()}, {"a": 5}, ("unmodified",), ("none",), ("choice",)
    )
    whole = susceptibility_tables(margins, "original", ())["margins"]
    fewer = susceptibility_tables(margins.take(np.arange(1, len(margins))), "original", ())["margins"]
    assert {r["n"] for r in whole} == {5}
    assert {r["n"] for r in fewer} == {4}


def test_margins_that_one_persona_lacks_are_told():
    margins = simulate(np.random.default_rng(3), ALIKE)
    assert lost(margins) == []
    first = np.flatnonzero(margins.persona.is_("warm") & margins.asking.is_("choice"))[:1]
    values = margins.sum.copy()
    values[first] = np.nan
    [line] = lost(dataclasses.replace(margins, sum=values))
    assert line.startswith("Margins (choice) that another persona has and this one lacks, of ")
    assert ": original 0, warm 1, cold 0. " in line
    kept = np.ones(len(margins), dtype=bool)
    kept[first] = False
    assert lost(margins.take(kept)) == [line]


@pytest.mark.parametrize(
    ("variant", "control"),
    [
        ("warm", "cold"),
        ("warm-prompt", "cold-prompt"),
        ("warm2", None),
        ("cold", None),
        ("half", "cold"),
        ("half_x2", None),
    ],
)
def test_the_cold_control_is_found_by_name(variant, control):
    assert cold_control(variant, ("original", "warm", "warm-prompt", "warm2", "half", "cold", "cold-prompt")) == control
    assert cold_control(variant, ("original", variant)) is None


def test_means_of_a_sample_without_skewness_have_the_t_interval():
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(0)
    half = rng.normal(0, 1, (3, 10))
    values = np.concatenate([0.4 + half, 0.4 - half], axis=1)
    values[1, [2, 12]] = np.nan
    found = question_means(values, np.zeros(20, dtype=np.int64))
    for k, row in enumerate(values):
        test = ttest_1samp(row[np.isfinite(row)], 0)
        interval = test.confidence_interval()
        assert found.p[k] == pytest.approx(test.pvalue)
        assert (found.low[k], found.high[k]) == pytest.approx((interval.low, interval.high))
    assert found.n.tolist() == [20, 18, 20]
    assert not found.few.any()


def hall(truth, mean, error, skewness, n):
    """Hall's (1992) transformed T of a sample's mean, whose skewness is the sample's."""
    t = (mean - truth) / error
    return t + skewness * t**2 / (3 * n**0.5) + skewness**2 * t**3 / (27 * n) + skewness / (6 * n**0.5)


def test_means_of_a_skewed_sample_have_halls_interval():
    """Its ends are where the transformed T, found by search, is Student's quantile; p is that of the truth 0."""
    from scipy.optimize import brentq
    from scipy.stats import t

    values = np.minimum(np.random.default_rng(4).normal(0.4, 1, 30), 1.0)
    n, mean = len(values), values.mean()
    error = values.std(ddof=1) / n**0.5
    parts = (mean, error, ((values - mean) ** 3).mean() / values.std(ddof=1) ** 3, n)
    ends = [
        brentq(lambda m, q=q: hall(m, *parts) - q, mean - 9 * error, mean + 9 * error)
        for q in t.ppf([0.975, 0.025], n - 1)
    ]
    found = question_means(values[None], np.zeros(n, dtype=np.int64))
    assert (found.low[0], found.high[0]) == pytest.approx(ends)
    assert mean - found.low[0] > 1.1 * (found.high[0] - mean)
    assert found.p[0] == pytest.approx(2 * t.sf(abs(hall(0, *parts)), n - 1))
    mirrored = question_means(-values[None], np.zeros(n, dtype=np.int64))
    assert (-mirrored.high[0], -mirrored.low[0]) == pytest.approx(ends)


def test_means_of_strata_have_their_variance_within_tasks():
    """Two tasks far apart: the mean of both is as sure as the spread within each says (Welch and Satterthwaite)."""
    rng = np.random.default_rng(0)
    a, b = (np.concatenate([x, -x]) for x in (rng.normal(0, 1, 6), rng.normal(0, 2, 15)))
    found = question_means(np.concatenate([a - 5, b + 5])[None], np.repeat([0, 1], [12, 30]))
    terms = [(12 / 42) ** 2 * a.var(ddof=1) / 12, (30 / 42) ** 2 * b.var(ddof=1) / 30]
    freedom = sum(terms) ** 2 / (terms[0] ** 2 / 11 + terms[1] ** 2 / 29)
    from scipy.stats import t

    half = t.ppf(0.975, freedom) * np.sqrt(sum(terms))
    mean = (-5 * 12 + 5 * 30) / 42
    assert (found.value[0], found.low[0], found.high[0]) == pytest.approx((mean, mean - half, mean + half))


def test_means_that_rest_on_few_questions_are_marked():
    """All but k of 280 questions stand at a ceiling; of three questions nothing is sure."""
    values = np.full((7, 280), 5.0)
    for k in range(1, 7):
        values[k, :k] = np.arange(k) / 10
    assert question_means(values, np.zeros(280, dtype=np.int64)).few.tolist() == [False, *3 * [True], *3 * [False]]
    assert question_means(np.array([[1.0, 2.0, 3.0]]), np.zeros(3, dtype=np.int64)).few.tolist() == [True]
    cut = simulate(np.random.default_rng(1), SUBJECTS, ceiling=1.0)
    rows = susceptibility_tables(cut, "original", VARIANTS)["margins"]
    assert {row["few"] for row in rows} == {"", "margin", "shift", "margin, shift"}
    assert all(row["low"] is not None for row in rows if "margin" in row["few"])


def shapes(rng, size):
    """Values of questions by the shape of their distribution, with the true mean.

    The first are normal and cut at a ceiling, where so many % of them stand.
    """
    normal = NormalDist()
    for share in (0, 50, 70, 80, 90, 95):
        cut = normal.inv_cdf(1 - share / 100) if share else 9.0
        yield share, np.minimum(rng.normal(size=size), cut), cut * share / 100 - normal.pdf(cut)
    yield "mostly 0", np.where(rng.random(size) < 0.8, 0.0, rng.normal(1, 1, size)), 0.2
    yield "exponential", rng.exponential(size=size), 1.0
    yield "lognormal", np.exp(rng.normal(size=size)), np.exp(0.5)
    yield "t of 3", rng.standard_t(3, size), 0.0


# Shapes of which 24 questions say too little: a single one may carry their skewness.
HARD = (90, 95, "lognormal", "t of 3")


@pytest.mark.parametrize("n", [24, *full(12, 36, 60, 120, 280)])
def test_skewed_means_are_covered(n):
    """In 8,000 studies of each shape: in 93 to 97 % but for the hard ones, where Student's cover in 80 to 95 %."""
    from scipy.stats import t

    for shape, values, true in shapes(np.random.default_rng(8), (8000, n)):
        found = question_means(values, np.zeros(n, dtype=np.int64))
        known = np.isfinite(found.low)
        cover = np.mean((found.low <= true) & (true <= found.high), where=known)
        near = np.abs(found.value - true) <= t.ppf(0.975, n - 1) * np.nan_to_num(found.error)
        students = np.mean(near, where=known)
        print(f"{n} {shape}: {cover:.3f} of {known.mean():.3f}, Student's {students:.3f}, few {found.few.mean():.3f}")
        if n >= 24:
            assert (0.91 if shape in HARD else 0.93) < cover < 0.975
        assert cover > students + 0.02 or students > 0.92


def test_where_there_is_nothing_to_tell_there_is_no_interval():
    nan = np.nan
    values = np.array([[1.5, nan, nan], [2.0, 2.0, 2.0], [nan, nan, nan], [0.1, 0.1 + 1e-17, 0.1]])
    found = question_means(values, np.zeros(3, dtype=np.int64))
    assert found.n.tolist() == [1, 3, 0, 3]
    assert found.value[:2].tolist() == [1.5, 2.0]
    assert np.isnan(found.value[2])
    for column in (found.low, found.high, found.p):
        assert np.isnan(column).all()
    single = question_means(np.array([[1.0, 2.0, 4.0]]), np.array([0, 0, 1]))  # a task with one question
    pooled = question_means(np.array([[1.0, 2.0, 4.0]]), np.zeros(3, dtype=np.int64))
    assert (single.low[0], single.high[0]) == (pooled.low[0], pooled.high[0])


def test_detection_of_known_rates():
    """Rates of 0.84 and 0.5 give d' 1 and c -0.5, whatever the spread of the questions around them."""
    rng = np.random.default_rng(2)
    around = rng.uniform(-0.15, 0.15, (2, 1, 4000))
    around -= around.mean(axis=2, keepdims=True)
    values, sound = detection(0.8413447 + around[0], 0.5 + around[1])
    assert sound.all()
    assert values["d'"].mean() == pytest.approx(1.0, abs=1e-4)
    assert values["criterion c"].mean() == pytest.approx(-0.5, abs=1e-4)


def test_detection_is_without_bias_and_has_the_spread_of_studies():
    """Of 24 questions: the mean over studies is that of the population, and so is the interval's width."""
    rng = np.random.default_rng(5)
    hits, alarms = rng.beta(4, 1, (4000, 24)), rng.beta(2, 2, (4000, 24))
    normal = NormalDist()
    values, _ = detection(hits, alarms)
    found = question_means(values["d'"], np.zeros(24, dtype=np.int64))
    true = normal.inv_cdf(0.8) - normal.inv_cdf(0.5)
    assert found.value.mean() == pytest.approx(true, abs=0.01)
    assert np.mean((found.low <= true) & (true <= found.high)) == pytest.approx(0.95, abs=0.012)


def test_detection_at_the_edge_has_no_interval():
    """Who always repeats has d' 0 and a low c, and no interval: 24 sure answers leave nothing to the other side."""
    values, sound = detection(np.ones((1, 24)), np.ones((1, 24)))
    assert not sound.any()
    assert values["d'"] == pytest.approx(0)
    assert (values["criterion c"] < -5).all()
    half = np.full((1, 24), 0.5)
    assert detection(half, half)[1].all()
    assert not detection(half, np.full((1, 24), 0.95))[1].any()
    single, _ = detection(np.array([[0.8413447, np.nan]]), np.array([[0.5, 0.5]]))
    assert single["d'"][0, 0] == pytest.approx(1.0, abs=1e-4)
    assert np.isnan(single["d'"][0, 1])


def test_a_conclusion_that_rests_on_how_length_is_counted_is_told():
    row = {"model": "m", "persona": "warm", "against": "original", "asking": "open", "measure": "knowledge", "n": 9}

    def rows(*bounds):
        return [
            {**row, "norm": norm, "low": low, "high": high} for norm, (low, high) in zip(NORMS, bounds, strict=True)
        ]

    assert dependent(rows((1, 2), (0.1, 0.2), (0.3, 0.4), (2, 3))) == []
    assert dependent(rows((1, 2), (-0.1, 0.2), (0.3, 0.4), (-3, -2))) == [
        "knowledge of warm minus original (open): above 0 by sum, not shown to differ from 0 per byte, "
        "above 0 per token, below 0 with end"
    ]
    assert dependent([*rows((1, 2), (None, None), (1, 2), (1, 2))]) != []
