"""Prediction-powered estimates: by hand, against another implementation's numbers, and by simulated studies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.special import expit
from tiers import full

from warmeng.study.stats.correction import Detection, corrected_difference
from warmeng.study.stats.ppi import (
    FEWEST,
    Sample,
    graded_difference,
    half_width,
    powered_difference,
    powered_rate,
)


def sample(wrong, graded, weight, item=None) -> Sample:
    one = np.ones(len(wrong))
    item = np.arange(len(wrong)) if item is None else item
    return Sample(np.stack([graded, one], 1), np.stack([wrong, one], 1), np.asarray(weight, dtype=float), item)


# ppi_mean_pointestimate and ppi_mean_ci of ppi-python 0.2.3, whose labelled answers are not among the others: seed,
# labelled, others, share of right grades; value, low, high.
THEIRS = (
    (0, 200, 1800, 0.9, 0.27870430262488505, 0.23643542069911716, 0.32097318455065293),
    (1, 100, 400, 0.75, 0.3179879288962381, 0.23726597452549597, 0.39870988326698026),
    (2, 400, 1600, 0.6, 0.31457025645036907, 0.2695961654556444, 0.3595443474450937),
    (3, 150, 1350, 0.97, 0.2930434649531889, 0.2619892122688629, 0.3240977176375149),
)


@pytest.mark.parametrize(("seed", "n", "others", "skill", "value", "low", "high"), THEIRS)
def test_labels_drawn_alike_give_what_the_authors_package_gives(seed, n, others, skill, value, low, high) -> None:
    rng = np.random.default_rng(seed)
    wrong = (rng.random(n + others) < 0.3).astype(float)
    graded = np.where(rng.random(n + others) < skill, wrong, 1 - wrong)
    weight = np.where(np.arange(n + others) < n, (n + others) / n, 0.0)
    found = powered_rate(sample(wrong, graded, weight))
    half = (high - low) / 2
    assert found.value == pytest.approx(value, abs=0.02 * half)
    # Ours is a little wider, by the answers that it adds and Student's quantile; the more, the fewer errors were found.
    assert half < (found.high - found.low) / 2 < 1.09 * half


def test_without_tuning_it_is_the_grades_corrected_by_what_the_labels_say() -> None:
    """A perfect grader is believed wholly, one that knows nothing not at all."""
    rng = np.random.default_rng(0)
    wrong = (rng.random(4000) < 0.4).astype(float)
    weight = np.where(rng.random(4000) < 0.1, 10.0, 0.0)
    perfect = powered_rate(sample(wrong, wrong, weight))
    assert perfect.tuning[0] == pytest.approx(1.0, abs=0.02)
    assert perfect.value == pytest.approx(wrong.mean(), abs=1e-3)
    blind = powered_rate(sample(wrong, (rng.random(4000) < 0.5).astype(float), weight))
    assert blind.tuning[0] < 0.15
    labelled = wrong[weight > 0].mean()
    assert blind.value == pytest.approx(labelled, abs=0.01)
    assert 0.8 < (blind.high - blind.low) / (2 * 1.96 * math.sqrt(0.24 / (weight > 0).sum())) < 1.1
    assert powered_rate(sample(wrong[:60], wrong[:60], np.arange(60) < FEWEST - 1)) is None


def test_all_labelled_is_the_rate_of_the_labels_whatever_the_grader_says() -> None:
    rng = np.random.default_rng(1)
    wrong, item = (rng.random(300) < 0.3).astype(float), np.arange(300) // 3
    found = powered_rate(sample(wrong, 1 - wrong, np.ones(300), item))
    assert found.value == pytest.approx(wrong.mean())
    # Clusters of three: the variance is between questions.
    sums = np.bincount(item, wrong - wrong.mean())
    half = 1.96 * math.sqrt(100 / 99 * np.sum(sums**2)) / 300
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_answers_that_people_call_neither_are_out_of_the_rate() -> None:
    wrong = np.tile([1.0, 0.0, 0.0, 0.0], 20)
    decided = np.tile([1.0, 1.0, 1.0, 0.0], 20)
    both = np.stack([wrong, decided], 1)
    found = powered_rate(Sample(both, both, np.ones(80), np.arange(80)))
    assert found.value == pytest.approx(1 / 3)


@dataclass(frozen=True)
class Grader:
    """Shares of right grades of incorrect and of correct answers, of the baseline and of the variant."""

    baseline: tuple[float, float]
    variant: tuple[float, float]


GOOD = Grader((0.95, 0.97), (0.85, 0.97))
FAIR = Grader((0.9, 0.95), (0.75, 0.95))
MIDDLING = Grader((0.8, 0.85), (0.65, 0.9))
POOR = Grader((0.7, 0.75), (0.55, 0.8))
SAME = Grader((0.9, 0.95), (0.7, 0.95))


def answers(rng, questions, rates, grader):
    """Return (incorrect, graded incorrect, guess at the chance of that, how hard to grade), ``[2, questions]`` each.

    Questions are hard for both, and some answers hard to grade; the guess knows how hard, but not whose answer it is.
    """
    hard = rng.normal(0.0, 1.0, questions)
    found = []
    for rate, skills in zip(rates, (grader.baseline, grader.variant), strict=True):
        wrong = rng.random(questions) < expit(1.15 * math.log(rate / (1 - rate)) + hard)
        obscure = rng.gamma(0.5, 2.0, questions)
        graded = wrong ^ (rng.random(questions) < np.where(wrong, *slips(skills, obscure)))
        found.append((wrong, graded, obscure))
    wrong, graded, obscure = (np.stack(x) for x in zip(*found, strict=True))
    return wrong, graded, np.clip(0.15 * obscure, 0.01, 0.5), obscure


def slips(skills, obscure):
    """Return the chance of a wrong grade of an incorrect and of a correct answer."""
    return np.minimum(0.6, (1 - skills[0]) * obscure), np.minimum(0.6, (1 - skills[1]) * obscure)


def least_half_width(questions, budget, rates, grader):
    """Return the half width of an estimator that knows what nobody does, and that with all answers labelled.

    It knows p, the true chance that an answer is incorrect, given its grade and how hard it is to grade. Its variance
    is that of pairs over questions, and for each answer p (1 - p) (1 / its chance of a label - 1): the efficiency bound
    for values missing at random (Robins, Rotnitzky and Zhao 1994), where each answer stands for itself. The chances
    that make it least are in proportion to the root of p (1 - p), at most 1 (Neyman 1934).
    """
    from warmeng.study.labelling.draw import scaled

    wrong, graded, _, obscure = answers(np.random.default_rng(0), 100_000, rates, grader)
    p = np.empty(wrong.shape)
    for k, skills in enumerate((grader.baseline, grader.variant)):
        rate, (missed, invented) = expected(rates[k]), slips(skills, obscure[k])
        incorrect = rate * np.where(graded[k], 1 - missed, missed)
        p[k] = incorrect / (incorrect + (1 - rate) * np.where(graded[k], invented, 1 - invented))
    spread = p * (1 - p)
    worth = np.maximum(np.sqrt(spread), 1e-6)
    chance = np.array(scaled(worth.ravel().tolist(), budget / questions * worth.shape[1])).reshape(worth.shape)
    pairs = np.var(wrong[1].astype(float) - wrong[0])
    labels = np.sum(np.mean(spread * (1 / chance - 1), axis=1))
    return 1.96 * math.sqrt((pairs + labels) / questions), 1.96 * math.sqrt(pairs / questions)


def study(rng, questions, rates, grader, budget):
    """Return the samples of baseline and variant, labelled as ``draw.py`` draws."""
    from warmeng.study.labelling.draw import ALIKE, scaled

    wrong, graded, guess, _ = answers(rng, questions, rates, grader)
    worth = np.sqrt(guess)
    chance = np.array(scaled(((1 - ALIKE) * worth / worth.mean() + ALIKE).ravel().tolist(), budget)).reshape(
        worth.shape
    )
    weight = np.where(rng.random(worth.shape) < chance, 1 / chance, 0.0)
    both = [sample(*(x[k].astype(float) for x in (wrong, graded)), weight[k]) for k in range(2)]
    return both, wrong, graded


def expected(rate: float) -> float:
    """Return the mean error rate over questions."""
    at, weight = np.polynomial.hermite_e.hermegauss(60)
    return float(weight @ expit(1.15 * math.log(rate / (1 - rate)) + at) / weight.sum())


def rogan_gladen(rng, wrong, graded, labels, draws):
    """Return the corrected difference's interval, by as many labels, drawn alike of each persona."""
    skills = []
    for k in range(2):
        at = rng.choice(wrong.shape[1], labels // 2, replace=False)
        w, g = wrong[k][at], graded[k][at]
        skills.append(Detection(int((w & g).sum()), int(w.sum()), int((~w & ~g).sum()), int((~w).sum())))
    one = np.ones(wrong.shape[1], dtype=np.int64)
    counts = [x.astype(np.int64) for x in graded]
    found = corrected_difference((counts[0], counts[1]), (one, one), (skills[0], skills[1]), draws=draws)
    return (math.inf, -math.inf) if found.low is None else (found.high / 100, found.low / 100)


# Questions, labels, error rates, grader, and whether the interval is at most half of Rogan and Gladen's.
CASES = [
    (300, 200, (0.2, 0.3), MIDDLING, True),
    *full(
        (300, 200, (0.2, 0.3), GOOD, False),
        (300, 200, (0.2, 0.3), FAIR, False),
        (300, 200, (0.2, 0.3), POOR, True),
        (300, 100, (0.2, 0.3), FAIR, False),
        (300, 100, (0.05, 0.08), FAIR, True),
        (100, 60, (0.2, 0.3), FAIR, True),
        (1000, 400, (0.2, 0.3), FAIR, False),
        (1000, 400, (0.2, 0.3), MIDDLING, True),
        # No difference, which the grader invents.
        (300, 200, (0.25, 0.25), SAME, False),
        (300, 200, (0.25, 0.25), MIDDLING, True),
    ),
]


@pytest.mark.parametrize(("questions", "budget", "rates", "grader", "halves"), CASES)
def test_intervals_cover_where_those_of_the_grades_do_not(questions, budget, rates, grader, halves, count) -> None:
    studies = count(150, 500, quick=60)
    rng = np.random.default_rng(budget + questions)
    true = expected(rates[1]) - expected(rates[0])
    covered = naive = rates_covered = hit = 0
    halfs, theirs, off, off_by_grades = [], [], [], []
    compared = count(20, 100, quick=10)
    for k in range(studies):
        (first, second), wrong, graded = study(rng, questions, rates, grader, budget)
        found = powered_difference(first, second)
        covered += found.low <= true <= found.high
        halfs.append((found.high - found.low) / 2)
        plain = graded_difference(first, second)
        naive += plain.low <= true <= plain.high
        one = powered_rate(second)
        rates_covered += one.low <= expected(rates[1]) <= one.high
        if k < compared:
            high, low = rogan_gladen(rng, wrong, graded, budget, draws=count(200, 1000))
            theirs.append((high - low) / 2 if high > low else math.inf)
            hit += low <= true <= high
        off.append(found.value - true)
        off_by_grades.append(plain.value - true)
    ratio = float(np.median(halfs) / np.median(theirs))
    least, whole = least_half_width(questions, budget, rates, grader)
    print(
        f"{questions} questions, {budget} labels, {rates}, {grader}: covered {covered / studies:.3f}, rate of the "
        f"variant {rates_covered / studies:.3f}, grades alone {naive / studies:.3f} "
        f"(bias {np.mean(off_by_grades):+.3f}), bias {np.mean(off):+.4f}, "
        f"half width {np.median(halfs):.3f}, Rogan-Gladen {np.median(theirs):.3f} "
        f"(covered {hit / compared:.2f}), ratio {ratio:.2f}; least {least:.3f}, ratio {least / np.median(theirs):.2f}, "
        f"all labelled {whole:.3f}, ratio {whole / np.median(theirs):.2f}"
    )
    slack = 3 * math.sqrt(0.95 * 0.05 / studies)
    assert 0.95 - slack <= covered / studies <= 0.95 + slack
    assert 0.94 - slack <= rates_covered / studies <= 0.95 + slack
    assert naive / studies < 0.92
    assert ratio < (0.55 if halves else 0.85)
    assert 0.95 * least < np.median(halfs) < 1.5 * least


def test_the_plan_says_about_what_a_study_shows(count) -> None:
    """Labels drawn alike; a quarter incorrect, a quarter of pairs differ, 90 % of grades right."""
    rng = np.random.default_rng(5)
    for questions, labels in ((200, 100), (600, 400)):
        halfs = []
        for _ in range(count(20, 100, quick=6)):
            # Pairs of which a quarter differ, either way.
            first = rng.random(questions) < 0.25
            turned = rng.random(questions) < np.where(first, 0.5, 0.5 / 3)
            both = []
            for wrong in (first, first ^ turned):
                graded = wrong ^ (rng.random(questions) < 0.1)
                chance = labels / 2 / questions
                weight = np.where(rng.random(questions) < chance, 1 / chance, 0.0)
                both.append(sample(wrong.astype(float), graded.astype(float), weight))
            found = powered_difference(*both)
            halfs.append(100 * (found.high - found.low) / 2)
        assert np.mean(halfs) == pytest.approx(half_width(questions, labels), rel=0.1)
    assert half_width(200, 400) == pytest.approx(196 * math.sqrt(0.25 / 200), rel=1e-3)
